package reference

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/elazarl/goproxy"
)

// newGoproxy is bare goproxy with its own interception, as most brokers use it,
// but with leaves from a cache and an upstream pool that is large enough.
func newGoproxy(cfg Config) http.Handler {
	proxy := goproxy.NewProxyHttpServer()
	proxy.Logger = log.New(io.Discard, "", 0)
	proxy.Tr = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", cfg.Upstream)
		},
		TLSClientConfig:     &tls.Config{RootCAs: cfg.Authority.Pool()},
		MaxIdleConnsPerHost: 4096,
		DisableCompression:  true,
	}
	mitm := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: func(host string, _ *goproxy.ProxyCtx) (*tls.Config, error) {
		name, _, err := net.SplitHostPort(host)
		if err != nil {
			name = host
		}
		leaf, err := cfg.Authority.Leaf(name)
		if err != nil {
			return nil, err
		}
		return &tls.Config{Certificates: []tls.Certificate{*leaf}}, nil
	}}
	proxy.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return mitm, host
	}))
	bearer := "Bearer " + cfg.Bearer
	proxy.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		if r.Header.Get("Authorization") != "" {
			r.Header.Set("Authorization", bearer)
		}
		return r, nil
	})
	return proxy
}
