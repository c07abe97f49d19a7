package main

import (
	"context"
	"log/slog"
)

// reload reads the rules again. What they no longer allow is taken from every
// session, new and old, without a question; what they add is for new sessions, and
// only once they are trusted. Rules that cannot be read change nothing.
func (s *serving) reload() {
	now := s.g.edition()
	file, err := readRules(now.policy.Path)
	if err != nil {
		s.g.log.Warn("rules are not taken", slog.Any("cause", err), slog.String("hint", hint(err)))
		return
	}
	next := now.limited(file)
	err = trusted(s.g.store, file)
	if err == nil && file.Hash != now.policy.Hash {
		if next, err = s.g.newEdition(context.Background(), file); err != nil {
			next = now.limited(file)
		}
	}
	s.g.current.Store(next)
	for _, h := range s.desk.all() {
		h.session.Limit(file)
	}
	if err != nil {
		s.g.log.Warn("rules: what they take away is taken, what they add is not", slog.String("rules", file.Hash),
			slog.Any("cause", err), slog.String("hint", hint(err)+", and then HUP once more"))
		return
	}
	s.g.log.Info("rules are taken, and what they add for new sessions", slog.String("rules", file.Hash))
}
