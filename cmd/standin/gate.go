package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/launch/peer"
	"standin/proxy"
)

// gate admits the connections of one session's listener. Under "session" they
// show its credential, and come from its user; under "tree" they come from a
// process of the command's tree.
type gate struct {
	client      *proxy.Client
	credentials *proxy.Credentials // nil under "tree"
	sockets     *peer.Sockets      // nil where the system does not tell who connects
	log         *slog.Logger

	rooted chan struct{} // closed when tree is set
	once   sync.Once
	tree   *peer.Tree // nil if the command did not start

	mu     sync.Mutex
	second time.Time // the one in which strangers were named
	named  int
}

// newGate makes the gate of a session, in a room if there is one. It admits
// nobody by process before root.
func newGate(g *gateway, l *live, m *room) (*gate, error) {
	t := &gate{client: l.client, log: g.log, rooted: make(chan struct{})}
	if l.client.Isolation == isolationSession {
		t.credentials = g.gate
	}
	var err error
	if m != nil {
		t.sockets, err = peer.SocketsOf(m.Sockets)
	} else {
		t.sockets, err = peer.OpenSockets()
	}
	if err != nil && t.credentials == nil {
		return nil, err
	}
	if err != nil {
		t.log.Warn("users are not told apart: the system does not say who connects", slog.Any("cause", err))
	}
	return t, nil
}

// root tells which command it is. A nil command did not start.
func (t *gate) root(cfg peer.Config) (err error) {
	t.once.Do(func() {
		defer close(t.rooted)
		if cfg.PID == 0 || t.sockets == nil {
			return
		}
		cfg.Sockets = t.sockets
		t.tree, err = peer.New(cfg)
	})
	return err
}

// program is the path of the command's program, or how it was called where that
// is not known.
func (t *gate) program(called string) string {
	if t.tree != nil {
		if exe := t.tree.Command().Exe; exe != "" {
			return exe
		}
	}
	return called
}

// close ends the gate, after the listener has ended.
func (t *gate) close() error {
	err := t.root(peer.Config{})
	if t.tree != nil {
		err = errors.Join(err, t.tree.Close())
	}
	if t.sockets != nil {
		err = errors.Join(err, t.sockets.Close())
	}
	return err
}

// Admit implements proxy.Gate. Credentials are looked at in each request, the
// process once for a connection.
func (t *gate) Admit(conn net.Conn, credentials []string) (*proxy.Client, audit.Process, error) {
	if t.credentials != nil {
		shown, _, err := t.credentials.Admit(conn, credentials)
		if err == nil && shown != t.client { // those of another session are worth nothing here
			err = proxy.ErrCredentials
		}
		if err != nil {
			return nil, audit.Process{}, err
		}
	}
	judged, ok := conn.(*judgedConn)
	if !ok {
		return t.client, audit.Process{}, errors.New("admit connection: it did not come by the listener of its session")
	}
	judged.once.Do(func() { judged.process, judged.err = t.judge(judged.Conn) })
	return t.client, judged.process, judged.err
}

// rootPatience is how long a connection waits to be judged while the command
// starts: it may be the command's own first one.
const rootPatience = 10 * time.Second

func (t *gate) judge(conn net.Conn) (audit.Process, error) {
	// Another user may only be a process that the command started as such.
	if t.credentials != nil && t.ours(conn) {
		return audit.Process{}, nil
	}
	select {
	case <-t.rooted:
	case <-time.After(rootPatience):
		return audit.Process{}, &grant.Refusal{Code: "not_in_tree"}
	}
	if t.tree == nil {
		return audit.Process{}, &grant.Refusal{Code: "not_in_tree"}
	}
	owner, err := t.tree.Owner(conn)
	var stranger *peer.StrangerError
	switch {
	case errors.As(err, &stranger):
		return recorded(stranger.Process), t.refuse(stranger)
	case err != nil:
		return audit.Process{}, err
	}
	return recorded(owner), nil
}

// maxNamed is how many strangers are named in the log in one second. The record
// counts them all.
const maxNamed = 5

func (t *gate) refuse(stranger *peer.StrangerError) *grant.Refusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.second) > time.Second {
		t.second, t.named = now, 0
	}
	if t.named++; t.named > maxNamed {
		return &grant.Refusal{Code: "not_in_tree"}
	}
	return &grant.Refusal{Code: "not_in_tree", Cause: fmt.Errorf("%w; hint: %s", stranger, strangerHint)}
}

// recorded is a process as the record has it.
func recorded(p peer.Process) audit.Process {
	return audit.Process{PID: p.PID, Start: p.Start, Exe: p.Exe, UID: p.UID, Depth: p.Depth}
}

// judgedListener gives each connection a place for what was found out about it.
type judgedListener struct{ net.Listener }

func (l judgedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &judgedConn{Conn: conn}, nil
}

// judgedConn remembers who is at the other end.
type judgedConn struct {
	net.Conn
	once    sync.Once
	process audit.Process
	err     error
}

// NetConn is the connection itself, for who has admitted it.
func (c *judgedConn) NetConn() net.Conn { return c.Conn }
