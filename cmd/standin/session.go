package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// unknownSessionError says that no live gateway of this home has the session.
type unknownSessionError struct{ ID string }

func (e *unknownSessionError) Error() string {
	return fmt.Sprintf("find session %q: no live gateway of this home has it", e.ID)
}

func newSessionCommand(p *program) *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the sessions of this home's gateways: live, revoked, expired, ended", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.sessionList(cmd) }}
	show := &cobra.Command{Use: "show ID", Short: "Show one session: grants, uses, alarms, removed variables", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.sessionShow(cmd, args[0]) }}
	revoke := &cobra.Command{Use: "revoke ID", Short: "End a session's grants and cut its connections", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.sessionRevoke(cmd, args[0]) }}
	for _, c := range []*cobra.Command{list, show} {
		c.Flags().Bool("json", false, "print JSON")
	}
	return group("session", "List, show and revoke sessions; make a token that opens one", list, show, revoke, newTokenCommand(p))
}

// liveSession is a session and the gateway that has it.
type liveSession struct {
	sessionView
	gateway *controlClient
}

// state says whether the session lives, or why it does not.
func (s sessionView) state() string {
	if s.Ended == "" {
		return "live"
	}
	return harmless(s.Ended)
}

// liveSessions asks every gateway of the home. A socket that nobody answers is
// what a killed gateway left behind.
func (p *program) liveSessions(cmd *cobra.Command) ([]liveSession, error) {
	h, err := p.home(cmd)
	if err != nil {
		return nil, err
	}
	gateways, err := survey(h, func(string, int) bool { return false })
	if err != nil {
		return nil, err
	}
	all := []liveSession{}
	for _, a := range gateways {
		for _, v := range a.views {
			all = append(all, liveSession{v, a.gateway})
		}
	}
	return all, nil
}

func (p *program) findSession(cmd *cobra.Command, id string) (liveSession, error) {
	all, err := p.liveSessions(cmd)
	if err != nil {
		return liveSession{}, err
	}
	for _, s := range all {
		if s.ID == id {
			return s, nil
		}
	}
	return liveSession{}, &unknownSessionError{id}
}

func (p *program) sessionList(cmd *cobra.Command) error {
	all, err := p.liveSessions(cmd)
	if err != nil {
		return err
	}
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		return printJSON(p.out, all)
	}
	table := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "SESSION\tPROFILE\tISOLATION\tCOMMAND\tPID\tSECRETS\tENDS\tSTATE")
	for _, s := range all {
		var names []string
		for _, g := range s.Grants {
			names = append(names, g.how())
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", s.ID, s.Profile, s.Isolation, harmless(s.Command), s.PID, strings.Join(names, ","), s.Expires.Format(time.DateTime), s.state())
	}
	return table.Flush()
}

func (p *program) sessionShow(cmd *cobra.Command, id string) error {
	s, err := p.findSession(cmd, id)
	if err != nil {
		return err
	}
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		return printJSON(p.out, s)
	}
	fmt.Fprintf(p.out, "session    %s\nprofile    %s\nisolation  %s\ncommand    %s (pid %d)\nopened     %s\nends       %s\nstate      %s\ntunnels    %d\nalarms     %d\n",
		s.ID, s.Profile, s.Isolation, harmless(s.Command), s.PID, s.Opened.Format(time.DateTime), s.Expires.Format(time.DateTime), s.state(), s.Tunnels, s.Alarms)
	for _, g := range s.Grants {
		left := "no limit"
		if g.Left >= 0 {
			left = fmt.Sprint(g.Left)
		}
		if g.Delivered != "" {
			handed := "handed to the command by " + g.Delivered
			if g.Narrowed {
				handed += "; taken back, but what it was handed it keeps"
			}
			fmt.Fprintf(p.out, "grant      %s: %s\n", g.Secret, handed)
			continue
		}
		fmt.Fprintf(p.out, "grant      %s: used %d, left %s, misplaced %d\n", g.Secret, g.Used, left, g.Misplaced)
	}
	if len(s.SelfTest) > 0 {
		fmt.Fprintf(p.out, "self-test  passed: %s\nhidden     sockets of other programs: %d\n", strings.Join(s.SelfTest, ", "), len(s.Hidden))
	}
	for _, open := range s.Open {
		fmt.Fprintf(p.out, "open       %s\n", harmless(open))
	}
	if len(s.Removed) > 0 {
		fmt.Fprintf(p.out, "removed    %s\n", harmless(strings.Join(s.Removed, " ")))
	}
	return nil
}

func (p *program) sessionRevoke(cmd *cobra.Command, id string) error {
	s, err := p.findSession(cmd, id)
	if err != nil {
		return err
	}
	if err := s.gateway.revoke(id); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "revoked %s\n", id)
	return err
}
