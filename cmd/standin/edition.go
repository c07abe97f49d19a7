package main

import (
	"context"

	"standin/rules"
	"standin/vault"
)

// edition is what sessions are opened under: a trusted policy with its
// placeholders and sources, and what a later state of its file takes away.
type edition struct {
	policy       *rules.Policy
	placeholders map[string]string
	resolver     *vault.Resolver
	limit        *rules.Policy // nil: nothing is taken away
}

// newEdition makes the edition of a policy that is trusted.
func (g *gateway) newEdition(ctx context.Context, policy *rules.Policy) (*edition, error) {
	placeholders, err := placeholdersFor(ctx, g.home, policy)
	if err != nil {
		return nil, err
	}
	return &edition{policy: policy, placeholders: placeholders,
		resolver: vault.NewResolver(vault.ResolverConfig{Store: g.store, Environ: g.environ, Exec: execSources(policy)})}, nil
}

// edition is the one that new sessions are opened under.
func (g *gateway) edition() *edition { return g.current.Load() }

// adopt lets new sessions be opened under e. Sessions that live keep theirs.
func (g *gateway) adopt(e *edition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.editions = append(g.editions, e)
	g.current.Store(e)
}

// closeEditions ends what the sources have open, after all sessions.
func (g *gateway) closeEditions() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.editions {
		e.resolver.Close()
	}
}
