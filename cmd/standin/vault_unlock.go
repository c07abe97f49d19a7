package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"standin/vault"
)

// errNoKernelKeyring says that the kernel keeps no keys for this process.
var errNoKernelKeyring = errors.New("keep identity in the kernel's keyring: this system does not allow it (only Linux has one, and containers often forbid it)")

// Bounds of --for.
const (
	shortestUnlock = time.Second
	longestUnlock  = 30 * 24 * time.Hour
)

func newVaultUnlock(p *program) *cobra.Command {
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Keep the vault open for the next commands, for a while",
		Long: `Keep the identity of the vault in the kernel's keyring (that of the login session if
there is one, else the user's), so that the next commands do not ask for the
passphrase. It is never on a disk, and the kernel drops it when the time is over.
Until then every process of yours can open the vault, a command that "standin run"
starts included, unless it is isolated by netns.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if life < shortestUnlock || life > longestUnlock {
				return usageError("--for %v: it takes a second to 30 days, such as 8h", life)
			}
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			id, identity, err := vault.Unwrapped(h.Vault(), p.unlocking(cmd))
			if err != nil {
				return err
			}
			if id == "" {
				_, err := fmt.Fprintln(p.out, "nothing to unlock: the identity of this vault is not wrapped by a passphrase")
				return err
			}
			if err := holdIdentity(id, identity.Reveal(), life); err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.out, "unlocked until %s\n", time.Now().Add(life).Format(time.DateTime))
			return err
		},
	}
	cmd.Flags().DurationVar(&life, "for", 8*time.Hour, "forget it after this `TIME`")
	passphraseFlag(cmd)
	return cmd
}

func newVaultLock(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "lock",
		Short: "Forget what \"vault unlock\" keeps",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			id, err := vault.WrappedID(h.Vault())
			if err != nil {
				return err
			}
			said := "it was not unlocked"
			if id != "" && dropIdentity(id) {
				said = "locked"
			}
			_, err = fmt.Fprintln(p.out, said)
			return err
		},
	}
}
