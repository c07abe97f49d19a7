package main

import (
	"slices"
	"strings"
	"time"

	"standin/grant"
	"standin/rules"
)

// sessionStatus is what a session says of itself, with all of its grants: those
// on the wire, and what the command itself was handed.
type sessionStatus struct {
	grant.Status
	Grants []granted `json:"grants"` // in place of those of grant.Status
}

// granted is one grant. Delivered is "env" or "file" where the command holds the
// value itself, and Used then counts how often it was handed out.
type granted struct {
	grant.GrantStatus
	Delivered string `json:"delivered,omitempty"`
	// Narrowed says that the grant was taken back. The command keeps what it was
	// handed; it can hand it on to no session inside of its own.
	Narrowed bool `json:"narrowed,omitempty"`
}

// how is the name of the granted secret, and how it is delivered.
func (g granted) how() string {
	if g.Delivered == "" {
		return g.Secret
	}
	return g.Secret + "(" + g.Delivered + ")"
}

// grantDeliveries notes which secrets of the profile the command gets itself.
func (l *live) grantDeliveries() {
	l.handed = map[string]*granted{}
	for _, name := range l.session.Profile.Secrets {
		if how := l.session.Policy.Secrets[name].Deliver; how != rules.Wire {
			l.handed[name] = &granted{GrantStatus: grant.GrantStatus{Secret: name, Left: -1}, Delivered: how.String()}
		}
	}
}

// handedOut notes that the command got a value.
func (l *live) handedOut(name string) {
	l.handing.Lock()
	defer l.handing.Unlock()
	if g := l.handed[name]; g != nil {
		g.Used++
		g.LastUsed = time.Now()
	}
}

// narrow keeps only the grants of the named secrets.
func (l *live) narrow(secrets []string) {
	l.session.Narrow(secrets)
	l.handing.Lock()
	defer l.handing.Unlock()
	for name, g := range l.handed {
		g.Narrowed = g.Narrowed || !slices.Contains(secrets, name)
	}
}

// status describes the session now.
func (l *live) status() sessionStatus {
	s := sessionStatus{Status: l.session.Status(), Grants: []granted{}}
	for _, g := range s.Status.Grants {
		s.Grants = append(s.Grants, granted{GrantStatus: g})
	}
	l.handing.Lock()
	defer l.handing.Unlock()
	for _, g := range l.handed {
		s.Grants = append(s.Grants, *g)
	}
	slices.SortFunc(s.Grants, func(a, b granted) int { return strings.Compare(a.Secret, b.Secret) })
	return s
}
