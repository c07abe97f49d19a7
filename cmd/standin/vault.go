package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"standin/vault"
)

func newVaultCommand(p *program) *cobra.Command {
	cmd := group("vault", "Keep the real values, encrypted",
		newVaultInit(p), newVaultSet(p), newVaultList(p), newVaultRemove(p), newVaultRotate(p), newVaultImport(p), newVaultStatus(p), newVaultAccept(p), newVaultUnlock(p), newVaultLock(p))
	cmd.Long = `The vault keeps the real values, encrypted, on this machine. Values come in by
a prompt or a pipe, never as an argument, and there is no command that shows one.`
	return cmd
}

// onVault makes the body of a command that opens the vault first: nobody should
// type a value twice to learn that the passphrase was wrong.
func (p *program) onVault(body func(*cobra.Command, []string, *vault.Store) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		h, err := p.home(cmd)
		if err != nil {
			return err
		}
		store, err := p.openVault(cmd, h)
		if err != nil {
			return err
		}
		return body(cmd, args, store)
	}
}

// secretNamed refuses a name that cannot be one, before anything is opened or
// asked. It is not shown: who gives a value by mistake must not see it again.
func secretNamed(cmd *cobra.Command, args []string) error {
	err := exactly("NAME")(cmd, args)
	if err == nil {
		if err = vault.CheckName(args[0]); err == nil {
			return nil
		}
		err = usageError("%w", err)
	}
	return &hinted{err, "a name is like github/token; a value is asked for, or read from a pipe"}
}

func newVaultSet(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Keep a value under a name",
		Long: `Keep a value under a name, in place of the one that may be there. The value is
asked for twice, or read whole from a pipe (one newline at its end is dropped).`,
		Example: "  standin vault set github/token\n  gh auth token | standin vault set github/token",
		Args:    secretNamed,
		RunE: p.onVault(func(_ *cobra.Command, args []string, store *vault.Store) error {
			value, err := p.readValue(args[0])
			if err != nil {
				return err
			}
			if err := store.Set(args[0], value); err != nil {
				return err
			}
			return p.tellVersion("set", args[0], store)
		}),
	}
	passphraseFlag(cmd)
	return cmd
}

func newVaultRotate(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Put a new value in place of an old one",
		Long: `Put a new value in place of an old one. Running sessions use it within a second;
requests on their way end with the old one.`,
		Args: secretNamed,
		RunE: p.onVault(func(_ *cobra.Command, args []string, store *vault.Store) error {
			if _, _, err := store.Secret(args[0]); err != nil {
				return err
			}
			value, err := p.readValue(args[0])
			if err != nil {
				return err
			}
			if err := store.Rotate(args[0], value); err != nil {
				return err
			}
			return p.tellVersion("rotated", args[0], store)
		}),
	}
	passphraseFlag(cmd)
	return cmd
}

func (p *program) tellVersion(done, name string, store *vault.Store) error {
	_, version, err := store.Secret(name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s %s (version %s)\n", done, name, version)
	return err
}

func newVaultRemove(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a value",
		Args:  secretNamed,
		RunE: p.onVault(func(_ *cobra.Command, args []string, store *vault.Store) error {
			if err := store.Remove(args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.out, "removed %s\n", args[0])
			return err
		}),
	}
	passphraseFlag(cmd)
	return cmd
}

// listedSecret is one element of "vault list --json".
type listedSecret struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

func newVaultList(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the names, never the values",
		Args:  noArguments,
		RunE: p.onVault(func(_ *cobra.Command, _ []string, store *vault.Store) error {
			entries, err := store.List()
			if err != nil {
				return err
			}
			if asJSON {
				list := make([]listedSecret, 0, len(entries))
				for _, e := range entries {
					list = append(list, listedSecret(e))
				}
				return printJSON(p.out, list)
			}
			if len(entries) == 0 {
				fmt.Fprintln(p.err, "standin: hint: the vault is empty: standin vault set NAME")
				return nil
			}
			table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "NAME\tVERSION\tUPDATED")
			for _, e := range entries {
				fmt.Fprintf(table, "%s\t%s\t%s\n", e.Name, e.Version, e.Updated.Local().Format(time.DateTime))
			}
			return table.Flush()
		}),
	}
	passphraseFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
