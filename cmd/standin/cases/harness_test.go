//go:build linux

package cases

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
)

// The harness itself: an upstream that records the wrong thing proves nothing.

func TestAnUpstreamRecordsWhatArrivesOverBothVersionsOfHTTP(t *testing.T) {
	c := &Case{T: t, Dir: t.TempDir(), Values: []string{R}}
	c.Rules = newRules(c)
	for _, proto := range []string{"http/1.1", "h2"} {
		u := c.Upstream(api+":443", Serve{TLS: c.Certificate(api)})
		u.Nothing()
		roots := x509.NewCertPool()
		roots.AddCert(c.ca().cert)
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: api}, ForceAttemptHTTP2: proto == "h2",
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", u.Addr())
			},
		}
		for _, body := range []io.Reader{bytes.NewReader([]byte("known")), io.MultiReader(bytes.NewReader([]byte("unknown")))} {
			req, err := http.NewRequest("POST", "https://"+api+"/a%2fb?q=1", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+R)
			req.Trailer = http.Header{"X-Late": {"trailer"}}
			if req.ContentLength > 0 {
				req.Trailer = nil
			}
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(res.Body); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != 200 {
				t.Fatal(res.Status)
			}
		}
		for i, q := range u.Requests(2) {
			c.Equal([]string{q.Proto, q.Method, q.Target, q.Host}, []string{proto, "POST", "/a%2fb?q=1", api})
			c.Equal(q.Values("authorization"), []string{"Bearer " + R})
			c.Equal(string(q.Body), []string{"known", "unknown"}[i])
			c.Equal(len(q.Trailers), i)
		}
		c.Equal(leaks([]byte(u.Text()), c.Values), []string{"raw", "percent, query", "percent, path", "JSON", "JSON without HTML escapes", "JSON, ASCII"})
		transport.CloseIdleConnections()
		u.stop()
		u.tasks.Wait()
	}
}

func TestACaseWithoutAWireAssertionFails(t *testing.T) {
	inner := &testing.T{}
	c := &Case{T: inner}
	if c.checkWire(); !inner.Failed() {
		t.Fatal("a case that looked at no recorded byte passes")
	}
	inner = &testing.T{}
	c = &Case{T: inner, wired: true}
	if c.checkWire(); inner.Failed() {
		t.Fatal("a case that looked at recorded bytes fails")
	}
	c.silent = []func() string{func() string { return "something arrived late" }}
	if c.checkWire(); !inner.Failed() {
		t.Fatal("what arrives after the assertion is not noticed")
	}
}

func TestAForbiddenUpstreamMayHoldNoSecret(t *testing.T) {
	for name, forbidden := range map[string]bool{evil + ":443": true, api + ":443": false} {
		inner := &testing.T{}
		c := &Case{T: inner, wired: true, Values: []string{R}}
		w := &wireConn{proto: "http/1.1"}
		w.got.WriteString("GET /?t=" + R + " HTTP/1.1\r\n\r\n")
		c.upstreams = []*Upstream{{c: c, Name: name, conns: []*wireConn{w}}}
		if c.checkWire(); inner.Failed() != forbidden {
			t.Fatalf("%s received the value: failed is %v", name, inner.Failed())
		}
	}
}
