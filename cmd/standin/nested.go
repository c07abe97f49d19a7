package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"standin/launch"
)

// nestedError says why a run inside a session is refused.
type nestedError struct{ Outer, Reason string }

func newNestedError(outer, format string, args ...any) error {
	return &nestedError{outer, fmt.Sprintf(format, args...)}
}

func (e *nestedError) Error() string {
	return fmt.Sprintf("open a session inside session %q: %s", e.Outer, e.Reason)
}

// nested makes a run inside a session of this home a part of that session, or
// refuses it. This program does so of itself: it keeps an honest command from
// widening its grants by accident. One that can open the vault without this
// program needs no session.
func (r *running) nested() error {
	outer, err := r.outer()
	if err != nil || outer == nil {
		return err
	}
	if err := within(outer.sessionView, r.profile, r.policy.Hash); err != nil {
		return err
	}
	r.outside = outer
	return nil
}

// follow takes from an inner session what is taken from the outer one, until
// ctx ends: its end, and each secret. The outer gateway says so at once, and its
// own end ends the connection.
func (r *running) follow(ctx context.Context, h *hosted) {
	if r.outside == nil {
		return
	}
	h.g.log.Info("inside another session", slog.String("session", r.outside.ID))
	_ = r.outside.gateway.follow(ctx, r.outside.ID, func(outer sessionView) bool {
		h.narrow(outer.granted())
		return outer.Ended == ""
	})
	if ctx.Err() == nil {
		h.session.Revoke(reasonOuter)
	}
}

// reasonOuter ends a session that is a part of another.
const reasonOuter = "the outer session has ended"

// granted names the secrets that a session has left.
func (s sessionView) granted() (names []string) {
	for _, g := range s.Grants {
		if !g.Narrowed {
			names = append(names, g.Secret)
		}
	}
	return names
}

// outer is the live session that this process runs in, or nil: that of the nearest
// process above it that a session knows as its launcher or its command. Where none
// is above it, it is the one that the environment names.
func (r *running) outer() (*liveSession, error) {
	line := lineOf(os.Getpid())
	socket, id := r.p.getenv(launch.ControlVariable), r.p.getenv(launch.SessionVariable)
	gateways, err := survey(r.home, func(path string, pid int) bool { return path == socket || slices.Contains(line, pid) })
	if err != nil {
		return nil, err
	}
	var nearest, named *liveSession
	var unclear error
	best := len(line)
	for _, a := range gateways {
		if a.silent && a.awaited {
			return nil, newNestedError(id, "its gateway at %q does not answer", a.gateway.path)
		}
		known := false
		for i, v := range a.views {
			at := nearness(line, v.Roots)
			known = known || at >= 0
			if at >= 0 && (at < best || at == best && (nearest == nil || v.Opened.After(nearest.Opened))) {
				nearest, best, unclear = &liveSession{a.views[i], a.gateway}, at, nil
			}
			if v.ID == id {
				named = &liveSession{a.views[i], a.gateway}
			}
		}
		if at := slices.Index(line, a.status.PID); !known && at >= 0 && at < best {
			best, unclear = at, newNestedError(id, "it cannot be told which one it is, or it is only starting")
		}
	}
	switch {
	case unclear != nil:
		return nil, unclear
	case nearest != nil:
		return nearest, nil
	}
	return named, nil
}
