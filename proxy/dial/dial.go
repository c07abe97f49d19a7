// Package dial connects to upstreams: through "upstreams:" of the rules and the
// proxy towards upstreams where there are such, and never to an address that
// its guard does not allow.
//
// It keeps no pool, speaks no HTTP but one CONNECT, and ends no TLS but that of
// the proxy towards upstreams.
//
// Invariant: the address that is checked is the one that the socket is about to
// be connected to, after every look-up.
package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"standin/grant"
	"standin/rules"
)

// Timeout bounds one connection, look-ups included.
const Timeout = 10 * time.Second

// Dialer connects to upstreams. Its fields are set before it is used.
type Dialer struct {
	Resolver *net.Resolver
	Via      func(host *url.URL) (*url.URL, error) // the proxy towards upstreams; nil: none
	Roots    *x509.CertPool                        // what vouches for an https proxy; nil: the system's

	own listeners
}

// Reserve says that the gateway listens on a, until Release.
func (d *Dialer) Reserve(a net.Addr) { d.own.addrs.Store(addrPort(a), true) }

// Release takes a reservation back.
func (d *Dialer) Release(a net.Addr) { d.own.addrs.Delete(addrPort(a)) }

// Dial connects to an authority, of which up is the entry under "upstreams:",
// or nil. The error is a *grant.Refusal.
func (d *Dialer) Dial(ctx context.Context, a rules.Authority, up *rules.Upstream, g Guard) (net.Conn, error) {
	if up != nil {
		g = Named
		if up.Dial != "" {
			return d.connect(ctx, up.Dial, g)
		}
	}
	if d.Via != nil {
		via, err := d.Via(&url.URL{Scheme: "https", Host: a.String()})
		if err != nil {
			return nil, refusal(err)
		}
		if via != nil {
			return d.through(ctx, via, a)
		}
	}
	return d.connect(ctx, absolute(a), g)
}

func (d *Dialer) connect(ctx context.Context, address string, g Guard) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout:  Timeout,
		Resolver: d.Resolver,
		Control:  func(_, address string, _ syscall.RawConn) error { return d.check(address, g) },
	}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, refusal(err)
	}
	return conn, nil
}

// absolute names the host with its final dot, so that no search domain is tried.
// The hosts file has localhost without one.
func absolute(a rules.Authority) string {
	if a.IsIP() || a.Host == "localhost" {
		return a.String()
	}
	return net.JoinHostPort(a.Host+".", fmt.Sprint(a.Port))
}

// refusal gives a failed dial its code.
func refusal(err error) error {
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

// through goes through the proxy towards upstreams by CONNECT. That proxy then
// resolves the name, so only it can guard the address.
func (d *Dialer) through(ctx context.Context, via *url.URL, a rules.Authority) (net.Conn, error) {
	port := via.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[via.Scheme]
	}
	conn, err := d.connect(ctx, net.JoinHostPort(via.Hostname(), port), Named)
	if err != nil {
		return nil, err
	}
	if via.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: via.Hostname(), RootCAs: d.Roots, MinVersion: tls.VersionTLS12})
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
		return nil, refusal(err)
	}
	reader := bufio.NewReaderSize(conn, 4096)
	resp, err := http.ReadResponse(reader, ask)
	if err != nil || resp.StatusCode != http.StatusOK || reader.Buffered() > 0 {
		conn.Close()
		return nil, &grant.Refusal{Code: "upstream_unreachable", Cause: errors.New("the proxy towards upstreams refused")}
	}
	return conn, nil
}
