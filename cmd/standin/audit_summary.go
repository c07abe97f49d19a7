package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"standin/audit"
)

// An auditUse is what --summary says of one secret in one session; without a
// name it is about the requests of the session that were refused and named none.
type auditUse struct {
	Session string    `json:"session"`
	Profile string    `json:"profile,omitempty"`
	Secret  string    `json:"secret"`
	Granted time.Time `json:"granted,omitzero"`
	First   time.Time `json:"first_use,omitzero"`
	Last    time.Time `json:"last_use,omitzero"`
	Uses    int       `json:"uses"`
	Hosts   []string  `json:"hosts"`
	Exes    []string  `json:"executables"`
	// Delivered is how the command got the value itself, if it did: "env", "file".
	Delivered []string `json:"delivered,omitempty"`
	Refused   int      `json:"refused"` // requests that were about this secret, or named none
	Ended     string   `json:"ended"`
}

// auditSummary collects uses by session and secret.
type auditSummary struct {
	secret string
	uses   map[[2]string]*auditUse
	order  []*auditUse
	ended  map[string]string
}

func (p *program) showSummary(dir string, s *auditShow) (found bool, err error) {
	sum := &auditSummary{secret: s.filter.Secret, uses: map[[2]string]*auditUse{}, ended: map[string]string{}}
	f := s.filter
	f.Types = []string{audit.TypeGrant, audit.TypeSubstitute, audit.TypeDeliver, audit.TypeDeny, audit.TypeMisplaced}
	err = audit.Query(dir, f, sum.add)
	// How a session ended stands in records that name neither secret, host nor outcome, and may be later.
	ends := audit.Filter{Session: f.Session, Since: f.Since, Types: []string{audit.TypeRevoke, audit.TypeClose}}
	if len(sum.order) > 0 {
		err = errors.Join(err, audit.Query(dir, ends, sum.end))
	}
	for _, u := range sum.order {
		if u.Ended = sum.ended[u.Session]; u.Ended == "" {
			u.Ended = "open, or ended without a record"
		}
	}
	slices.SortStableFunc(sum.order, func(a, b *auditUse) int { return cmp.Compare(b.Last.UnixNano(), a.Last.UnixNano()) })
	if errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if s.json {
		if sum.order == nil {
			sum.order = []*auditUse{}
		}
		return len(sum.order) > 0, errors.Join(printJSON(p.out, sum.order), err)
	}
	t := &columns{out: p.out}
	t.add("SESSION", "SECRET", "USES", "FIRST", "LAST", "HOSTS", "BY", "REFUSED", "ENDED")
	for _, u := range sum.order {
		t.add(shown(u.Session), dash(shown(u.Secret)), fmt.Sprint(u.Uses), shownTime(u.First), shownTime(u.Last),
			dash(shown(strings.Join(u.places(), ","))), dash(shown(strings.Join(u.Exes, ","))), fmt.Sprint(u.Refused), shown(u.Ended))
	}
	return len(sum.order) > 0, errors.Join(t.flush(), err)
}

// end notes how a session ended.
func (s *auditSummary) end(e *audit.Entry) error {
	switch e.Type {
	case audit.TypeClose:
		s.ended[e.Session] = "closed " + shownTime(e.Time)
		if e.Reason != "" {
			s.ended[e.Session] += ": " + e.Reason
		}
	case audit.TypeRevoke:
		if s.ended[e.Session] == "" {
			s.ended[e.Session] = "revoked " + shownTime(e.Time)
		}
	}
	return nil
}

// add counts an entry.
func (s *auditSummary) add(e *audit.Entry) error {
	switch e.Type {
	case audit.TypeDeny, audit.TypeMisplaced:
		s.refuse(e)
	case audit.TypeGrant:
		for _, name := range e.Secrets {
			if u := s.use(e, name); u != nil && u.Granted.IsZero() {
				u.Granted = e.Time
			}
		}
	case audit.TypeSubstitute, audit.TypeDeliver:
		for _, used := range e.Uses {
			s.count(e, used.Secret, max(1, used.Count))
		}
		if len(e.Uses) == 0 {
			for _, name := range e.Secrets {
				s.count(e, name, 1)
			}
		}
	}
	return nil
}

// refuse counts a refusal for each secret that it names. What was misplaced and
// sent on as it is was not refused.
func (s *auditSummary) refuse(e *audit.Entry) {
	if e.Outcome() != "refused" {
		return
	}
	names := e.Secrets
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		if u := s.use(e, name); u != nil {
			u.Refused += max(1, e.Count)
		}
	}
}

// places are where the secret went.
func (u *auditUse) places() []string {
	places := u.Hosts
	for _, how := range u.Delivered {
		places = append(places, "delivered("+how+")")
	}
	return places
}

func (s *auditSummary) count(e *audit.Entry, secret string, n int) {
	u := s.use(e, secret)
	if u == nil {
		return
	}
	if u.First.IsZero() {
		u.First = e.Time
	}
	u.Last = e.Time
	u.Uses += n
	u.Hosts = addName(u.Hosts, e.Host)
	if e.Type == audit.TypeDeliver {
		u.Delivered = addName(u.Delivered, e.Reason)
	}
	u.Exes = addName(u.Exes, path.Base(e.Process.Exe))
}

func (s *auditSummary) use(e *audit.Entry, secret string) *auditUse {
	if s.secret != "" && secret != s.secret {
		return nil
	}
	key := [2]string{e.Session, secret}
	u := s.uses[key]
	if u == nil {
		u = &auditUse{Session: e.Session, Profile: e.Profile, Secret: secret, Hosts: []string{}, Exes: []string{}}
		s.uses[key] = u
		s.order = append(s.order, u)
	}
	return u
}

// addName adds a name once, and at most a handful: hosts may be many.
func addName(names []string, name string) []string {
	if name == "" || name == "." || len(names) > 8 || slices.Contains(names, name) {
		return names
	}
	if len(names) == 8 {
		name = "…"
	}
	return append(names, name)
}
