package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"standin/rules"
	"standin/rules/catalog"
	"standin/vault"
)

func newInitCommand(p *program) *cobra.Command {
	o := &vaultInit{}
	cmd := &cobra.Command{
		Use:   "init [SERVICE...]",
		Short: "Make vault and rules, and trust them, in one go",
		Long: `Make the vault, a rules file for well-known services, and trust it. What is there
already stays as it is. It ends with one command that proves it.
Services: ` + strings.Join(catalog.Names(), ", ") + `.`,
		Example:   "  standin init github openai",
		ValidArgs: catalog.Names(),
		Args:      cobra.ArbitraryArgs,
		RunE:      func(cmd *cobra.Command, args []string) error { return p.initialize(cmd, o, args) },
	}
	passphraseFlag(cmd)
	cmd.Flags().BoolVar(&o.keyring, "keyring", false, "keep the identity in the keyring of the system")
	cmd.Flags().StringVar(&o.identityFile, "identity-file", "", "keep the identity in `FILE`: made if it is missing, else an age identity")
	cmd.Flags().StringVar(&o.recoveryOut, "recovery-key-out", "", "write the recovery key to the new `FILE` instead of printing it")
	return cmd
}

// initialize makes what is missing. The services are checked before anything is.
func (p *program) initialize(cmd *cobra.Command, o *vaultInit, services []string) error {
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	if _, err := catalog.File(services); len(services) > 0 && err != nil {
		return &hinted{err, "there are " + strings.Join(catalog.Names(), ", ")}
	}
	var missing *vault.MissingError
	if _, err := vault.Inspect(h.Vault()); errors.As(err, &missing) {
		if err := o.run(p, cmd); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	policy, err := p.initialRules(cmd.Context(), h, services)
	if err != nil {
		return err
	}
	store, err := p.openVault(cmd, h)
	if err != nil {
		return err
	}
	if trusted(store, policy) != nil {
		if err := trust(store, policy); err != nil {
			return err
		}
		fmt.Fprintf(p.out, "trusted %s, which was just made\n", harmless(policy.Path))
	}
	return p.tellNext(store, policy)
}

// initialRules writes the rules of the home. A file that is there is not
// touched, and is trusted only by "rules trust", which shows what it grants.
func (p *program) initialRules(ctx context.Context, h home, services []string) (*rules.Policy, error) {
	path := filepath.Join(h.Config, rules.FileName)
	switch _, err := os.Lstat(path); {
	case err == nil && len(services) > 0:
		return nil, &hinted{fmt.Errorf("write rules %q: there is such a file", path),
			"standin rules init --rules FILE " + strings.Join(services, " ") + ", and copy from it what you need"}
	case err == nil:
		return nil, &hinted{fmt.Errorf("write rules %q: there is such a file", path), "standin rules trust " + shellWord(path)}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("write rules: %w", err)
	}
	if len(services) == 0 {
		services = []string{"github"}
	}
	policy, err := initRules(ctx, path, services)
	if err == nil {
		fmt.Fprintf(p.out, "wrote %s for %s\n", harmless(path), strings.Join(services, ", "))
	}
	return policy, err
}

// tellNext says what is left to do, and ends with the command that proves it.
func (p *program) tellNext(store *vault.Store, policy *rules.Policy) error {
	entries, err := store.List()
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, e := range entries {
		kept[e.Name] = true
	}
	fmt.Fprintln(p.out, "\nGive each secret its value (asked for, or from a pipe):")
	for _, name := range secretNames(policy) {
		if value, ok := strings.CutPrefix(policy.Secrets[name].Source, "vault:"); ok && !kept[value] {
			fmt.Fprintf(p.out, "  standin vault set %s\n", value)
		}
	}
	for _, rule := range policy.Rules {
		if url, variable := provable(policy, rule); url != "" {
			_, err := fmt.Fprintf(p.out, "\nThen prove it: the command holds a placeholder, the server gets the value:\n  standin run -- sh -c 'echo $%s; curl -sS -i %s -H \"Authorization: Bearer $%s\"'\n", variable, url, variable)
			return err
		}
	}
	_, err = fmt.Fprintln(p.out, "\nThen prove it:\n  standin run -- env")
	return err
}

// provable is a URL at which a rule's secret stands in the Authorization header,
// and the variable that carries it.
func provable(policy *rules.Policy, rule *rules.Rule) (url, variable string) {
	for _, sub := range rule.Substitute {
		secret := policy.Secrets[sub.Secret]
		for _, at := range sub.In {
			if at == (rules.Surface{Kind: rules.Header, Name: "Authorization"}) && len(secret.Env) > 0 && !rule.Hosts[0].Wildcard {
				return "https://" + rule.Hosts[0].Name + "/user", secret.Env[0]
			}
		}
	}
	return "", ""
}
