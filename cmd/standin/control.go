package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/vault"
)

// control is the socket by which a gateway's sessions are listed, narrowed and
// revoked, and by which nothing else can be done: whoever reaches it, the
// command included, can only take away.
type control struct {
	g        *gateway
	listener net.Listener
	server   *http.Server
	serving  sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*live
	notes    map[string]sessionNotes
}

// sessionNotes is what was decided about a session at its start.
type sessionNotes struct {
	Command   string   `json:"command"`
	PID       int      `json:"pid"`
	Isolation string   `json:"isolation"`
	Removed   []string `json:"removed_variables"`
}

// sessionView is a session as the control socket shows it.
type sessionView struct {
	grant.Status
	sessionNotes
	Tunnels   int    `json:"tunnels"`
	RulesHash string `json:"rules_hash"`
	Extends   string `json:"extends"`
}

// gatewayStatus are the counts by which a leak would show.
type gatewayStatus struct {
	PID         int    `json:"pid"`
	Version     string `json:"version"`
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"`
	Tunnels     int    `json:"tunnels"`
	Sessions    int    `json:"sessions"`
	// Anchor lets "audit verify" see how far a live log has come.
	Anchor audit.Anchor `json:"anchor"`
}

// socketDir is the folder of the control sockets.
func socketDir(h home) string { return h.Run() }

// newControl listens on a socket of its own, in the home's private folder.
func newControl(g *gateway, name string) (*control, error) {
	listener, err := listenPrivate(socketDir(g.home), name+".sock")
	if err != nil {
		return nil, err
	}
	c := &control{g: g, listener: listener, sessions: map[string]*live{}, notes: map[string]sessionNotes{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", c.status)
	mux.HandleFunc("GET /v1/sessions", c.list)
	mux.HandleFunc("POST /v1/sessions/{id}/revoke", c.revoke)
	mux.HandleFunc("POST /v1/sessions/{id}/narrow", c.narrow)
	c.server = &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10}
	c.serving.Go(func() { c.server.Serve(listener) })
	return c, nil
}

// listenPrivate listens on dir/name, and refuses a folder that is not private
// or a name that is taken. The mask keeps the socket private from the start.
func listenPrivate(dir, name string) (net.Listener, error) {
	if err := vault.PrivateDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("listen on control socket %q: the file exists", path)
	}
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	listener, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket %q: %w", path, errors.Unwrap(err))
	}
	// The listener would remove the file by the short name, which ends here.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	return &privateListener{listener, path}, os.Chmod(path, 0o600)
}

// privateListener removes its file when it is closed.
type privateListener struct {
	net.Listener
	path string
}

func (l *privateListener) Close() error {
	return errors.Join(os.Remove(l.path), l.Listener.Close())
}

// maxSocketPath is how long a path the kernel takes for a socket, in bytes, on
// every system.
const maxSocketPath = 100

// shortPath names a file by a path that is short enough for a socket: the path
// itself, or one by way of its folder's open descriptor. Done ends that name.
func shortPath(path string) (short string, done func() error, err error) {
	if len(path) <= maxSocketPath || runtime.GOOS != "linux" {
		return path, func() error { return nil }, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("find control socket: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), dir.Close, nil
}

func (c *control) add(l *live, notes sessionNotes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[l.session.ID], c.notes[l.session.ID] = l, notes
}

func (c *control) close() error {
	err := c.server.Close()
	c.serving.Wait()
	return err
}

func (c *control) status(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	n := len(c.sessions)
	c.mu.Unlock()
	answerJSON(w, gatewayStatus{PID: os.Getpid(), Version: version, Goroutines: runtime.NumGoroutine(),
		Descriptors: openDescriptors(), Tunnels: c.g.proxy.Tunnels(), Sessions: n, Anchor: c.g.record.Anchor()})
}

// openDescriptors counts this process's descriptors, -1 where that is not known.
func openDescriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries) - 1 // less the one that the listing itself took
}

func (c *control) list(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	views := []sessionView{}
	for id, l := range c.sessions {
		views = append(views, sessionView{Status: l.session.Status(), sessionNotes: c.notes[id], Tunnels: l.client.Tunnels(),
			RulesHash: c.g.policy.Hash, Extends: l.session.Profile.Extends})
	}
	answerJSON(w, views)
}

func (c *control) find(w http.ResponseWriter, r *http.Request) *live {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.sessions[r.PathValue("id")]
	if l == nil {
		http.Error(w, `{"error":"unknown session"}`, http.StatusNotFound)
	}
	return l
}

func (c *control) revoke(w http.ResponseWriter, r *http.Request) {
	if l := c.find(w, r); l != nil {
		l.session.Revoke("revoked")
		l.client.Cut()
		answerJSON(w, l.session.Status())
	}
}

func (c *control) narrow(w http.ResponseWriter, r *http.Request) {
	l := c.find(w, r)
	if l == nil {
		return
	}
	var keep struct {
		Secrets []string `json:"secrets"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&keep); err != nil {
		http.Error(w, `{"error":"malformed body"}`, http.StatusBadRequest)
		return
	}
	l.session.Narrow(keep.Secrets)
	rec := l.record("revoke")
	rec.Reason, rec.Secrets = "narrowed; kept are", keep.Secrets
	if err := c.g.record.Note(rec); err != nil {
		c.g.log.Warn("record lost")
	}
	answerJSON(w, l.session.Status())
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// controlClient speaks to the control socket of one gateway.
type controlClient struct {
	path string
	http *http.Client
}

func newControlClient(path string) *controlClient {
	return &controlClient{path, &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			short, done, err := shortPath(path)
			if err != nil {
				return nil, err
			}
			defer done()
			return (&net.Dialer{}).DialContext(ctx, "unix", short)
		},
	}}}
}

// call sends a request and decodes the answer into v.
func (c *controlClient) call(method, path string, body string, v any) error {
	req, err := http.NewRequest(method, "http://standin"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the gateway at %q: it does not answer", c.path)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the gateway at %q: it answered %d", c.path, resp.StatusCode)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(v)
}

// gatewaysOf finds the control sockets of a home.
func gatewaysOf(h home) ([]*controlClient, error) {
	paths, err := filepath.Glob(filepath.Join(socketDir(h), "*.sock"))
	if err != nil {
		return nil, err
	}
	var found []*controlClient
	for _, path := range paths {
		found = append(found, newControlClient(path))
	}
	return found, nil
}
