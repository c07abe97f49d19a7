package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"standin/launch"
	"standin/launch/peer"
)

func newEnvCommand(p *program) *cobra.Command {
	f := &runFlags{}
	var bound string
	cmd := &cobra.Command{
		Use:   "env [flags]",
		Short: "Print the exports of a new session, bound to the calling shell",
		Long: `Print the exports of a new session, bound to the calling shell: everything that the
shell starts is of the session, and the session ends with the shell.

    eval "$(standin env)"

The session is one of the gateway that --gateway names, or of the gateway that serves
this home if there is one ("standin serve"). Otherwise a gateway is started in the
background, for this session alone. Variables that carry credentials are unset.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bound != "" {
				return p.envGateway(cmd, f, bound)
			}
			return p.envOf(cmd, f)
		},
	}
	flags := cmd.Flags()
	sessionFlags(cmd, f)
	flags.Bool("json", false, "print JSON")
	flags.StringVar(&bound, "bound", "", "")
	flags.MarkHidden("bound")
	return cmd
}

// exports is what a shell sets, and no longer has, in a session.
type exports struct {
	Session string            `json:"session"`
	Gateway string            `json:"gateway"` // the socket
	Export  map[string]string `json:"export"`
	Unset   []string          `json:"unset"`
}

// exportsOf is what changes between the user's environment and the command's.
func exportsOf(session, socket string, user, env []string) exports {
	x := exports{Session: session, Gateway: socket, Export: map[string]string{}, Unset: []string{}}
	before, after := map[string]string{}, map[string]string{}
	for _, list := range []struct {
		entries []string
		into    map[string]string
	}{{user, before}, {env, after}} {
		for _, entry := range list.entries {
			if name, value, ok := strings.Cut(entry, "="); ok && isName(name) {
				list.into[name] = value
			}
		}
	}
	for name, value := range after {
		if old, ok := before[name]; !ok || old != value {
			x.Export[name] = value
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			x.Unset = append(x.Unset, name)
		}
	}
	slices.Sort(x.Unset)
	return x
}

// isName says whether a shell could set a variable of that name.
func isName(name string) bool {
	for i, c := range name {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// script is the exports as a shell of any kind takes them. Between single quotes
// nothing has a meaning.
func (x exports) script() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(x.Export)) {
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(x.Export[name], "'", `'\''`))
	}
	for _, name := range x.Unset {
		fmt.Fprintf(&b, "unset %s\n", name)
	}
	return b.String()
}

func (x exports) print(p *program, cmd *cobra.Command) error {
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		return printJSON(p.out, x)
	}
	_, err := io.WriteString(p.out, x.script())
	return err
}

// envOf prints the exports of a session of a serving gateway, or of a gateway that
// it starts for this.
func (p *program) envOf(cmd *cobra.Command, f *runFlags) error {
	if p.getenv(launch.SessionVariable) != "" && f.gateway == "" {
		f.gateway = p.getenv(launch.ControlVariable) // a part of that session, or refused
	}
	keepBrokenPipes()
	shell, err := peer.Shell()
	if err != nil {
		return fmt.Errorf("bind session to the shell: %w", err)
	}
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	if f.gateway == "" && f.rules == "" && f.log == "" && f.upstreamCA == "" && f.upstreamProxy == "" {
		f.gateway, _ = servingSocket(h)
	}
	if f.gateway == "" {
		return p.envStarted(cmd, shell)
	}
	r := &running{p: p, cmd: cmd, f: f, argv: []string{filepath.Base(shell.Exe)}, shell: processID{shell.PID, shell.Start}}
	if err := r.prepare(); err != nil {
		return err
	}
	s, err := r.openServed(cmd.Context())
	if err != nil {
		return err
	}
	served := s.(*servedSession)
	defer served.close()
	x, files, err := r.exports(s)
	if err == nil {
		if err = x.print(p, cmd); err == nil {
			return nil
		}
		err = errors.Join(err, files.Remove())
	}
	return errors.Join(err, newControlClient(f.gateway).revoke(served.answer.Outfit.Session)) // nobody knows of it
}

// exports dresses the shell.
func (r *running) exports(s session) (exports, *launch.Files, error) {
	o, err := s.outfit(r.p.env, r.extra.environ())
	if err != nil {
		return exports{}, nil, err
	}
	files, env, removed, err := o.dress(dressing{home: r.home, environ: r.p.env, extra: r.extra.environ(), socket: s.socket()})
	if err != nil {
		return exports{}, nil, err
	}
	if own, ok := s.(*ownSession); ok {
		own.removed(removed)
	}
	return exportsOf(o.Session, s.socket(), r.p.env, env), files, nil
}

// envStarted starts a gateway in the background and prints what it says. It is
// this program once more, which leaves the terminal when the session is open.
func (p *program) envStarted(cmd *cobra.Command, shell peer.Process) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start gateway: %w", err)
	}
	if err := keepOwnFiles(); err != nil {
		return fmt.Errorf("start gateway: %w", err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start gateway: %w", err)
	}
	defer out.Close()
	args := append([]string{os.Args[0]}, p.args...)
	child := &exec.Cmd{Path: self, Args: append(args, fmt.Sprintf("--bound=%d:%d", shell.PID, shell.Start)), Env: p.env, Stdin: p.in, Stdout: in, Stderr: os.Stderr}
	err = child.Start()
	in.Close()
	if err != nil {
		return fmt.Errorf("start gateway: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(out, 16<<20))
	var x exports
	if err == nil && json.Unmarshal(text, &x) == nil && x.Session != "" {
		if err := x.print(p, cmd); err != nil { // nobody knows of the session
			_ = child.Process.Signal(syscall.SIGTERM) // it may have ended
			_ = child.Wait()                          // what it had to say, it has said
			return err
		}
		return nil
	}
	var exit *exec.ExitError
	if errors.As(child.Wait(), &exit) {
		return exitError(exit.ExitCode(), nil) // it has said why
	}
	return errors.New("start gateway: it ended at once")
}

// envGateway is the gateway of one session, which lives as long as the shell.
func (p *program) envGateway(cmd *cobra.Command, f *runFlags, bound string) error {
	if err := p.cleanStart(besideProcessors()); err != nil {
		return err
	}
	if err := launch.Harden(); err != nil {
		return err
	}
	pace()
	var shell processID
	if _, err := fmt.Sscanf(bound, "%d:%d", &shell.PID, &shell.Start); err != nil || !slices.Contains(peer.Ancestors(os.Getpid()), shell.PID) {
		return usageError("--bound: not a shell above this process")
	}
	r := &running{p: p, cmd: cmd, f: f, argv: []string{filepath.Base(peer.Program(shell.PID))}}
	if err := r.prepare(); err != nil {
		return err
	}
	if r.room != nil {
		return errors.Join(errNoRoomForShells, r.room.close())
	}
	early := takeSignals(endingSignals)
	s, err := r.open(early.ctx)
	if err != nil {
		return err
	}
	own := s.(*ownSession)
	ended, err := own.bind(shell)
	if err != nil {
		_, closed := s.end("command did not start")
		return errors.Join(err, closed)
	}
	defer ended.Close()
	x, files, err := r.exports(s)
	if err == nil {
		err = json.NewEncoder(p.out).Encode(x)
	}
	if err == nil {
		err = leaveTerminal()
	}
	if err != nil {
		_, closed := s.end("command did not start")
		if files != nil {
			closed = errors.Join(closed, files.Remove())
		}
		return errors.Join(err, closed)
	}
	early.await(ended.Done())
	_, err = s.end(reasonShell)
	return errors.Join(err, files.Touch(0)) // what the shell left running is not below this process
}

// errNoRoomForShells says that a shell which runs already cannot be put elsewhere.
var errNoRoomForShells = &hinted{errors.New("isolate the shell: level \"netns\" is for commands that standin starts"), "standin run --isolation netns -- bash"}
