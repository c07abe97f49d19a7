// Package upstream is the API server of the benchmark. It answers over HTTP/1.1
// and HTTP/2 with TLS, and says in each answer which credential it saw, so that
// the load client can refuse to time a proxy that did not do its work. It does
// not authenticate anybody: a request with a placeholder is answered, too.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"standin/bench/authority"
	"standin/bench/sight"
)

// What the server is called, and what it looks for.
const (
	Host   = "api.bench.example"          // the API
	Many   = "many.bench.example"         // its subdomains are the API, too
	Secret = "ghp_BENCHbenchBENCHbench01" // the real value
	Marker = "zstandin_"                  // part of every placeholder

	Seen      = "X-Seen" // header of the answer: SawSecret, SawMarker or SawNothing
	SawSecret = "secret"
	SawMarker = "placeholder"
	SawNone   = "nothing"
)

// The paths that it serves.
const (
	Small  = "/small"  // GET: a short JSON answer
	JSON   = "/json"   // POST: reads the body
	Body   = "/body"   // POST: reads the body
	Big    = "/big"    // GET ?n=BYTES: text with Secret in it once, close to the end
	Events = "/events" // GET ?every=DURATION: server-sent events that hold the time of sending, without end
)

const smallBody = `{"id":1296269,"name":"hello-world","full_name":"octocat/hello-world","private":false,` +
	`"owner":{"login":"octocat","id":1,"type":"User"},"default_branch":"main","open_issues":3,"size":108}` + "\n"

// Text is n bytes of made-up JSON records, always the same: letters, digits and
// punctuation as an API sends them, without any credential.
func Text(n int) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	random := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, 0, n+256)
	for i := 0; len(out) < n; i++ {
		out = fmt.Appendf(out, `{"id":%d,"state":"open","blob":"`, i)
		for range 96 {
			out = append(out, letters[random.IntN(len(letters))])
		}
		out = append(out, "\"},\n"...)
	}
	return out[:n]
}

// Server is a running upstream.
type Server struct {
	Addr   string       // 127.0.0.1:PORT
	Served atomic.Int64 // requests so far
	server *http.Server
	text   []byte
	sinks  sync.Pool
	done   chan error
}

// Start listens on a free port of loopback.
func Start(ca *authority.Authority) (*Server, error) {
	leaf, err := ca.Server(Host, "*."+Many)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: listener.Addr().String(), text: Text(1 << 20), done: make(chan error, 1)}
	s.sinks.New = func() any { return &sink{sight.New(Secret, Marker), make([]byte, 128<<10)} }
	s.server = &http.Server{
		Handler:   s,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2", "http/1.1"}},
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 1000},
	}
	go func() { s.done <- s.server.ServeTLS(listener, "", "") }()
	return s, nil
}

// Close ends every connection.
func (s *Server) Close() error {
	err := s.server.Close()
	if e := <-s.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Served.Add(1)
	switch r.URL.Path {
	case Small:
		w.Header().Set(Seen, said(r.Header.Get("Authorization")))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, smallBody)
	case JSON, Body:
		s.sink(w, r)
	case Big:
		s.big(w, r)
	case Events:
		s.events(w, r)
	default:
		http.NotFound(w, r)
	}
}

func said(text string) string {
	switch {
	case strings.Contains(text, Secret):
		return SawSecret
	case strings.Contains(text, Marker):
		return SawMarker
	}
	return SawNone
}

type sink struct {
	*sight.Stream
	buffer []byte
}

// sink reads the whole body, and says what it held and how long it was.
func (s *Server) sink(w http.ResponseWriter, r *http.Request) {
	into := s.sinks.Get().(*sink)
	defer s.sinks.Put(into)
	into.Reset()
	if _, err := io.CopyBuffer(into.Stream, struct{ io.Reader }{r.Body}, into.buffer); err != nil {
		http.Error(w, "the body ended early", http.StatusBadRequest)
		return
	}
	saw := SawNone
	if into.Saw(1) {
		saw = SawMarker
	}
	if into.Saw(0) {
		saw = SawSecret
	}
	w.Header().Set(Seen, saw)
	_, _ = fmt.Fprintf(w, `{"bytes":%d}`+"\n", into.Bytes)
}

func (s *Server) big(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < len(Secret) {
		http.Error(w, "n is no length", http.StatusBadRequest)
		return
	}
	w.Header().Set(Seen, said(r.Header.Get("Authorization")))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	for n -= len(Secret); n > 0; {
		piece := s.text[:min(n, len(s.text))]
		if n -= len(piece); n == 0 {
			if _, err := io.WriteString(w, Secret); err != nil {
				return
			}
		}
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	every, err := time.ParseDuration(r.URL.Query().Get("every"))
	if err != nil || every <= 0 {
		http.Error(w, "every is no duration", http.StatusBadRequest)
		return
	}
	w.Header().Set(Seen, said(r.Header.Get("Authorization")))
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if _, err := fmt.Fprintf(w, "event: delta\ndata: {\"sent\":%d,\"text\":\" the next few words of it\"}\n\n", time.Now().UnixNano()); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// Run serves until ctx is done, after it told the address to ready.
func Run(ctx context.Context, ca *authority.Authority, ready func(addr string) error) error {
	s, err := Start(ca)
	if err != nil {
		return err
	}
	if err := ready(s.Addr); err != nil {
		return errors.Join(err, s.Close())
	}
	<-ctx.Done()
	return s.Close()
}
