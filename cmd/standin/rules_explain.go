package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"standin/rules"
)

func newRulesExplain(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain METHOD URL",
		Short: "Say which rule decides a request, and why not the others",
		Long: `Say which rule decides a request, which secret would be put in where, and why the
other rules do not decide. Nothing is sent, and the vault is not opened.`,
		Example: "  standin rules explain POST https://api.github.com/repos/acme/x/issues",
		Args:    exactly("METHOD", "URL"),
		RunE: p.onRules(flagOnly, func(_ *cobra.Command, args []string, _ home, pol *rules.Policy) error {
			target, err := targetOf(args[0], args[1])
			if err != nil {
				return err
			}
			x := explain(pol, target)
			if asJSON {
				return printJSON(p.out, x)
			}
			return x.print(p.out)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// targetOf takes a URL apart without changing it: the path must be looked at as
// it would stand on the wire. What is wrong with it is said without showing it,
// as it may hold a credential.
func targetOf(method, url string) (rules.Target, error) {
	scheme, rest, found := strings.Cut(url, "://")
	port := map[string]uint16{"https": 443, "http": 80}[strings.ToLower(scheme)]
	if !found || port == 0 {
		return rules.Target{}, &hinted{usageError("explain: the URL does not begin with https:// or http://"), "standin rules explain GET https://api.example.com/path"}
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, err := rules.ParseHost(rest[:end], port)
	if err != nil {
		return rules.Target{}, usageError("explain: the URL's host: %w", err)
	}
	path, _, _ := strings.Cut(rest[end:], "#")
	path, _, _ = strings.Cut(path, "?")
	if path == "" {
		path = "/"
	}
	return rules.Target{Authority: authority, Scheme: strings.ToLower(scheme), Method: method, Path: path}, nil
}

// explained is what "rules explain" prints.
type explained struct {
	File      string           `json:"file"`
	Request   string           `json:"request"`
	Action    string           `json:"action"`
	Rule      string           `json:"rule,omitempty"`
	Line      int              `json:"line,omitempty"`
	Path      string           `json:"path,omitempty"`
	Effect    string           `json:"effect"`
	Ambiguous bool             `json:"ambiguous"`
	Doubt     string           `json:"doubt,omitempty"`
	Puts      []explainedPlace `json:"puts"`
	Others    []explainedOther `json:"others"`
}

type explainedPlace struct {
	Secret   string   `json:"secret"`
	Surface  string   `json:"surface"`
	Profiles []string `json:"profiles"`
	Note     string   `json:"note,omitempty"`
}

type explainedOther struct {
	Rule string `json:"rule"`
	Line int    `json:"line"`
	Why  string `json:"why"`
}

func explain(pol *rules.Policy, t rules.Target) *explained {
	x := pol.Explain(t)
	out := &explained{
		File:      pol.Path,
		Request:   t.Method + " " + t.Scheme + "://" + t.Authority.String() + t.Path,
		Action:    x.Action.String(),
		Path:      x.Path,
		Effect:    effect(pol, x),
		Ambiguous: x.Ambiguous,
		Doubt:     x.Doubt,
		Puts:      []explainedPlace{},
		Others:    []explainedOther{},
	}
	if x.Rule != nil {
		out.Rule, out.Line = x.Rule.Name, x.Rule.Line
	}
	for _, at := range x.Places {
		place := explainedPlace{Secret: at.Secret, Surface: at.Surface.String(), Profiles: profilesWith(pol, at.Secret)}
		if at.Surface.Kind == rules.WebSocket {
			place.Note = "in text messages of the client, written as it is"
		}
		out.Puts = append(out.Puts, place)
	}
	for _, o := range x.Others {
		out.Others = append(out.Others, explainedOther{o.Rule.Name, o.Rule.Line, o.Why})
	}
	return out
}

// unservedMethods are those that the wire answers with 405 where it reads requests.
var unservedMethods = []string{"CONNECT", "TRACE", "TRACK"}

// effect says in one sentence what would happen.
func effect(pol *rules.Policy, x rules.Explanation) string {
	clear := x.Target.Scheme == "http"
	switch {
	case (x.Action == rules.Intercept || clear) && slices.Contains(unservedMethods, x.Target.Method):
		return "refused: such a method is not served, 405 (method_not_allowed)"
	case clear && x.Action != rules.Intercept && pol.InterceptsName(x.Target.Authority.Host):
		return "refused: a host that is intercepted for https is never reached in the clear (cleartext_credential)"
	case x.Action == rules.UnmatchedDeny:
		return "no rule names the host: refused (unmatched_denied)"
	case x.Action == rules.Passthrough:
		return "relayed unopened: no secret can be put in, and none is looked for"
	case x.Action == rules.UnmatchedPassthrough && clear:
		return "no rule names the host: forwarded; a placeholder in it is refused (cleartext_credential)"
	case x.Action == rules.UnmatchedPassthrough:
		return "no rule names the host: relayed unopened, a placeholder in it stays as it is"
	case x.Rule == nil:
		return "intercepted, but no rule matches: forwarded without a secret, a placeholder in a header, cookie, path or query is refused"
	case x.Rule.Deny:
		return "refused (rule_denied)"
	case x.Rule.Expired(time.Now()):
		return "refused: the rule has expired (grant_expired)"
	}
	does := "intercepted; where a placeholder stands at one of these places, the secret is put in"
	if len(x.Places) == 0 {
		does = "intercepted and forwarded without a secret, a placeholder in a header, cookie, path or query is refused"
	}
	if x.Rule.WebSocket {
		does += "; may become a WebSocket"
	}
	return does
}

// profilesWith lists the profiles that hold a secret.
func profilesWith(pol *rules.Policy, secret string) []string {
	names := []string{}
	for name, profile := range pol.Profiles {
		if slices.Contains(profile.Secrets, secret) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (x *explained) print(w io.Writer) error {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-8s %s\n", label, harmless(fmt.Sprintf(format, args...)))
	}
	line("request", "%s", x.Request)
	line("rules", "%s", x.File)
	line("host", "%s", x.Action)
	if x.Rule != "" && x.Path != "" {
		line("rule", "%s (line %d), path %s", x.Rule, x.Line, x.Path)
	} else if x.Rule != "" {
		line("rule", "%s (line %d)", x.Rule, x.Line)
	} else {
		line("rule", "none")
	}
	line("effect", "%s", x.Effect)
	switch {
	case x.Doubt != "":
		line("why", "%s", x.Doubt)
	case x.Ambiguous:
		line("path", "can be read in two ways, so that no rule with paths matches")
	}
	for _, at := range x.Puts {
		line("put", "%s in %s%s%s", at.Secret, at.Surface, among(at.Profiles), after(at.Note))
	}
	for _, o := range x.Others {
		line("not", "%s (line %d): %s", o.Rule, o.Line, o.Why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func among(profiles []string) string {
	if len(profiles) == 0 {
		return ""
	}
	return " (profiles: " + strings.Join(profiles, ", ") + ")"
}
