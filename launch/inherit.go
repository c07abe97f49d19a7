package launch

import (
	"net/netip"
	"regexp"
	"strings"
)

// marker stands in every placeholder.
const marker = "zstandin_"

// sourcePrefixes are the families of variables by which sources of secrets
// authenticate: whoever holds them reads the secrets themselves.
var sourcePrefixes = []string{"VAULT_", "BAO_", "AWS_", "OP_"}

// harmless are the members of those families that open nothing.
var harmless = map[string]bool{
	"VAULT_ADDR": true, "VAULT_NAMESPACE": true, "VAULT_CACERT": true, "VAULT_FORMAT": true,
	"BAO_ADDR": true, "BAO_NAMESPACE": true, "BAO_CACERT": true, "BAO_FORMAT": true,
	"AWS_REGION": true, "AWS_DEFAULT_REGION": true, "AWS_DEFAULT_OUTPUT": true, "AWS_PAGER": true,
	"AWS_CA_BUNDLE": true, "AWS_RETRY_MODE": true, "AWS_MAX_ATTEMPTS": true, "AWS_EC2_METADATA_DISABLED": true,
	"OP_CONNECT_HOST": true, "OP_FORMAT": true,
}

// passwordURL finds a URL with a password anywhere in a value.
var passwordURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#:@]*:([^\s/?#]+)@`)

// isCredential reports whether a variable of the user would hand the command a
// real credential. One that carries a placeholder is inert.
func isCredential(name, value string, carriers map[string]bool) bool {
	if value == "" {
		return false
	}
	for _, match := range passwordURL.FindAllStringSubmatch(value, -1) {
		if !strings.Contains(match[1], marker) {
			return true
		}
	}
	if strings.Contains(value, marker) {
		return false
	}
	if carriers[name] {
		return true
	}
	for _, prefix := range sourcePrefixes {
		if strings.HasPrefix(name, prefix) {
			return !harmless[name]
		}
	}
	return false
}

// gitCarries reports whether git's numbered configuration variables hold a
// credential. They stand or fall together: git refuses to run with one missing.
func gitCarries(user environ) bool {
	for name, value := range user {
		key := strings.ToLower(value)
		if isGitConfig(name) && (strings.Contains(key, "extraheader") || strings.Contains(key, "credential") || isCredential("", value, nil)) {
			return true
		}
	}
	return false
}

func isGitConfig(name string) bool {
	return name == "GIT_CONFIG_COUNT" || name == "GIT_CONFIG_PARAMETERS" ||
		strings.HasPrefix(name, "GIT_CONFIG_KEY_") || strings.HasPrefix(name, "GIT_CONFIG_VALUE_")
}

// noProxy returns what is reached directly: loopback and the user's entries,
// but none that covers an intercepted host.
func noProxy(user environ, hosts []string) string {
	entries := []string{"localhost", "127.0.0.1", "::1", "[::1]"}
	for _, list := range []string{user["NO_PROXY"], user["no_proxy"]} {
		entries = append(entries, strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })...)
	}
	var kept []string
	seen := map[string]bool{}
	for _, entry := range entries {
		if !seen[entry] && !covers(entry, hosts) {
			seen[entry] = true
			kept = append(kept, entry)
		}
	}
	return strings.Join(kept, ",")
}

// covers reports whether some client would take an entry of NO_PROXY for one
// of hosts, or for one of the names under a wildcard. Clients differ: to some
// "hub.com" covers github.com. Where in doubt it does.
func covers(entry string, hosts []string) bool {
	name := strings.ToLower(entry)
	if prefix, err := netip.ParsePrefix(name); err == nil {
		for _, host := range hosts {
			if addr, err := netip.ParseAddr(host); err == nil && prefix.Contains(addr) {
				return true
			}
		}
		return false
	}
	name = strings.Trim(withoutPort(name), "[]")
	prefix, wild := strings.CutSuffix(name, "*")
	name = strings.TrimLeft(name, "*.")
	if strings.Trim(name, "*.") == "" {
		return true
	}
	addr, isAddr := parseAddr(name)
	for _, host := range hosts {
		if other, ok := parseAddr(host); ok && isAddr {
			if addr == other {
				return true
			}
			continue
		}
		base, wildcard := strings.CutPrefix(host, "*.")
		switch {
		case strings.HasSuffix(host, strings.TrimSuffix(name, ".")):
			return true
		case wildcard && strings.HasSuffix(name, "."+base):
			return true
		case wild && strings.HasPrefix(host, strings.TrimLeft(prefix, "*.")):
			return true
		}
	}
	return false
}

func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil
}

// withoutPort takes ":443" off a name, and leaves an IPv6 address whole.
func withoutPort(entry string) string {
	if i := strings.LastIndexByte(entry, ':'); i >= 0 && (strings.Count(entry, ":") == 1 || strings.HasPrefix(entry, "[") && strings.Contains(entry[:i], "]")) {
		return entry[:i]
	}
	return entry
}
