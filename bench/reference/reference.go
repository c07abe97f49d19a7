// Package reference holds the proxies that Standin is measured against, each
// the least that does its work: Tunnel (no interception), Relay (the floor for
// any interception) and Minimal (the least interception that can rewrite).
// They have no policy, no record, no scrubbing, no limits and no address check;
// every name is dialled at one upstream. None is fit for anything but this.
package reference

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"standin/bench/authority"
)

// The names of the references.
const (
	Tunnel    = "tunnel"
	Relay     = "relay"
	Minimal   = "minimal"
	MinimalH2 = "minimal-h2" // Minimal with HTTP/2 towards the upstream, and one connection to it
	Goproxy   = "goproxy"    // a peer: goproxy's own interception, with a tuned pool
)

// Config says what a reference needs.
type Config struct {
	Authority *authority.Authority // vouches for the upstream and issues leaves
	Upstream  string               // host:port that every name is dialled at
	Bearer    string               // what Minimal puts into Authorization
}

// Proxy is a running reference.
type Proxy struct {
	Addr   string // 127.0.0.1:PORT
	server *http.Server
	close  func()
	done   chan error
}

// Start starts the named reference on a free port of loopback.
func Start(name string, cfg Config) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{Addr: listener.Addr().String(), close: func() {}, done: make(chan error, 1)}
	p.server = &http.Server{}
	switch name {
	case Tunnel:
		p.server.Handler = connect(func(client net.Conn, _ string) { tunnel(client, cfg.Upstream) })
	case Relay:
		p.server.Handler = connect(func(client net.Conn, _ string) { relay(client, cfg) })
	case Minimal, MinimalH2:
		m := newMinimal(cfg, name == MinimalH2)
		p.server.Handler, p.close = connect(m.accept), m.stop
	case Goproxy:
		p.server.Handler = newGoproxy(cfg)
	default:
		return nil, errors.Join(fmt.Errorf("start reference %q: no such one", name), listener.Close())
	}
	go func() { p.done <- p.server.Serve(listener) }()
	return p, nil
}

// Close stops listening and waits until the server has ended. Open tunnels end
// with the process.
func (p *Proxy) Close() error {
	err := p.server.Close()
	p.close()
	if e := <-p.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// Run serves until ctx is done, after it told the address to ready.
func Run(ctx context.Context, name string, cfg Config, ready func(addr string) error) error {
	p, err := Start(name, cfg)
	if err != nil {
		return err
	}
	if err := ready(p.Addr); err != nil {
		return errors.Join(err, p.Close())
	}
	<-ctx.Done()
	return p.Close()
}

// connect answers CONNECT and hands the bare connection on.
func connect(then func(client net.Conn, host string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			http.Error(w, "no port", http.StatusBadRequest)
			return
		}
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			_ = client.Close()
			return
		}
		then(client, host)
	})
}

func tunnel(client net.Conn, upstream string) {
	defer client.Close()
	server, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer server.Close()
	both(client, server)
}

// relay ends TLS on both sides, with one protocol on both, and copies bytes.
func relay(raw net.Conn, cfg Config) {
	var server *tls.Conn
	client := tls.Server(raw, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		leaf, err := cfg.Authority.Leaf(hello.ServerName)
		if err != nil {
			return nil, err
		}
		server, err = tls.Dial("tcp", cfg.Upstream, &tls.Config{
			RootCAs: cfg.Authority.Pool(), ServerName: hello.ServerName, NextProtos: hello.SupportedProtos,
		})
		if err != nil {
			return nil, err
		}
		chosen := &tls.Config{Certificates: []tls.Certificate{*leaf}}
		if protocol := server.ConnectionState().NegotiatedProtocol; protocol != "" {
			chosen.NextProtos = []string{protocol}
		}
		return chosen, nil
	}})
	defer client.Close()
	err := client.Handshake()
	if server != nil {
		defer server.Close()
	}
	if err == nil {
		both(client, server)
	}
}

// closer can end one direction and leave the other open.
type closer interface {
	net.Conn
	CloseWrite() error
}

// both copies in both directions until both have ended.
func both(client, server net.Conn) {
	var copies sync.WaitGroup
	copies.Go(func() { oneWay(server, client) })
	oneWay(client, server)
	copies.Wait()
}

func oneWay(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if c, ok := to.(closer); ok && err == nil {
		_ = c.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}
