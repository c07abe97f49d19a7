package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"standin/audit"
	"standin/vault"
)

// vaultStatus is what "vault status --json" prints. What only an opened vault
// shows is missing where it was not opened.
type vaultStatus struct {
	Vault        string     `json:"vault"`
	Identity     string     `json:"identity"`
	IdentityFile string     `json:"identity_file,omitempty"`
	Opened       bool       `json:"opened"`
	Unlocked     bool       `json:"unlocked"` // by "vault unlock"
	Until        *time.Time `json:"unlocked_until,omitempty"`
	Secrets      *int       `json:"secrets,omitempty"`
	Writes       uint64     `json:"writes,omitempty"`
	Seen         uint64     `json:"seen_by_log,omitempty"` // more than Writes: it is an older copy
	Created      *time.Time `json:"created,omitempty"`
	Recovery     string     `json:"recovery_recipient,omitempty"`
}

func newVaultStatus(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say where the vault is, how it is kept, and whether it is sound",
		Long: `Say where the vault is, how its identity is kept, and whether it is sound. It is
opened if that needs no question: it is unlocked, or --passphrase-file is given.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := p.vaultStatus(cmd)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(p.out, status)
			}
			return status.print(p)
		},
	}
	passphraseFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) vaultStatus(cmd *cobra.Command) (*vaultStatus, error) {
	h, err := p.home(cmd)
	if err != nil {
		return nil, err
	}
	info, err := vault.Inspect(h.Vault())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(h.Vault(), "vault.age")
	status := &vaultStatus{Vault: path, Identity: info.Kept, IdentityFile: info.IdentityFile}
	open := func() (*vault.Store, error) { return p.openVaultAsItIs(cmd, h) }
	if info.Kept == "passphrase" && p.passphraseFile(cmd) == "" {
		open = func() (*vault.Store, error) { return status.openUnlocked(h) }
	}
	store, err := open()
	if errors.Is(err, vault.ErrPassphrase) && p.passphraseFile(cmd) == "" {
		_, err := vault.ReadPrivate(path) // owner and mode are looked at all the same
		return status, err
	}
	if err != nil {
		return nil, err
	}
	entries, err := store.List()
	if err != nil {
		return nil, err
	}
	count, created := len(entries), store.Created()
	status.Opened, status.Secrets, status.Created = true, &count, &created
	status.Recovery = store.RecoveryRecipient()
	if status.Seen, err = audit.SeenVaultWrites(h.Audit(), store.Key(auditKey)); err != nil {
		return nil, err
	}
	status.Writes, err = store.Refresh()
	return status, err
}

// openUnlocked opens a vault if the kernel holds its identity, and asks nobody.
func (s *vaultStatus) openUnlocked(h home) (*vault.Store, error) {
	return vault.Open(h.Vault(), vault.Unlock{Held: func(id string) []byte {
		identity := heldIdentity(id)
		if s.Unlocked = identity != nil; s.Unlocked {
			if until := heldUntil(id); !until.IsZero() {
				s.Until = &until
			}
		}
		return identity
	}})
}

func (s *vaultStatus) print(p *program) error {
	kept := map[string]string{"passphrase": "wrapped by a passphrase", "keyring": "in the keyring of the system",
		"file": "in " + harmless(s.IdentityFile)}
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "vault\t%s\n", harmless(s.Vault))
	fmt.Fprintf(table, "identity\t%s\n", kept[s.Identity])
	if s.Unlocked {
		until := ""
		if s.Until != nil {
			until = " until " + s.Until.Local().Format(time.DateTime)
		}
		fmt.Fprintf(table, "unlocked\tby \"standin vault unlock\"%s; standin vault lock ends it\n", until)
	}
	if !s.Opened {
		fmt.Fprintf(table, "content\tnot looked at: standin vault status --passphrase-file FILE\n")
		return table.Flush()
	}
	fmt.Fprintf(table, "content\tsound; secrets: %d, writes: %d, made %s\n", *s.Secrets, s.Writes, s.Created.Local().Format(time.DateTime))
	if s.Writes < s.Seen {
		fmt.Fprintf(table, "AN OLDER COPY\tthe audit log has seen write %d: standin vault accept --help\n", s.Seen)
	}
	fmt.Fprintf(table, "audit log\tsealed to %s\n", s.Recovery)
	return table.Flush()
}
