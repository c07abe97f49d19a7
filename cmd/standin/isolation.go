package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"standin/launch/peer"
	"standin/rules"
)

// The levels of isolation: how surely a connection is tied to the command.
const (
	isolationSession = "session" // it shows the session's credential
	isolationTree    = "tree"    // it comes from a process of the command's tree
	isolationNetns   = "netns"   // and the command has no other network
)

// levels are in order: each ties more surely than those before.
var levels = []string{isolationSession, isolationTree, isolationNetns}

// isolation settles the level of a session whose gateway is this process.
func (r *running) isolation() (err error) {
	if r.lacking, err = settleIsolation(r.profile, r.f.isolation, peer.SelfTest); err != nil {
		return err
	}
	if r.profile.Isolation == isolationNetns {
		return r.openRoom()
	}
	if len(r.f.open) > 0 {
		return &hinted{usageError("--open: only level %q has something to open", isolationNetns), "standin run --isolation netns --open … -- …"}
	}
	return nil
}

// settleIsolation settles the level of a profile: the one that is named, or the
// best that the system has. One that is named and cannot be had is an error.
// Missing asks what is missing for "tree"; it is returned where the level is less.
func settleIsolation(profile *rules.Profile, named string, missing func() error) (lacking, err error) {
	level, least := named, profile.Isolation
	if level == "" {
		level = least
	}
	if level != "" && !slices.Contains(levels, level) {
		return nil, usageError("--isolation %s: no such level; there are session, tree and netns", level)
	}
	if slices.Index(levels, level) < slices.Index(levels, least) {
		return nil, usageError("--isolation %s: profile %q asks for %s", level, profile.Name, least)
	}
	if level != isolationSession {
		lacking = missing()
	}
	switch {
	case level == "" && lacking == nil:
		level = isolationTree
	case level == "":
		level = isolationSession
	case lacking != nil:
		return nil, &hinted{fmt.Errorf("isolate the command: level %q is not to be had: %w", level, lacking), "standin run --isolation session -- …"}
	}
	if profile.Extends == "command" && level == isolationSession {
		return nil, &hinted{errors.Join(fmt.Errorf("isolate the command: profile %q is for the command alone (extends: command), and level %q cannot tell it from its children", profile.Name, level), lacking),
			"standin run --isolation tree -- …"}
	}
	profile.Isolation = level
	return lacking, nil
}

// logIsolation says which level it is, and why it is not a better one.
func (g *gateway) logIsolation(l *live, lacking error) {
	attrs := []any{slog.String("session", l.session.ID), slog.String("level", l.client.Isolation)}
	if lacking != nil {
		attrs = append(attrs, slog.Any("cause", lacking))
	} else if l.client.Isolation != isolationSession {
		attrs = append(attrs, slog.String("selftest", "passed"))
	}
	g.log.Info("isolation", attrs...)
}
