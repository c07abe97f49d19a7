package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"standin/ca"
)

// demoServer is an API server with TLS, which remembers the credentials that it
// received and, as bad servers do, repeats them in its answer.
type demoServer struct {
	listener  net.Listener
	server    *http.Server
	authority *ca.Authority
	serving   sync.WaitGroup

	mu       sync.Mutex
	received string
}

func startDemoServer(dir string) (*demoServer, error) {
	authority, err := ca.New(ca.Config{Hosts: []string{demoAPI, demoOther}, NotAfter: time.Now().Add(time.Hour), Name: "demo"})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "demo-ca.pem"), authority.RootPEM(), 0o600); err != nil {
		return nil, fmt.Errorf("write authority of the demo: %w", err)
	}
	s := &demoServer{authority: authority}
	s.listener, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return authority.Leaf(context.Background(), hello.ServerName)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start the demo's server: %w", err)
	}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	s.serving.Go(func() { s.server.Serve(s.listener) })
	return s, nil
}

func (s *demoServer) address() string { return s.listener.Addr().String() }

func (s *demoServer) close() {
	s.server.Close()
	s.serving.Wait()
	s.authority.Close()
}

// take gives what was received since the last time.
func (s *demoServer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	received := s.received
	s.received = ""
	return received
}

func (s *demoServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	credential := r.Header.Get("Authorization")
	s.mu.Lock()
	s.received += fmt.Sprintf("%s Authorization: %s", r.Host, credential)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"you_sent": credential})
}
