package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"standin/grant"
	"standin/rules"
	"standin/rules/catalog"
	"standin/vault"
)

func newRulesCommand(p *program) *cobra.Command {
	cmd := group("rules", "Check, explain, write and trust the rules file",
		newRulesCheck(p), newRulesExplain(p), newRulesInit(p), newRulesTrust(p), newRulesPlaceholder(p))
	cmd.Long = `The rules file says which secret may stand where in requests to which host. It is
standin.yaml in the working directory or a folder above it, else that of the
home, else what --rules names. Each file must be trusted once, and after each change.`
	cmd.PersistentFlags().String("rules", "", "the rules `FILE` (else standin.yaml here or above, else that of the home)")
	return cmd
}

// rulesNamed is the file that --rules or the one argument of a command names.
func rulesNamed(cmd *cobra.Command, args []string) (string, error) {
	named, _ := cmd.Flags().GetString("rules")
	switch {
	case len(args) > 1:
		return "", usageError("%q takes one FILE at most", cmd.CommandPath())
	case len(args) == 1 && named != "":
		return "", usageError("%q: both FILE and --rules", cmd.CommandPath())
	case len(args) == 1:
		return args[0], nil
	}
	return named, nil
}

// onRules makes the body of a command that reads the rules first.
func (p *program) onRules(file func(*cobra.Command, []string) (string, error), body func(*cobra.Command, []string, home, *rules.Policy) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		h, err := p.home(cmd)
		if err != nil {
			return err
		}
		named, err := file(cmd, args)
		if err != nil {
			return err
		}
		pol, err := p.loadRules(h, named)
		if err != nil {
			return err
		}
		return body(cmd, args, h, pol)
	}
}

// flagOnly is for commands whose arguments are no files.
func flagOnly(cmd *cobra.Command, _ []string) (string, error) { return rulesNamed(cmd, nil) }

// checkedFile is what "rules check --json" prints.
type checkedFile struct {
	File    string         `json:"file,omitempty"`
	OK      bool           `json:"ok"`
	Hash    string         `json:"hash,omitempty"`
	Secrets int            `json:"secrets"`
	Rules   int            `json:"rules"`
	Notes   []string       `json:"notes"`
	Errors  []checkedFault `json:"errors"`
}

type checkedFault struct {
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

func newRulesCheck(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Read a rules file and name every fault",
		Args: func(cmd *cobra.Command, args []string) error {
			_, err := rulesNamed(cmd, args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			named, err := rulesNamed(cmd, args)
			if err != nil {
				return err
			}
			pol, err := p.loadRules(h, named)
			if err != nil {
				return p.tellFaults(err, asJSON)
			}
			return p.tellChecked(pol, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// tellFaults prints the faults of a file as JSON, or leaves them to report.
func (p *program) tellFaults(err error, asJSON bool) error {
	faults := rulesFaults(err)
	if asJSON {
		out := checkedFile{Notes: []string{}, Errors: []checkedFault{}}
		for _, f := range faults {
			out.File = f.File
			out.Errors = append(out.Errors, checkedFault{f.Line, f.Msg, f.Fix})
		}
		if len(faults) == 0 {
			out.Errors = append(out.Errors, checkedFault{Message: err.Error()})
		}
		if err := printJSON(p.out, out); err != nil {
			return err
		}
		return exitError(1, nil)
	}
	return err
}

// rulesFaults takes the faults of a rules file out of an error.
func rulesFaults(err error) (faults []*rules.Error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			faults = append(faults, rulesFaults(e)...)
		}
		return faults
	}
	if fault, ok := err.(*rules.Error); ok {
		return append(faults, fault)
	}
	if wrapped := errors.Unwrap(err); wrapped != nil {
		return rulesFaults(wrapped)
	}
	return nil
}

func (p *program) tellChecked(pol *rules.Policy, asJSON bool) error {
	notes := rulesNotes(pol, time.Now())
	if asJSON {
		return printJSON(p.out, checkedFile{File: pol.Path, OK: true, Hash: pol.Hash, Secrets: len(pol.Secrets), Rules: len(pol.Rules), Notes: notes, Errors: []checkedFault{}})
	}
	fmt.Fprintf(p.out, "%s: %s, %s\n", harmless(pol.Path), counted(len(pol.Secrets), "secret"), counted(len(pol.Rules), "rule"))
	for _, note := range notes {
		fmt.Fprintf(p.out, "note: %s\n", note)
	}
	return nil
}

func counted(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// rulesNotes says what is no fault, but may not be what was meant.
func rulesNotes(pol *rules.Policy, now time.Time) []string {
	notes := []string{}
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if pol.Empty && pol.Unmatched == rules.UnmatchedRefuse {
		note("there are no rules: nothing is granted, and every host is refused (unmatched: passthrough would let them pass)")
	} else if pol.Empty {
		note("there are no rules: nothing is granted")
	}
	used := map[string]bool{}
	for _, r := range pol.Rules {
		if r.Expired(now) {
			note("rule %q (line %d) has expired: what it would grant is refused", r.Name, r.Line)
		}
		for _, s := range r.Substitute {
			used[s.Secret] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pol.Profiles)) {
		if p := pol.Profiles[name]; p.Extends == "command" && p.Isolation != isolationTree && p.Isolation != isolationNetns {
			note("profile %q is for the command alone (extends: command): a run needs isolation tree or netns for it, and is refused without", name)
		}
	}
	for _, name := range secretNames(pol) {
		s := pol.Secrets[name]
		switch {
		case s.Deliver != rules.Wire:
			note("secret %q (line %d) is delivered: the command holds its real value", name, s.Line)
		case !used[name]:
			note("secret %q (line %d): no rule names it, so that its placeholder is of no use", name, s.Line)
		case len(s.Env) == 0:
			note("secret %q (line %d): no variable carries its placeholder", name, s.Line)
		}
	}
	return notes
}

func secretNames(pol *rules.Policy) []string {
	names := make([]string, 0, len(pol.Secrets))
	for name := range pol.Secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func newRulesInit(p *program) *cobra.Command {
	return &cobra.Command{
		Use:       "init SERVICE...",
		Short:     "Write a rules file for well-known services",
		Long:      "Write a rules file for well-known services, to --rules or into the home.\nServices: " + strings.Join(catalog.Names(), ", ") + ".",
		Example:   "  standin rules init github openai",
		ValidArgs: catalog.Names(),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &hinted{usageError("%q needs a SERVICE", cmd.CommandPath()), "there are " + strings.Join(catalog.Names(), ", ")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			path, _ := cmd.Flags().GetString("rules")
			if path == "" {
				path = filepath.Join(h.Config, rules.FileName)
			}
			if path, err = filepath.Abs(path); err != nil {
				return fmt.Errorf("write rules %q: %w", path, err)
			}
			pol, err := initRules(cmd.Context(), path, args)
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "wrote %s\n", harmless(path))
			for _, name := range secretNames(pol) {
				if value, ok := strings.CutPrefix(pol.Secrets[name].Source, "vault:"); ok {
					fmt.Fprintf(p.out, "  standin vault set %s\n", value)
				}
			}
			_, err = fmt.Fprintf(p.out, "  standin rules trust %s\n", harmless(shellWord(path)))
			return err
		},
	}
}

// initRules writes a rules file for services where there is none, and reads it.
func initRules(ctx context.Context, path string, services []string) (*rules.Policy, error) {
	text, err := catalog.File(services)
	if err != nil {
		return nil, &hinted{err, "there are " + strings.Join(catalog.Names(), ", ")}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("write rules: %w", err)
	}
	err = vault.WithLock(ctx, path, func() error {
		if _, err := os.Lstat(path); err == nil {
			return &hinted{fmt.Errorf("write rules %q: there is such a file", path), "edit it, or name another: --rules FILE"}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write rules: %w", err)
		}
		return vault.ReplaceFile(path, text)
	})
	if err != nil {
		return nil, err
	}
	return rules.Load(path)
}

func newRulesPlaceholder(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "placeholder NAME",
		Short: "Make a placeholder to be written into the rules file",
		Long: `Make a placeholder for a secret of the rules file, with its shape. Written into
the file, it stays the same on every machine: for configuration that is committed.`,
		Args: exactly("NAME"),
		RunE: p.onRules(flagOnly, func(_ *cobra.Command, args []string, _ home, pol *rules.Policy) error {
			secret := pol.Secrets[args[0]]
			if secret == nil {
				return &hinted{fmt.Errorf("make a placeholder: %s has no secret of that name", harmless(pol.Path)), "there are: " + strings.Join(secretNames(pol), ", ")}
			}
			if secret.Deliver != rules.Wire {
				return fmt.Errorf("make a placeholder: secret %q is delivered as it is, and has none", secret.Name)
			}
			text := grant.NewPlaceholder(secret.Shape)
			if asJSON {
				return printJSON(p.out, map[string]string{"secret": secret.Name, "placeholder": text})
			}
			_, err := fmt.Fprintf(p.out, "placeholder: %s\n", text)
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
