package proxy

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// tlsConfigs are what clients are answered with: one configuration for every
// connection of every session, which asks the connection for the rest.
type tlsConfigs struct {
	base    *tls.Config // asks for one of the others
	h2      *tls.Config
	h1      *tls.Config
	nothing *tls.Config // no certificate: the client gets "unrecognized_name"
}

func newTLSConfigs() *tlsConfigs {
	c := &tlsConfigs{}
	common := tls.Config{
		MinVersion: tls.VersionTLS12,
		// The client is on this machine: a post-quantum share protects nothing
		// here, and costs a third of the handshake.
		CurvePreferences:       []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
		SessionTicketsDisabled: true, // a ticket would outlive the session that it was made in
	}
	c.nothing = common.Clone()
	c.h1 = common.Clone()
	c.h1.GetCertificate = leafOf
	c.h2 = c.h1.Clone()
	c.h2.NextProtos = []string{"h2", "http/1.1"}
	c.base = common.Clone()
	c.base.GetConfigForClient = c.choose
	return c
}

// choose checks the name of the greeting. A list of protocols without one that
// we know is answered like no list at all, as HTTP/1.1.
func (c *tlsConfigs) choose(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	t, ok := hello.Conn.(*tunnel)
	if !ok {
		return c.nothing, nil
	}
	if t.misnamed = !t.names(hello.ServerName); t.misnamed {
		return c.nothing, nil
	}
	if slices.Contains(hello.SupportedProtos, "h2") || slices.Contains(hello.SupportedProtos, "http/1.1") {
		return c.h2, nil
	}
	return c.h1, nil
}

// names says whether a name of a TLS greeting is the tunnel's host. No name at
// all is accepted: then the leaf for the tunnel's host is shown.
func (t *tunnel) names(serverName string) bool {
	if serverName == "" {
		return true
	}
	if ip, err := netip.ParseAddr(serverName); err == nil {
		return ip.Unmap().String() == t.authority.Host
	}
	return lowerASCII(serverName) == t.authority.Host
}

// leafOf gets the leaf of the tunnel's host. It is asked for only here, after
// the session was admitted and the name was found right.
func leafOf(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t := hello.Conn.(*tunnel)
	return t.client.Leaves.Leaf(context.Background(), t.authority.Host)
}

// weakKey refuses an upstream whose chain holds an RSA key under 2048 bits.
func weakKey(state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		if !slices.ContainsFunc(chain, hasWeakKey) {
			return nil
		}
	}
	return errors.New("certificate chain holds an RSA key under 2048 bits")
}

func hasWeakKey(c *x509.Certificate) bool {
	key, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && key.N.BitLen() < 2048
}

// lowerASCII folds only what DNS folds: the Kelvin sign is not a k.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// validMethod says whether a method is one that is served at all.
func validMethod(m string) bool {
	if len(m) == 0 || len(m) > 32 || !httpguts.ValidHeaderFieldName(m) {
		return false
	}
	for _, c := range []byte(m) {
		if 'a' <= c && c <= 'z' {
			return false
		}
	}
	return true
}
