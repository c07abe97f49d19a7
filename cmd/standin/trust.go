package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"standin/rules"
	"standin/vault"
)

// untrustedError says that a rules file was never trusted, or not as it is now.
type untrustedError struct {
	Path    string
	Changed bool
}

func (e *untrustedError) Error() string {
	if e.Changed {
		return fmt.Sprintf("trust rules %q: they, or a file that they name, have changed since they were trusted", e.Path)
	}
	return fmt.Sprintf("trust rules %q: they have never been trusted", e.Path)
}

// trustRecord is what was trusted at one path: the hash over the file and all
// that it names, and what that granted, in words, to tell what changed.
type trustRecord struct {
	Path   string    `json:"path"`
	Hash   string    `json:"hash"`
	Time   time.Time `json:"time"`
	Grants []string  `json:"grants"`
}

// trustNote is the name under which the vault keeps the records. They lie there
// and not in a file of their own, so that nobody who cannot open the vault adds
// one, and none is brought back without bringing back the whole vault, which the
// log notices.
const trustNote = "rules-trust"

// trustRecords is the note, as JSON.
type trustRecords struct {
	Version int                    `json:"version"`
	Trusted map[string]trustRecord `json:"trusted"`
}

func parseTrust(note []byte) (*trustRecords, error) {
	f := &trustRecords{Version: 1, Trusted: map[string]trustRecord{}}
	if note == nil {
		return f, nil
	}
	if json.Unmarshal(note, f) != nil || f.Version != 1 || f.Trusted == nil {
		return nil, errors.New("read trust records: a newer standin wrote them")
	}
	return f, nil
}

// lastTrusted is the record for a path, or nil.
func lastTrusted(st *vault.Store, path string) (*trustRecord, error) {
	note, err := st.Note(trustNote)
	if err != nil {
		return nil, err
	}
	f, err := parseTrust(note)
	if err != nil {
		return nil, err
	}
	record, ok := f.Trusted[path]
	if !ok {
		return nil, nil
	}
	return &record, nil
}

// trusted returns nil if the rules are trusted as they were read, else an error
// that is an *untrustedError.
func trusted(st *vault.Store, pol *rules.Policy) error {
	record, err := lastTrusted(st, pol.Path)
	switch {
	case err != nil:
		return err
	case record == nil:
		return hintTrust(&untrustedError{Path: pol.Path})
	case record.Hash != pol.Hash:
		return hintTrust(&untrustedError{Path: pol.Path, Changed: true})
	}
	return nil
}

func hintTrust(err *untrustedError) error {
	return &hinted{err, "standin rules trust " + shellWord(err.Path)}
}

// shellWord writes a path so that it can be pasted into a shell.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// trust records that the rules, as they were read, are trusted.
func trust(st *vault.Store, pol *rules.Policy) error {
	return st.KeepNote(trustNote, func(old []byte) ([]byte, error) {
		f, err := parseTrust(old)
		if err != nil {
			return nil, err
		}
		f.Trusted[pol.Path] = trustRecord{Path: pol.Path, Hash: pol.Hash, Time: time.Now().UTC().Truncate(time.Second), Grants: grantsOf(pol)}
		return json.Marshal(f)
	})
}

func newRulesTrust(p *program) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "trust [FILE]",
		Short: "Show what a rules file grants, and trust it as it is now",
		Long: `Show what a rules file grants, and what changed since it was last trusted, and
trust it as it is now, with every file that it names. The vault is opened for it,
so that a command which edits the rules cannot widen its own grants.`,
		Args: func(cmd *cobra.Command, args []string) error {
			_, err := rulesNamed(cmd, args)
			return err
		},
		RunE: p.onRules(rulesNamed, func(cmd *cobra.Command, _ []string, h home, pol *rules.Policy) error {
			store, err := p.openVault(cmd, h)
			if err != nil {
				return err
			}
			last, err := lastTrusted(store, pol.Path)
			if err != nil {
				return err
			}
			if last != nil && last.Hash == pol.Hash {
				_, err := fmt.Fprintf(p.out, "%s is trusted as it is\n", harmless(pol.Path))
				return err
			}
			fmt.Fprint(p.out, trustText(pol, last))
			if !yes {
				if err := p.confirm("Trust it? [y/N] "); err != nil {
					return err
				}
			}
			if err := trust(store, pol); err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.out, "trusted %s\n", harmless(pol.Path))
			return err
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	passphraseFlag(cmd)
	return cmd
}

// trustText shows what a file grants: whole the first time, then what is new
// and what is gone.
func trustText(pol *rules.Policy, last *trustRecord) string {
	var b strings.Builder
	now := grantsOf(pol)
	if last == nil {
		fmt.Fprintf(&b, "%s grants:\n", pol.Path)
		for _, line := range now {
			fmt.Fprintf(&b, "  %s\n", line)
		}
		return harmless(b.String())
	}
	fmt.Fprintf(&b, "%s has changed since %s:\n", pol.Path, last.Time.Local().Format(time.DateTime))
	changes := 0
	for _, line := range last.Grants {
		if !slices.Contains(now, line) {
			fmt.Fprintf(&b, "- %s\n", line)
			changes++
		}
	}
	for _, line := range now {
		if !slices.Contains(last.Grants, line) {
			fmt.Fprintf(&b, "+ %s\n", line)
			changes++
		}
	}
	if changes == 0 {
		b.WriteString("  it grants the same as before\n")
	}
	return harmless(b.String())
}

// errDeclined ends a command that was not confirmed.
var errDeclined = errors.New("trust rules: not confirmed, nothing is changed")

// confirm asks a question on the terminal. Anything but yes is an error.
func (p *program) confirm(question string) error {
	if !term.IsTerminal(int(p.in.Fd())) {
		return &hinted{errors.New("trust rules: there is no terminal to ask at"), "read what is shown, then: standin rules trust --yes"}
	}
	fmt.Fprint(p.err, question)
	line, err := bufio.NewReader(io.LimitReader(p.in, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errDeclined
	}
	return nil
}
