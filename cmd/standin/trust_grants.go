package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"standin/rules"
)

// grantsOf says in words, a line for each part, all of a policy that matters for
// what it lets happen. Two policies with the same lines do the same.
func grantsOf(pol *rules.Policy) []string {
	lines := []string{}
	for _, name := range secretNames(pol) {
		lines = append(lines, secretLine(pol.Secrets[name]))
	}
	for _, r := range pol.Rules {
		lines = append(lines, ruleLine(r))
	}
	for _, name := range slices.Sorted(maps.Keys(pol.Sources)) {
		lines = append(lines, sourceLine(pol.Sources[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(pol.Upstreams)) {
		lines = append(lines, upstreamLine(name, pol.Upstreams[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(pol.Profiles)) {
		lines = append(lines, profileLine(pol.Profiles[name]))
	}
	for _, f := range pol.Files {
		lines = append(lines, fmt.Sprintf("file %s: content %s", f.Path, f.Hash[:16]))
	}
	if pol.Unmatched == rules.UnmatchedRefuse {
		return append(lines, "hosts that no rule names: refused")
	}
	return append(lines, "hosts that no rule names: relayed unopened")
}

// sentence joins the parts of a line; "" is left out.
func sentence(head string, parts ...string) string {
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	if len(parts) == 0 {
		return head
	}
	return head + ": " + strings.Join(parts, "; ")
}

// when is text if the condition holds.
func when(condition bool, text string, args ...any) string {
	if !condition {
		return ""
	}
	return fmt.Sprintf(text, args...)
}

func secretLine(s *rules.Secret) string {
	variables := ""
	if len(s.Env) > 0 {
		variables = "$" + strings.Join(s.Env, ", $")
	}
	carries := when(variables != "", "placeholder in %s", variables)
	switch s.Deliver {
	case rules.Env:
		carries = "REAL VALUE in " + variables
	case rules.File:
		carries = "REAL VALUE in a file named by " + variables
	}
	return sentence("secret "+s.Name, "from "+s.Source, carries, when(s.Shape != "", "shape %s", s.Shape),
		when(s.Placeholder != "", "placeholder %s", s.Placeholder), when(s.MinLength > 0, "at least %d bytes", s.MinLength))
}

func ruleLine(r *rules.Rule) string {
	hosts := make([]string, 0, len(r.Hosts))
	for _, h := range r.Hosts {
		hosts = append(hosts, h.String())
	}
	paths := make([]string, 0, len(r.Paths))
	for _, path := range r.Paths {
		paths = append(paths, path.String())
	}
	parts := []string{
		"at " + strings.Join(hosts, ", "),
		strings.Join(r.Methods, " "),
		strings.Join(paths, ", "),
		when(r.Scheme == "http", "IN THE CLEAR (http)"),
		when(r.Passthrough, "relayed unopened"),
		when(r.Raw, "also what is not TLS"),
		when(r.Deny, "refused"),
		when(r.Reason != "", "reason: %s", r.Reason),
	}
	for _, s := range r.Substitute {
		places := make([]string, 0, len(s.In))
		for _, in := range s.In {
			places = append(places, in.String())
		}
		parts = append(parts, fmt.Sprintf("secret %s in %s", s.Secret, strings.Join(places, ", ")))
	}
	parts = append(parts,
		when(!r.Passthrough && !r.Deny && len(r.Substitute) == 0, "no secret"),
		when(r.WebSocket, "WebSocket"),
		when(r.Scrub == rules.ScrubNever, "RESPONSES NOT SCRUBBED"),
		when(r.Scrub == rules.ScrubAlways, "responses always scrubbed"),
		when(r.Misplaced == rules.Refuse, "misplaced placeholders refused"),
		when(r.ResponseCredentials == rules.Strip, "credentials in responses removed"),
		when(r.ReadFirst != rules.DefaultReadFirst, "reads %d bytes of a body first", r.ReadFirst),
		when(!r.Expires.IsZero(), "until %s", r.Expires.Format("2006-01-02 15:04:05 MST")))
	return sentence("rule "+r.Name, parts...)
}

func sourceLine(s rules.Source) string {
	parts := []string{
		when(len(s.Command) > 0, "runs %q", s.Command),
		when(len(s.Env) > 0, "with $%s", strings.Join(s.Env, ", $")),
		fmt.Sprintf("within %v", s.Timeout), fmt.Sprintf("kept for %v", s.TTL),
	}
	for _, key := range slices.Sorted(maps.Keys(s.Settings)) {
		parts = append(parts, key+" "+s.Settings[key])
	}
	return sentence("source "+s.Name, parts...)
}

func upstreamLine(name string, u *rules.Upstream) string {
	return sentence("upstream "+name, "private addresses allowed", when(u.Dial != "", "dialled at %s", u.Dial),
		when(u.CA != "", "trusts %s", u.CA), when(u.ClientCert != "", "shows %s", u.ClientCert), when(u.ClientKey != "", "with key %s", u.ClientKey))
}

func profileLine(pr *rules.Profile) string {
	secrets := "no secrets"
	if len(pr.Secrets) > 0 {
		secrets = strings.Join(pr.Secrets, ", ")
	}
	return sentence("profile "+pr.Name, secrets, fmt.Sprintf("for %v", pr.TTL), when(pr.Uses > 0, "%d uses", pr.Uses),
		when(pr.Isolation != "", "isolation %s", pr.Isolation), when(pr.Extends == "command", "not for the command's children"),
		when(pr.InheritAll, "INHERITS every variable"), when(len(pr.Inherit) > 0, "inherits $%s", strings.Join(pr.Inherit, ", $")))
}
