package rules

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// HostPattern is a host of a rule: one name or address, or, with Wildcard,
// every name with exactly one label more than Name.
type HostPattern struct {
	Name     string
	Wildcard bool
	Port     uint16
}

// String is the pattern as the rules file writes it; the port is left out if it
// is 443.
func (h HostPattern) String() string {
	s := h.Name
	if h.Wildcard {
		s = "*." + s
	}
	if h.Port == 443 {
		return s
	}
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	return s + ":" + strconv.Itoa(int(h.Port))
}

// parseHostPattern reads one entry of "hosts". It is stricter than the wire:
// what would have to be folded first is an error, so that the file reads as it
// works.
func parseHostPattern(s string, defaultPort uint16) (h HostPattern, problem, fix string) {
	h.Port = defaultPort
	switch {
	case s == "*":
		return h, "a rule for every host", "name the hosts; \"unmatched\" decides for all others"
	case strings.Contains(s, "://"):
		return h, "a URL where a host belongs", "write the host only, like api.example.com"
	case strings.ContainsAny(s, "/?#"):
		return h, "a path where a host belongs", "write the host only, and the path under \"paths\""
	case strings.ContainsRune(s, '@'):
		return h, "a user name where a host belongs", "write the host only"
	}
	if h.Name, h.Wildcard = strings.CutPrefix(s, "*."); strings.Contains(h.Name, "*") {
		return h, "a wildcard that is not the whole first label", "write *.example.com"
	}
	// A bare IPv6 address has no port to be told from.
	if addr, err := netip.ParseAddr(h.Name); err == nil && addr.Is6() && !h.Wildcard {
		h.Name = "[" + h.Name + "]"
	}
	a, hasPort, err := parseAuthority(h.Name)
	if err != nil {
		return h, err.(*AuthorityError).Problem, hostFix(h.Name)
	}
	if lower := strings.ToLower(h.Name); lower != h.Name {
		return h, "upper case in a host", "write " + lower
	}
	if hasPort {
		h.Port = a.Port
	}
	h.Name = a.Host
	if h.Wildcard {
		problem, fix = wildcardProblem(a)
	}
	return h, problem, fix
}

func hostFix(name string) string {
	if trimmed := strings.TrimSuffix(name, "."); trimmed != name && show(trimmed) != "" {
		return "write " + trimmed
	}
	return "write a name like api.example.com, *.example.com or api.example.com:8443"
}

// wildcardProblem refuses wildcards under which strangers own names.
func wildcardProblem(a Authority) (problem, fix string) {
	if a.IsIP() {
		return "a wildcard over an address", "name each address"
	}
	// A rule such as *.compute.amazonaws.com in the list makes every name below
	// a suffix of its own, so the name with a label more is asked as well.
	for _, name := range []string{a.Host, "label." + a.Host} {
		if suffix, _ := publicsuffix.PublicSuffix(name); suffix == name {
			return "a wildcard over a public suffix, under which anybody can have a name", "name the hosts, or a wildcard one label further down"
		}
	}
	return "", ""
}

// matches reports whether the pattern covers a.
func (h HostPattern) matches(a Authority) bool {
	if h.Port != a.Port {
		return false
	}
	if !h.Wildcard {
		return h.Name == a.Host
	}
	_, parent, _ := strings.Cut(a.Host, ".")
	return parent == h.Name && !a.IsIP()
}
