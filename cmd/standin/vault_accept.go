package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"standin/audit"
)

func newVaultAccept(p *program) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "accept",
		Short: "Accept a backup of the vault that the audit log knows to be old",
		Long: `The audit log counts the writes to the vault. A vault that counts fewer than the
log has seen is an older copy, which brings back old values and old trust in rules
files, and nothing opens it. If you put a backup back on purpose, this accepts it:
on the record, with the reason.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reason == "" {
				return usageError("--reason is needed: it will stand in the record")
			}
			return p.vaultAccept(cmd, reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why: it is recorded (required)")
	passphraseFlag(cmd)
	return cmd
}

func (p *program) vaultAccept(cmd *cobra.Command, reason string) error {
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	store, err := p.openVaultAsItIs(cmd, h)
	if err != nil {
		return err
	}
	seen, err := audit.SeenVaultWrites(h.Audit(), store.Key(auditKey))
	if err != nil {
		return err
	}
	have, err := store.Refresh()
	if err != nil {
		return err
	}
	if have >= seen {
		_, err := fmt.Fprintf(p.out, "nothing to accept: the vault (write %d) is not older than the log has seen it (write %d)\n", have, seen)
		return err
	}
	// The record comes first. Until the vault has the number that stands there it
	// is still refused, so an end in between leaves nothing open.
	config := auditConfig(store)
	config.Reason = fmt.Sprintf("older vault accepted (write %d, after write %d was seen): %s", have, seen, reason)
	config.VaultWrites = func() (uint64, error) { return seen + 1, nil }
	record, err := audit.Open(h.Audit(), auditKeys(store), config)
	if err != nil {
		return err
	}
	if err := errors.Join(store.Renumber(seen+1), record.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "accepted the vault of write %d, as write %d\n", have, seen+1)
	return err
}
