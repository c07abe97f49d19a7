package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"standin/launch/peer"
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

// outerEvery is how late the end of the outer session may reach an inner one.
const outerEvery = time.Second

// follow takes from an inner session what is taken from the outer one, until
// ctx ends: its end, and each secret.
func (r *running) follow(ctx context.Context, l *live) {
	if r.outside == nil {
		return
	}
	l.g.log.Info("inside another session", slog.String("session", r.outside.ID))
	ticker := time.NewTicker(outerEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var views []sessionView
		err := r.outside.gateway.call("GET", "/v1/sessions", "", &views)
		i := slices.IndexFunc(views, func(v sessionView) bool { return v.ID == r.outside.ID && v.Ended == "" })
		if err != nil || i < 0 {
			l.session.Revoke("the outer session has ended")
			return
		}
		var left []string
		for _, g := range views[i].Grants {
			if !g.Narrowed {
				left = append(left, g.Secret)
			}
		}
		l.narrow(left)
	}
}

// outer is the live session that this process runs in, or nil: that of a gateway
// above it, or the one that the environment names.
func (r *running) outer() (*liveSession, error) {
	gateways, err := gatewaysOf(r.home)
	if err != nil {
		return nil, err
	}
	above, named := peer.Ancestors(os.Getpid()), r.p.getenv("STANDIN_SESSION")
	for _, g := range gateways {
		var status gatewayStatus
		var views []sessionView
		if g.call("GET", "/v1/status", "", &status) != nil || g.call("GET", "/v1/sessions", "", &views) != nil {
			continue // left behind by a gateway that was killed
		}
		for i := range views {
			if views[i].ID == named || slices.Contains(above, views[i].PID) || slices.Contains(above, status.PID) && len(views) == 1 {
				return &liveSession{views[i], g}, nil
			}
		}
		if slices.Contains(above, status.PID) {
			return nil, &nestedError{named, "it cannot be told which one it is, or it is only starting"}
		}
	}
	return nil, nil
}
