package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"standin/audit"
	"standin/control"
	"standin/vault"
)

// controlServer is the socket by which a gateway's sessions are listed, narrowed
// and revoked. Nothing else can be done by whoever only reaches it, the command
// included: it can only take away. At a serving gateway those who prove a key
// have a conversation with its opener.
type controlServer struct {
	g         *gateway
	listener  net.Listener
	server    *http.Server
	serving   sync.WaitGroup
	opener    *opener // nil: no session is opened here
	doors     *doors  // nil: no command is relayed here
	reserve   reserve
	followers atomic.Int64
	reloading sync.Mutex         // one reload at a time
	read      looks              // at what was read last
	stop      context.CancelFunc // ends the watch over the rules

	mu       sync.Mutex
	sessions []*hosted // oldest first; those that have ended stay for a while
}

// maxEnded is how many sessions that have ended are still shown.
const maxEnded = 64

// sessionNotes is what was decided about a session at its start.
type sessionNotes struct {
	Command   string   `json:"command"`
	PID       int      `json:"pid"`
	Isolation string   `json:"isolation"`
	Removed   []string `json:"removed_variables"`
	roomNotes
}

// sessionView is a session as the control socket shows it.
type sessionView struct {
	sessionStatus
	sessionNotes
	Tunnels   int    `json:"tunnels"`
	RulesHash string `json:"rules_hash"`
	Extends   string `json:"extends"`
	// Roots are the processes below which everything is of the session.
	Roots []processID `json:"roots"`
}

// gatewayStatus are the counts by which a leak would show.
type gatewayStatus struct {
	PID         int    `json:"pid"`
	Version     string `json:"version"`
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"`
	Tunnels     int    `json:"tunnels"`
	Sessions    int    `json:"sessions"`
	// Ending says that the gateway opens no session any more, and waits for requests.
	Ending bool `json:"ending,omitempty"`
	// Anchor shows how far the log has come.
	Anchor audit.Anchor `json:"anchor"`
}

// socketDir is the folder of the control sockets.
func socketDir(h home) string { return h.Run() }

// newControlServer listens on a socket of its own, in the home's private folder.
func newControlServer(g *gateway, name string) (*controlServer, error) {
	// The mask keeps the socket private from the start.
	if err := vault.PrivateDir(socketDir(g.home)); err != nil {
		return nil, err
	}
	listener, err := control.Listen(filepath.Join(socketDir(g.home), name+".sock"))
	if err != nil {
		return nil, err
	}
	c := &controlServer{g: g, listener: listener}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", c.status)
	mux.HandleFunc("GET /v1/anchor", c.anchor)
	mux.HandleFunc("GET /v1/sessions", c.list)
	mux.HandleFunc("GET /v1/sessions/{id}/follow", c.follow)
	mux.HandleFunc("POST /v1/sessions/{id}/revoke", c.revoke)
	mux.HandleFunc("POST /v1/sessions/{id}/narrow", c.narrow)
	mux.HandleFunc("POST /v1/conversation", c.upgrade("standin-conversation", func(conn net.Conn) { c.opener.serve(conn) }))
	mux.HandleFunc("POST /v1/door", c.upgrade("standin-door", func(conn net.Conn) { c.doors.push(conn) }))
	c.server = &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10}
	c.reserve.fill()
	c.serving.Go(func() { c.server.Serve(&reservedListener{listener, &c.reserve}) })
	ctx, stop := context.WithCancel(g.life)
	c.stop = stop
	c.serving.Go(func() { c.watch(ctx) })
	return c, nil
}

// serve lets those who prove a key open sessions here.
func (c *controlServer) serve() error {
	o, err := newOpener(c.g, c)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opener, c.doors = o, newDoors()
	return nil
}

// add shows a session. It is called before the launcher is told of it.
func (c *controlServer) add(h *hosted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions = append(c.sessions, h)
}

// ended lets go of the sessions that ended longest ago. Their credentials are
// refused as those of an ended session for as long as they are shown.
func (c *controlServer) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	over := -maxEnded
	for _, h := range c.sessions {
		if h.over() {
			over++
		}
	}
	c.sessions = slices.DeleteFunc(c.sessions, func(h *hosted) bool {
		if over <= 0 || !h.over() {
			return false
		}
		over--
		h.g.gate.Remove(h.session.ID)
		h.g.scrubbed.remove(h.session)
		return true
	})
}

// all are the sessions, oldest first.
func (c *controlServer) all() []*hosted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sessions)
}

// upgrade takes the connection of a request over for another protocol. A gateway
// of one command has none.
func (c *controlServer) upgrade(protocol string, take func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		serves := c.opener != nil
		c.mu.Unlock()
		if !serves || r.Header.Get("Upgrade") != protocol {
			http.Error(w, `{"error":"refused"}`, http.StatusForbidden)
			return
		}
		if c.ending() {
			http.Error(w, `{"error":"ending"}`, http.StatusServiceUnavailable)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, `{"error":"refused"}`, http.StatusInternalServerError)
			return
		}
		if buffered.Reader.Buffered() > 0 { // nobody speaks before the answer
			conn.Close()
			return
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol); err != nil {
			conn.Close()
			return
		}
		conn.SetDeadline(time.Time{})
		take(conn)
	}
}

// ending says whether the gateway has been told to end.
func (c *controlServer) ending() bool {
	c.mu.Lock()
	o := c.opener
	c.mu.Unlock()
	if o == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

func (c *controlServer) close() error {
	c.stop()
	err := c.server.Close()
	c.serving.Wait()
	c.reserve.release()
	return err
}

func (c *controlServer) status(w http.ResponseWriter, _ *http.Request) {
	n := 0
	for _, h := range c.all() {
		if !h.over() {
			n++
		}
	}
	answerJSON(w, gatewayStatus{PID: os.Getpid(), Version: version, Goroutines: runtime.NumGoroutine(),
		Descriptors: openDescriptors(), Tunnels: c.g.proxy.Tunnels(), Sessions: n, Ending: c.ending(), Anchor: c.g.record.Anchor()})
}

// anchor proves to "audit verify" how far the log of this gateway has come.
func (c *controlServer) anchor(w http.ResponseWriter, r *http.Request) {
	live, err := c.g.record.Live(r.FormValue("nonce"))
	if err != nil {
		http.Error(w, `{"error":"refused"}`, http.StatusBadRequest)
		return
	}
	answerJSON(w, live)
}

// openDescriptors counts this process's descriptors, -1 where that is not known.
func openDescriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries) - 1 // less the one that the listing itself took
}

func (c *controlServer) list(w http.ResponseWriter, _ *http.Request) {
	views := []sessionView{}
	for _, h := range c.all() {
		views = append(views, h.view())
	}
	answerJSON(w, views)
}

func (c *controlServer) find(w http.ResponseWriter, r *http.Request) *hosted {
	for _, h := range c.all() {
		if h.session.ID == r.PathValue("id") {
			return h
		}
	}
	http.Error(w, `{"error":"unknown session"}`, http.StatusNotFound)
	return nil
}

func (c *controlServer) revoke(w http.ResponseWriter, r *http.Request) {
	if l := c.find(w, r); l != nil {
		l.session.Revoke("revoked")
		l.client.Cut()
		answerJSON(w, l.status())
	}
}

func (c *controlServer) narrow(w http.ResponseWriter, r *http.Request) {
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
	l.narrow(keep.Secrets)
	for _, h := range c.all() {
		if h.inside(l) {
			h.narrow(keep.Secrets)
		}
	}
	rec := l.record("revoke")
	rec.Reason, rec.Secrets = "narrowed; kept are", keep.Secrets
	if err := c.g.record.Note(rec); err != nil {
		c.g.log.Warn("record lost")
	}
	answerJSON(w, l.status())
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
			return control.Dial(ctx, path)
		},
	}}}
}

// revoke ends the grants of a session.
func (c *controlClient) revoke(id string) error {
	return c.call("POST", "/v1/sessions/"+id+"/revoke", "", new(any))
}

// call sends a request and decodes the answer into v.
func (c *controlClient) call(method, path string, body string, v any) error {
	return c.ask(context.Background(), method, path, body, v)
}

func (c *controlClient) ask(ctx context.Context, method, path string, body string, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://standin"+path, strings.NewReader(body))
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
