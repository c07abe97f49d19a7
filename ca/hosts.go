package ca

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// nowhere is permitted where no host is: an empty list constrains nothing.
const nowhere = "none.invalid"

// A hostSet is what an authority may issue for.
type hostSet struct {
	names     map[string]bool // example.com
	wildcards map[string]bool // example.com, for *.example.com
	addresses map[netip.Addr]bool
}

func parseHosts(hosts []string) (*hostSet, error) {
	s := &hostSet{names: map[string]bool{}, wildcards: map[string]bool{}, addresses: map[netip.Addr]bool{}}
	for _, host := range hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			if addr.Zone() != "" || addr.Is4In6() || addr.String() != host {
				return nil, fmt.Errorf("permit host %q: not a canonical address", host)
			}
			s.addresses[addr] = true
			continue
		}
		parent, wildcard := strings.CutPrefix(host, "*.")
		if !validName(parent) {
			return nil, fmt.Errorf("permit host %q: not a lower-case name", host)
		}
		if wildcard {
			s.wildcards[parent] = true
		} else {
			s.names[host] = true
		}
	}
	return s, nil
}

// permits reports whether a leaf may be issued. It is narrower than the
// constraints: a name permits only itself here, since no request to another is
// ever intercepted.
func (s *hostSet) permits(host string) bool {
	if s.names[host] {
		return true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return s.addresses[addr] && addr.String() == host
	}
	_, parent, ok := strings.Cut(host, ".")
	return ok && s.wildcards[parent] && validName(host)
}

// constrain writes the critical name constraints of a certificate that signs.
//
// A name that has to pass must be permitted and must not be excluded (RFC 5280,
// 4.2.1.10), and exclusion wins: an address cannot be excluded with its whole
// range and then permitted again. So the family of a host that is an address
// gets a list of permitted addresses, which refuses all others of its kind, and
// a family without one is excluded whole. Both say the same where both could
// stand, also to a client that takes IPv4 and IPv6 for two kinds of names.
func (s *hostSet) constrain(template *x509.Certificate) {
	template.PermittedDNSDomainsCritical = true // covers the whole extension
	for name := range s.names {
		template.PermittedDNSDomains = append(template.PermittedDNSDomains, name)
	}
	for parent := range s.wildcards {
		template.PermittedDNSDomains = append(template.PermittedDNSDomains, "."+parent)
	}
	if len(template.PermittedDNSDomains) == 0 {
		template.PermittedDNSDomains = []string{nowhere}
	}
	var four, six bool
	for addr := range s.addresses {
		four, six = four || addr.Is4(), six || addr.Is6()
		template.PermittedIPRanges = append(template.PermittedIPRanges, ipRange(addr, addr.BitLen()))
	}
	if !four {
		template.ExcludedIPRanges = append(template.ExcludedIPRanges, ipRange(netip.IPv4Unspecified(), 0))
	}
	if !six {
		template.ExcludedIPRanges = append(template.ExcludedIPRanges, ipRange(netip.IPv6Unspecified(), 0))
	}
}

func ipRange(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
}

// validName reports whether name is a lower-case LDH name without a dot at its
// end. Underscores are let through: names in use have them.
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
