package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// program is one invocation: its input and output, its arguments, and the
// environment that the user gave it. Commands take all of these from here and
// never from the process, which by then may run in a cleaned environment.
type program struct {
	in       *os.File
	out, err io.Writer
	args     []string
	env      []string
	cleaned  bool // this process was started anew with a clean environment
	slack    int  // of the timers before that, in nanoseconds; 0: unknown
}

// main runs the command line and returns the exit code.
func (p *program) main() int {
	err := p.restoreEnvironment()
	if err == nil {
		err = newRootCommand(p).Execute()
	}
	if err == nil {
		return 0
	}
	return p.report(err)
}

// getenv is the value of a variable in the user's environment, "" if unset.
func (p *program) getenv(name string) string {
	for i := len(p.env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(p.env[i], name+"="); ok {
			return value
		}
	}
	return ""
}

func newRootCommand(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:           "standin",
		Short:         "Run commands that hold placeholders instead of API keys",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetArgs(p.args)
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError("%w", err) })
	root.PersistentFlags().String("home", "", "keep everything under `DIR` (also $STANDIN_HOME)")
	root.SuggestionsMinimumDistance = 2
	for _, build := range commands {
		root.AddCommand(build(p))
	}
	return root
}

// commands lists the subcommands in the order of the help text.
var commands = []func(*program) *cobra.Command{
	newDemoCommand,
	newInitCommand,
	newRunCommand,
	newServeCommand,
	newEnvCommand,
	newSessionCommand,
	newVaultCommand,
	newRulesCommand,
	newAuditCommand,
	newVersionCommand,
	newUnwrapCommand,
	newDemoClientCommand,
}

const rootHelp = `Standin starts a command that holds placeholders instead of real API keys,
and swaps them for the real values on the wire: for the hosts, and at the
places, that the rules name. What comes back is scrubbed, every use is
recorded before it leaves, and the grant ends with the command.`

// noArguments refuses words that no command took, as wrong usage.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return &hinted{usageError("%w", err), fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+near[0])}
		}
		return usageError("%w", err)
	}
	return usageError("%q takes no arguments", cmd.CommandPath())
}

// exactly refuses any other number of arguments than the names say.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return usageError("%q takes %s", cmd.CommandPath(), strings.Join(names, " and "))
	}
}

// group makes a command that only holds others.
func group(use, short string, parts ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noArguments, RunE: func(cmd *cobra.Command, _ []string) error {
		return &hinted{usageError("%q needs a subcommand", cmd.CommandPath()), "see \"" + cmd.CommandPath() + " --help\""}
	}}
	cmd.AddCommand(parts...)
	return cmd
}

// codedError carries the exit code that an error ends with.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// exitError gives err an exit code. A nil err exits with the code and prints nothing.
func exitError(code int, err error) error {
	if err == nil {
		err = errQuiet
	}
	return &codedError{code, err}
}

// usageError is wrong usage: exit code 2.
func usageError(format string, args ...any) error {
	return &codedError{2, fmt.Errorf(format, args...)}
}

// errQuiet ends the program without a message: the exit code says it all.
var errQuiet = errors.New("")

// report prints what went wrong, and what to type, and returns the exit code.
func (p *program) report(err error) int {
	code := 1
	var coded *codedError
	if errors.As(err, &coded) {
		code = coded.code
	}
	if errors.Is(err, errQuiet) {
		return code
	}
	if faults := rulesFaults(err); len(faults) > 1 { // each with its own fix
		for _, f := range faults {
			p.report(f)
		}
		return code
	}
	fmt.Fprintf(p.err, "standin: error: %s\n", harmless(err.Error()))
	if h := hint(err); h != "" {
		fmt.Fprintf(p.err, "standin: hint: %s\n", harmless(h))
	}
	return code
}

// harmless shows control characters instead of sending them to the terminal.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || (r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f)) {
			return r
		}
		return '\uFFFD'
	}, s)
}
