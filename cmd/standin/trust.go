package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
// that it names, and what that granted, in words, to tell what changed. MAC is
// under a key of the vault, so that nobody who cannot open it adds a record.
type trustRecord struct {
	Path   string    `json:"path"`
	Hash   string    `json:"hash"`
	Time   time.Time `json:"time"`
	Grants []string  `json:"grants"`
	MAC    string    `json:"mac,omitempty"`
}

func (r trustRecord) mac(key []byte) string {
	r.MAC = ""
	text, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))
}

func (r trustRecord) genuine(key []byte, path string) bool {
	want := r.mac(key)
	return want != "" && r.Path == path && hmac.Equal([]byte(want), []byte(r.MAC))
}

// trustFile is trust.json.
type trustFile struct {
	Version int                    `json:"version"`
	Trusted map[string]trustRecord `json:"trusted"`
}

func readTrust(h home) (*trustFile, error) {
	f := &trustFile{Version: 1, Trusted: map[string]trustRecord{}}
	data, err := vault.ReadPrivate(h.Trust())
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(data, f) != nil || f.Version < 1 {
		return nil, &hinted{fmt.Errorf("read trust records %q: malformed", h.Trust()), "move it away, and trust each rules file again: standin rules trust"}
	}
	if f.Version > 1 {
		return nil, fmt.Errorf("read trust records %q: written by a newer standin", h.Trust())
	}
	if f.Trusted == nil {
		f.Trusted = map[string]trustRecord{}
	}
	return f, nil
}

func trustKey(st *vault.Store) []byte { return st.Key("rules-trust") }

// lastTrusted is the genuine record for a path, or nil.
func lastTrusted(st *vault.Store, h home, path string) (*trustRecord, error) {
	f, err := readTrust(h)
	if err != nil {
		return nil, err
	}
	record, ok := f.Trusted[path]
	if !ok || !record.genuine(trustKey(st), path) {
		return nil, nil
	}
	return &record, nil
}

// trusted returns nil if the rules are trusted as they were read, else an error
// that is an *untrustedError.
func trusted(st *vault.Store, h home, pol *rules.Policy) error {
	record, err := lastTrusted(st, h, pol.Path)
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
func trust(ctx context.Context, st *vault.Store, h home, pol *rules.Policy) error {
	return vault.WithLock(ctx, h.Trust(), func() error {
		f, err := readTrust(h)
		if err != nil {
			return err
		}
		record := trustRecord{Path: pol.Path, Hash: pol.Hash, Time: time.Now().UTC().Truncate(time.Second), Grants: grantsOf(pol)}
		record.MAC = record.mac(trustKey(st))
		f.Trusted[pol.Path] = record
		text, err := json.MarshalIndent(f, "", "  ")
		if err != nil {
			return fmt.Errorf("write trust records: %w", err)
		}
		return vault.ReplaceFile(h.Trust(), append(text, '\n'))
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
			last, err := lastTrusted(store, h, pol.Path)
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
			if err := trust(cmd.Context(), store, h, pol); err != nil {
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
