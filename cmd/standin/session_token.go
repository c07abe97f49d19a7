package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newTokenCommand(p *program) *cobra.Command {
	var gateway string
	var a asked
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a one-time token that opens one session at the serving gateway",
		Long: `Make a token that opens one session at the serving gateway, once, within ten
minutes or --ttl: for a container or an orchestrator that cannot open the vault.
Hand it over by a file or a pipe ("standin run --gateway SOCKET --token-file FILE")
or in $STANDIN_TOKEN; it is in the gateway's memory and nowhere else. The grants of
its session end when --ttl, counted from now, is over.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			if gateway == "" {
				gateway = filepath.Join(socketDir(h), serveSocket+".sock")
			}
			store, err := p.openVault(cmd, h)
			if err != nil {
				return err
			}
			c, err := call(gateway, byVault(store))
			if err != nil {
				return err
			}
			defer c.Close()
			answer, err := ask(c, openingRequest{Do: "token", asked: a})
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return printJSON(p.out, map[string]string{"token": answer.Token, "gateway": gateway})
			}
			_, err = fmt.Fprintln(p.out, answer.Token)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&gateway, "gateway", "", "the `SOCKET` of the gateway (else that of this home)")
	flags.StringVar(&a.Profile, "profile", "", "the profile `NAME` of the gateway's rules")
	flags.StringArrayVar(&a.Secrets, "secret", nil, "grant only the secret `NAME` of the profile (repeatable)")
	flags.Var((*ttlFlag)(&a.TTL), "ttl", "end the grants after this `TIME`, counted from now, at most the profile's")
	flags.Bool("json", false, "print JSON")
	passphraseFlag(cmd)
	return cmd
}
