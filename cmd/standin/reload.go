package main

import (
	"context"
	"log/slog"

	"standin/rules"
)

// reload reads the rules again. What cannot be read, or is not trusted, changes
// nothing.
func (s *serving) reload() {
	now := s.g.edition()
	policy, err := rules.Load(now.policy.Path)
	if err == nil && policy.Hash == now.policy.Hash {
		return
	}
	if err == nil {
		err = trusted(s.g.store, policy)
	}
	var next *edition
	if err == nil {
		next, err = s.g.newEdition(context.Background(), policy)
	}
	if err != nil {
		s.g.log.Warn("rules are not taken", slog.Any("cause", err), slog.String("hint", hint(err)))
		return
	}
	s.g.adopt(next)
	s.g.log.Info("rules are taken, for new sessions", slog.String("rules", policy.Hash))
}
