package rules

import (
	"net/netip"
	"strconv"
	"strings"
)

// Authority is a host and a port in the one form in which they are compared:
// a lower-case LDH name, or a canonical IP address (IPv6 without brackets).
type Authority struct {
	Host string
	Port uint16
}

// String is host:port, IPv6 in brackets.
func (a Authority) String() string {
	port := strconv.Itoa(int(a.Port))
	if strings.Contains(a.Host, ":") {
		return "[" + a.Host + "]:" + port
	}
	return a.Host + ":" + port
}

// IsIP reports whether the host is an address. Names never end in a numeric
// label, so the last byte of an IPv4 address tells.
func (a Authority) IsIP() bool {
	if a.Host == "" {
		return false
	}
	return strings.Contains(a.Host, ":") || numericLabel(a.Host[strings.LastIndexByte(a.Host, '.')+1:])
}

// AuthorityError says why a host was refused. It does not hold the host, which
// comes from strangers and may carry a placeholder.
type AuthorityError struct{ Problem string }

func (e *AuthorityError) Error() string { return "parse authority: " + e.Problem }

// ParseAuthority reads the target of a CONNECT request: a host and a port.
//
// Upper case is folded. Every other form that some program, but not every
// program, takes for the same host is an error: a trailing dot (CVE-2022-24825
// was of this class), U-labels, brackets round names, IPv4 in octal, hex or
// with parts left out, IPv4 inside IPv6, zone identifiers.
func ParseAuthority(s string) (Authority, error) {
	a, hasPort, err := parseAuthority(s)
	if err == nil && !hasPort {
		return Authority{}, &AuthorityError{"the port is missing"}
	}
	return a, err
}

// ParseHost reads a Host or :authority field, whose port may be left out.
func ParseHost(s string, defaultPort uint16) (Authority, error) {
	a, hasPort, err := parseAuthority(s)
	if err == nil && !hasPort {
		a.Port = defaultPort
	}
	return a, err
}

func parseAuthority(s string) (a Authority, hasPort bool, err error) {
	host, port, bracketed, problem := splitPort(s)
	if problem == "" {
		a.Host, problem = canonicalHost(host, bracketed)
	}
	if problem == "" && port != "" {
		hasPort = true
		a.Port, problem = parsePort(port[1:])
	}
	if problem != "" {
		return Authority{}, false, &AuthorityError{problem}
	}
	return a, hasPort, nil
}

// splitPort cuts s into its host and ":port", which may be empty.
func splitPort(s string) (host, port string, bracketed bool, problem string) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false, "a bracket is not closed"
		}
		if port = s[end+1:]; port != "" && port[0] != ':' {
			return "", "", false, "something other than a port follows the bracket"
		}
		return s[1:end], port, true, ""
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return s[:i], s[i:], false, ""
	}
	return s, "", false, ""
}

func parsePort(s string) (uint16, string) {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return 0, "the port is not a number from 1 to 65535 without leading zeros"
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, "the port is not a number"
		}
		n = n*10 + int(s[i]-'0')
	}
	if n > 65535 {
		return 0, "the port is above 65535"
	}
	return uint16(n), ""
}

func canonicalHost(host string, bracketed bool) (string, string) {
	if !bracketed {
		return canonicalName(host)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil || !addr.Is6():
		return "", "what stands in brackets is not an IPv6 address"
	case addr.Zone() != "":
		return "", "an address with a zone"
	case addr.Is4In6():
		return "", "an IPv4 address inside IPv6"
	}
	host = strings.ToLower(host)
	var b [64]byte
	if string(addr.AppendTo(b[:0])) != host {
		return "", "an IPv6 address that is not in its canonical form"
	}
	return host, ""
}

// canonicalName folds a name to lower case, or says what is wrong with it.
func canonicalName(s string) (string, string) {
	if s == "" {
		return "", "the host is empty"
	}
	if len(s) > 253 {
		return "", "the host is longer than 253 characters"
	}
	upper, start := false, 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			if problem := labelProblem(s[start:i]); problem != "" {
				return "", problem
			}
			start = i + 1
			continue
		}
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		case c >= 0x80:
			return "", "a character outside ASCII (an international name is written as xn--…)"
		default:
			return "", "a character that is neither letter, digit, hyphen nor dot"
		}
	}
	if upper {
		s = strings.ToLower(s)
	}
	if numericLabel(s[strings.LastIndexByte(s, '.')+1:]) {
		// netip takes four decimal parts without leading zeros and nothing else.
		if addr, err := netip.ParseAddr(s); err != nil || !addr.Is4() {
			return "", "an IPv4 address that is not written as four decimal numbers"
		}
	}
	return s, ""
}

func labelProblem(label string) string {
	switch {
	case label == "":
		return "an empty label (a dot at an end, or two in a row)"
	case len(label) > 63:
		return "a label longer than 63 characters"
	case label[0] == '-' || label[len(label)-1] == '-':
		return "a label that begins or ends with a hyphen"
	}
	return ""
}

// numericLabel reports whether a name that ends in this label is an IPv4
// address to a URL parser: all digits, or 0x and hex digits.
func numericLabel(label string) bool {
	digits, hex := true, len(label) >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X')
	for i := range len(label) {
		c := label[i]
		isDigit := '0' <= c && c <= '9'
		digits = digits && isDigit
		hex = hex && (i < 2 || isDigit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F')
	}
	return label != "" && (digits || hex)
}
