package reference

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"

	"standin/bench/authority"
)

// minimal serves every decrypted connection with one http.Server, and forwards
// with one http.Transport that keeps as many idle connections as there are.
type minimal struct {
	bearer    string
	authority *authority.Authority
	tls       *tls.Config
	conns     chan net.Conn
	ended     chan struct{}
	once      sync.Once
	transport *http.Transport
	server    *http.Server
	buffers   sync.Pool
}

func newMinimal(cfg Config, http2 bool) *minimal {
	m := &minimal{bearer: "Bearer " + cfg.Bearer, authority: cfg.Authority, conns: make(chan net.Conn), ended: make(chan struct{})}
	m.tls = &tls.Config{
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return m.authority.Leaf(hello.ServerName) },
	}
	m.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", cfg.Upstream)
		},
		TLSClientConfig:     &tls.Config{RootCAs: cfg.Authority.Pool()},
		MaxIdleConnsPerHost: 4096,
		DisableCompression:  true,
		ForceAttemptHTTP2:   http2,
	}
	m.buffers.New = func() any { return new([32 << 10]byte) }
	m.server = &http.Server{Handler: m}
	go func() { _ = m.server.Serve(m) }()
	return m
}

// accept takes one tunnel; its handshake is made by the server's goroutine.
func (m *minimal) accept(client net.Conn, _ string) {
	select {
	case m.conns <- tls.Server(client, m.tls):
	case <-m.ended:
		_ = client.Close()
	}
}

// Accept, Close and Addr make the tunnels a listener.
func (m *minimal) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case <-m.ended:
		return nil, net.ErrClosed
	}
}

func (m *minimal) Close() error {
	m.once.Do(func() { close(m.ended) })
	return nil
}

func (m *minimal) Addr() net.Addr { return &net.TCPAddr{} }

func (m *minimal) stop() {
	_ = m.server.Close()
	m.transport.CloseIdleConnections()
}

// hopByHop are the headers that end at a proxy.
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func (m *minimal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out := r.WithContext(r.Context())
	url := *r.URL
	url.Scheme, url.Host = "https", r.Host
	out.URL, out.RequestURI = &url, ""
	if r.ContentLength == 0 {
		out.Body = nil
	}
	for _, name := range hopByHop {
		out.Header.Del(name)
	}
	if out.Header.Get("Authorization") != "" {
		out.Header.Set("Authorization", m.bearer)
	}
	resp, err := m.transport.RoundTrip(out)
	if err != nil {
		http.Error(w, "upstream", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	header := w.Header()
	for name, values := range resp.Header {
		header[name] = values
	}
	for _, name := range hopByHop {
		header.Del(name)
	}
	w.WriteHeader(resp.StatusCode)
	buffer := m.buffers.Get().(*[32 << 10]byte)
	defer m.buffers.Put(buffer)
	m.relay(w, resp, buffer[:])
}

// relay copies the answer; one without a length is flushed at once.
func (m *minimal) relay(w http.ResponseWriter, resp *http.Response, buffer []byte) {
	if resp.ContentLength >= 0 {
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, resp.Body, buffer); err != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	control := http.NewResponseController(w)
	for {
		n, err := resp.Body.Read(buffer)
		if n > 0 {
			if _, e := w.Write(buffer[:n]); e != nil {
				return
			}
			_ = control.Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}
