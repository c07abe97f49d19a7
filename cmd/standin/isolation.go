package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"standin/launch/peer"
)

// The levels of isolation: how surely a connection is tied to the command.
const (
	isolationSession = "session" // it shows the session's credential
	isolationTree    = "tree"    // it comes from a process of the command's tree
	isolationNetns   = "netns"   // and the command has no other network
)

// levels are in order: each ties more surely than those before.
var levels = []string{isolationSession, isolationTree, isolationNetns}

// isolation settles the level: the one that is named, or the best that the
// system has. One that is named and cannot be had ends the run.
func (r *running) isolation() error {
	level, least := r.f.isolation, r.profile.Isolation
	if level == "" {
		level = least
	}
	if level != "" && !slices.Contains(levels, level) {
		return usageError("--isolation %s: no such level; there are session, tree and netns", level)
	}
	if slices.Index(levels, level) < slices.Index(levels, least) {
		return usageError("--isolation %s: profile %q asks for %s", level, r.profile.Name, least)
	}
	if len(r.f.open) > 0 && level != isolationNetns {
		return &hinted{usageError("--open: only level %q has something to open", isolationNetns), "standin run --isolation netns --open … -- …"}
	}
	if level != isolationSession {
		r.lacking = peer.SelfTest()
	}
	switch {
	case level == "" && r.lacking == nil:
		level = isolationTree
	case level == "":
		level = isolationSession
	case r.lacking != nil:
		return &hinted{fmt.Errorf("isolate the command: level %q is not to be had: %w", level, r.lacking), "standin run --isolation session -- …"}
	}
	if r.profile.Extends == "command" && level == isolationSession {
		return &hinted{errors.Join(fmt.Errorf("isolate the command: profile %q is for the command alone (extends: command), and level %q cannot tell it from its children", r.profile.Name, level), r.lacking),
			"standin run --isolation tree -- …"}
	}
	r.profile.Isolation = level
	if level == isolationNetns {
		return r.openRoom()
	}
	return nil
}

// logIsolation says which level it is, and why it is not a better one.
func (r *running) logIsolation(g *gateway, l *live) {
	attrs := []any{slog.String("session", l.session.ID), slog.String("level", l.client.Isolation)}
	if r.lacking != nil {
		attrs = append(attrs, slog.Any("cause", r.lacking))
	} else if l.client.Isolation != isolationSession {
		attrs = append(attrs, slog.String("selftest", "passed"))
	}
	g.log.Info("isolation", attrs...)
}
