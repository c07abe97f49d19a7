package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"standin/audit"
	"standin/launch"
	"standin/launch/peer"
)

// hosted is a session with its front door, from its opening to its end.
type hosted struct {
	*live
	gate     *gate
	room     *room
	listener net.Listener // of its own; nil where it shares one, or its launcher relays
	address  net.Addr     // of the front door; nil where its launcher relays
	served   chan error
	began    time.Time
	outer    *hosted // the session that this one is a part of, or nil
	ending   sync.Once
	gone     chan struct{} // closed when it has ended
	ended    error

	mu       sync.Mutex
	notes    sessionNotes
	launcher processID     // zero where a shell is bound at a serving gateway
	changed  chan struct{} // closed when grants are taken from it
	parting  func(left)    // tells its launcher, which waits for the command, or nil
}

// host opens a session and serves it: on a listener of its own, or on the shared
// one if it shows credentials.
func (g *gateway) host(ctx context.Context, cfg sessionConfig) (*hosted, error) {
	l, err := g.open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h := &hosted{live: l, room: cfg.room, served: make(chan error, 1), gone: make(chan struct{}), changed: make(chan struct{}), began: time.Now(), outer: cfg.outer,
		notes: sessionNotes{Command: cfg.command, Isolation: cfg.isolation}}
	if h.gate, err = newGate(g, l, cfg.room); err != nil {
		return nil, errors.Join(err, l.end("no gate", h.began))
	}
	switch {
	case cfg.relayed:
		h.served <- nil
	case g.shared != nil && cfg.isolation == isolationSession:
		h.address = g.shared
		h.served <- nil
	default:
		if h.listener, err = cfg.listen(); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on loopback: %w", err), h.gate.close(), l.end("no listener", h.began))
		}
		h.address = h.listener.Addr()
		go func() { h.served <- g.proxy.Serve(judgedListener{h.listener}, h.gate) }()
		if h.room != nil {
			h.room.serve(g, h.gate)
		}
	}
	return h, nil
}

// listen opens the session's front door, in the command's room if it has one.
func (cfg sessionConfig) listen() (net.Listener, error) {
	if cfg.room != nil {
		return cfg.room.Proxy, nil
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// relayAddress stands in the proxy's URL until the launcher puts its own there.
var relayAddress = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}

// proxyURL is what the command's environment names as its proxy.
func (h *hosted) proxyURL() string {
	if h.address == nil {
		return h.live.proxyURL(relayAddress)
	}
	return h.live.proxyURL(h.address)
}

// root tells which process is the command: who descends from it is of the
// session, and it stands in the record.
func (h *hosted) root(cfg peer.Config) {
	if err := h.gate.root(cfg); err != nil {
		h.g.log.Info("nobody is in the tree: the command cannot be looked into, or has ended", slog.Any("cause", err))
	}
	h.process.Store(&audit.Process{PID: cfg.PID, Start: cfg.Start, Exe: h.gate.program(h.notes.Command), UID: os.Getuid()})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes.PID = cfg.PID
}

// launchedBy notes who has started the command: what that one leaves behind is
// below the launcher.
func (h *hosted) launchedBy(p processID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.launcher = p
}

// roots are the processes below which everything is of this session.
func (h *hosted) roots() []processID {
	h.mu.Lock()
	defer h.mu.Unlock()
	roots := []processID{}
	if h.launcher.PID != 0 {
		roots = append(roots, h.launcher)
	}
	if p := h.process.Load(); p != nil {
		roots = append(roots, processID{p.PID, p.Start})
	}
	return roots
}

// removed notes which variables the command did not get.
func (h *hosted) removed(names []string) {
	h.g.log.Info("variables removed", slog.String("session", h.session.ID), slog.Any("names", names))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes.Removed = names
}

// furnished notes what the command's room is.
func (h *hosted) furnished(notes roomNotes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes.roomNotes = notes
}

// decided is what was decided at the start.
func (h *hosted) decided() sessionNotes {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.notes
}

// end closes the front door and ends the session, once. The grants are revoked,
// and that is on record, before it returns.
func (h *hosted) end(reason string) error {
	h.ending.Do(func() {
		var closed error
		if h.listener != nil {
			if closed = h.listener.Close(); errors.Is(closed, net.ErrClosed) { // by a gateway that ends
				closed = nil
			}
		}
		closed = errors.Join(closed, h.room.close())
		h.ended = errors.Join(h.live.end(reason, h.began), <-h.served, h.gate.close(), closed)
		close(h.gone)
	})
	return h.ended
}

// follow ends a session that is a part of another with that one.
func (h *hosted) follow() {
	if h.outer == nil {
		return
	}
	h.g.log.Info("inside another session", slog.String("session", h.outer.session.ID))
	go func() {
		defer h.g.contain("follow")
		select {
		case <-h.outer.session.Ended():
			h.session.Revoke(reasonOuter)
		case <-h.gone:
		}
	}()
}

// partsBy notes how the launcher is told of an end before that of the command.
func (h *hosted) partsBy(tell func(left)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parting = tell
}

// cutOff ends a session with its gateway, and gives its launcher the receipt.
func (h *hosted) cutOff() error {
	err := h.end("the gateway has ended")
	h.mu.Lock()
	parting := h.parting
	h.mu.Unlock()
	if parting != nil {
		parting(left{Early: true, Receipt: h.receipt(), Error: tell(err)})
	}
	return err
}

// narrow keeps only the named grants, and tells those who follow.
func (h *hosted) narrow(secrets []string) {
	h.live.narrow(secrets)
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// change is closed by the next narrow.
func (h *hosted) change() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// inside says whether the session is a part of another, at whatever depth.
func (h *hosted) inside(other *hosted) bool {
	for at := h.outer; at != nil; at = at.outer {
		if at == other {
			return true
		}
	}
	return false
}

// over says whether the session has ended for good: its command is gone, too.
func (h *hosted) over() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// view is the session as the control socket shows it.
func (h *hosted) view() sessionView {
	return sessionView{sessionStatus: h.status(), sessionNotes: h.decided(), Tunnels: h.client.Tunnels(),
		RulesHash: h.session.Policy.Hash, Extends: h.session.Profile.Extends, Roots: h.roots()}
}

// prune removes the files of sessions that ended long ago, and what killed gateways
// left behind.
func (g *gateway) prune() {
	if err := g.home.sweep(); err != nil {
		g.log.Warn("what a killed gateway handed out remains", slog.Any("cause", err))
	}
	if err := launch.Prune(g.home.Run(), filesAge); err != nil {
		g.log.Warn("files of old sessions remain", slog.Any("cause", err))
	}
}
