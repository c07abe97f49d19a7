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
	file         *rules.Policy // what the file said last, trusted or not
}

// newEdition makes the edition of a policy that is trusted.
func (g *gateway) newEdition(ctx context.Context, policy *rules.Policy) (*edition, error) {
	placeholders, err := placeholdersFor(ctx, g.home, policy)
	if err != nil {
		return nil, err
	}
	e := &edition{policy: policy, file: policy, placeholders: placeholders,
		resolver: vault.NewResolver(vault.ResolverConfig{Store: g.store, Environ: g.environ, Exec: execSources(policy)})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resolvers = append(g.resolvers, e.resolver)
	return e, nil
}

// limited is the same edition under a later state of its file, which is not trusted.
func (e *edition) limited(file *rules.Policy) *edition {
	limited := *e
	limited.file = file
	return &limited
}

// edition is the one that new sessions are opened under.
func (g *gateway) edition() *edition { return g.current.Load() }

// closeSources ends what the sources have open, after all sessions.
func (g *gateway) closeSources() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.resolvers {
		r.Close()
	}
}
