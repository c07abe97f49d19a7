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
	listener net.Listener
	served   chan error
	began    time.Time

	mu    sync.Mutex
	notes sessionNotes
}

// host opens a session and serves it on a listener of its own.
func (g *gateway) host(ctx context.Context, cfg sessionConfig) (*hosted, error) {
	l, err := g.open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	listener, err := cfg.listen()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on loopback: %w", err), l.end("no listener", began))
	}
	gate, err := newGate(g, l, cfg.room)
	if err != nil {
		return nil, errors.Join(err, listener.Close(), l.end("no gate", began))
	}
	h := &hosted{live: l, gate: gate, room: cfg.room, listener: listener, served: make(chan error, 1), began: began,
		notes: sessionNotes{Command: cfg.command, Isolation: cfg.isolation}}
	go func() { h.served <- g.proxy.Serve(judgedListener{listener}, gate) }()
	if h.room != nil {
		h.room.serve(g, gate)
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

// proxyURL is what the command's environment names as its proxy.
func (h *hosted) proxyURL() string { return h.live.proxyURL(h.listener.Addr()) }

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

// end closes the front door and ends the session. The grants are revoked, and
// that is on record, before it returns.
func (h *hosted) end(reason string) error {
	closed := errors.Join(h.listener.Close(), h.room.close())
	return errors.Join(h.live.end(reason, h.began), <-h.served, h.gate.close(), closed)
}

// prune removes the files of sessions that ended long ago.
func (g *gateway) prune() {
	if err := launch.Prune(g.home.Run(), filesAge); err != nil {
		g.log.Warn("files of old sessions remain", slog.Any("cause", err))
	}
}
