package dial

import (
	"errors"
	"net"
	"net/netip"
	"sync"
)

// Guard says which addresses a connection may lead to.
type Guard uint8

// The guards, from the narrowest.
const (
	Public Guard = iota // an intercepted host: only what is public
	Apart               // one that passes unopened, for a command that cannot reach this machine itself: nor may the gateway
	Blind               // a host that passes unopened: all but metadata services and the gateway itself
	Named               // an address that the user named: all but the gateway itself
)

// errDenied says that an address is not one to connect to.
var errDenied = errors.New("address is not allowed")

// check decides about the address of a socket that is about to be connected.
func (d *Dialer) check(address string, g Guard) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return errDenied
	}
	ip := ap.Addr().Unmap().WithZone("")
	if d.own.has(netip.AddrPortFrom(ip, ap.Port())) {
		return errDenied
	}
	if g == Named {
		return nil
	}
	if ip.IsUnspecified() || isMetadata(ip) || g == Public && !isPublic(ip) || g == Apart && isLoopback(ip) {
		return errDenied
	}
	return nil
}

// metadata are the addresses at which clouds hand out credentials.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, Azure, Google Cloud and others
	netip.MustParseAddr("169.254.170.2"),   // AWS container credentials
	netip.MustParseAddr("169.254.170.23"),  // AWS pod identity
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure host
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS pod identity
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
}

func isMetadata(ip netip.Addr) bool {
	if inner, ok := embedded(ip); ok && isMetadata(inner) {
		return true
	}
	for _, m := range metadata {
		if ip == m {
			return true
		}
	}
	return false
}

func isLoopback(ip netip.Addr) bool {
	inner, ok := embedded(ip)
	return ip.IsLoopback() || ok && inner.IsLoopback()
}

// special are the blocks of the IANA special-purpose registries that no public
// service has an address in, and multicast. Of IPv6 only 2000::/3 is given out.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1",
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func isPublic(ip netip.Addr) bool {
	if nat64.Contains(ip) {
		inner, _ := embedded(ip)
		return isPublic(inner)
	}
	for _, block := range special {
		if block.Contains(ip) {
			return false
		}
	}
	return true
}

// embedded is the IPv4 address that a NAT64 or 6to4 address leads to.
func embedded(ip netip.Addr) (netip.Addr, bool) {
	b := ip.As16()
	switch {
	case ip.Is4():
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// listeners are the addresses on which this gateway itself listens: never an
// upstream.
type listeners struct{ addrs sync.Map }

// has also finds a listener on all addresses by its port alone.
func (l *listeners) has(a netip.AddrPort) bool {
	if _, ok := l.addrs.Load(a); ok {
		return true
	}
	for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if _, ok := l.addrs.Load(netip.AddrPortFrom(all, a.Port())); ok {
			return true
		}
	}
	return false
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
