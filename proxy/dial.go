package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"standin/grant"
	"standin/rules"
)

// guard says which addresses a connection may lead to.
type guard uint8

const (
	guardPublic guard = iota // an intercepted host: only what is public
	guardOwn                 // a host that passes unopened: all but metadata services and this gateway
	guardNamed               // an address that "upstreams:" names: all but this gateway
)

// dial connects to an authority, through "upstreams:" and the proxy towards
// upstreams where there are such. The address that the socket really goes to is
// checked, so that no answer of DNS can lead elsewhere.
func (p *Proxy) dial(ctx context.Context, c *Client, a rules.Authority, g guard) (net.Conn, error) {
	address := absolute(a)
	if up := c.Session.Policy.Upstream(a); up != nil && up.Dial != "" {
		address, g = up.Dial, guardNamed
	} else if p.cfg.Via != nil {
		via, err := p.cfg.Via(&url.URL{Scheme: "https", Host: a.String()})
		if err != nil {
			return nil, dialRefusal(err)
		}
		if via != nil {
			return p.dialVia(ctx, via, a)
		}
	}
	return p.dialAddress(ctx, address, g)
}

func (p *Proxy) dialAddress(ctx context.Context, address string, g guard) (net.Conn, error) {
	d := net.Dialer{
		Timeout:  dialTimeout,
		Resolver: p.cfg.Resolver,
		Control:  func(_, address string, _ syscall.RawConn) error { return p.check(address, g) },
	}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, dialRefusal(err)
	}
	return conn, nil
}

// absolute names the host with its final dot, so that no search domain is tried.
func absolute(a rules.Authority) string {
	if a.IsIP() {
		return a.String()
	}
	return net.JoinHostPort(a.Host+".", fmt.Sprint(a.Port))
}

// errDenied says that an address is not one to connect to.
var errDenied = errors.New("address is not allowed")

// check decides about the address of a socket that is about to be connected.
func (p *Proxy) check(address string, g guard) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return errDenied
	}
	ip := ap.Addr().Unmap().WithZone("")
	if p.own.has(netip.AddrPortFrom(ip, ap.Port())) {
		return errDenied
	}
	if g == guardNamed {
		return nil
	}
	if ip.IsUnspecified() || isMetadata(ip) || g == guardPublic && !isPublic(ip) {
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

// special are the blocks of the IANA special-purpose registries that no public
// service has an address in, and multicast.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::1/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20",
	"5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func isPublic(ip netip.Addr) bool {
	if inner, ok := embedded(ip); ok {
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

// dialRefusal gives a failed dial its code.
func dialRefusal(err error) error {
	var r *grant.Refusal
	var timeout net.Error
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, errDenied):
		return &grant.Refusal{Code: "denied_address"}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return &grant.Refusal{Code: "upstream_timeout", Cause: err}
	}
	return &grant.Refusal{Code: "upstream_unreachable", Cause: err}
}

// dialVia goes through the proxy towards upstreams by CONNECT. That proxy then
// resolves the name, so only it can guard the address.
func (p *Proxy) dialVia(ctx context.Context, via *url.URL, a rules.Authority) (net.Conn, error) {
	port := via.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[via.Scheme]
	}
	conn, err := p.dialAddress(ctx, net.JoinHostPort(via.Hostname(), port), guardNamed)
	if err != nil {
		return nil, err
	}
	if via.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: via.Hostname(), RootCAs: p.cfg.Roots, MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &grant.Refusal{Code: "upstream_tls", Cause: err}
		}
		conn = secure
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
		defer conn.SetDeadline(time.Time{})
	}
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: a.String()}, Host: a.String(), Header: http.Header{}}
	if via.User != nil {
		password, _ := via.User.Password()
		ask.SetBasicAuth(via.User.Username(), password)
		ask.Header["Proxy-Authorization"] = ask.Header["Authorization"]
		delete(ask.Header, "Authorization")
	}
	if err := ask.Write(conn); err != nil {
		conn.Close()
		return nil, dialRefusal(err)
	}
	reader := bufio.NewReaderSize(conn, 4096)
	resp, err := http.ReadResponse(reader, ask)
	if err != nil || resp.StatusCode != http.StatusOK || reader.Buffered() > 0 {
		conn.Close()
		return nil, &grant.Refusal{Code: "upstream_unreachable", Cause: errors.New("the proxy towards upstreams refused")}
	}
	return conn, nil
}
