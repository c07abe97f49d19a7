package audit

import "time"

const (
	floodBurst  = 200 // refusals of one session that are listed one by one, at once
	floodRate   = 10  // and then, a second
	relayed     = 10  // times as many passthrough tunnels: they are work that was allowed, and cost the client more
	floodEvery  = time.Second
	maxSessions = 4096 // sessions whose floods are told apart
	maxCounts   = 64   // kinds of refusals that are told apart in a session
)

// A flood decides which records of refusals are written and which are only counted, so that a client that is refused a
// million times cannot fill the disk and crowd out the record of a substitution.
type flood struct {
	sessions map[string]*refusals
	counted  bool // something waits for a summary
	last     time.Time
	low      bool // disk space is short: refusals are only counted
}

type refusals struct {
	tokens  float64
	tunnels float64
	at      time.Time
	counts  map[refusal]*Record
}

// A refusal is what records of one summary have in common. Hosts are not part of it: a client can make up any number.
type refusal struct{ kind, code string }

func (f *flood) init() { f.sessions = map[string]*refusals{} }

// counts tells whether the record is only counted.
func (f *flood) counts(r *Record, now time.Time) bool {
	switch r.Type {
	case TypeDeny, TypeMisplaced, TypeClientRejectedLeaf, TypePassthrough:
	default:
		return false
	}
	if r.Count > 1 { // a summary already
		return false
	}
	key := r.Session
	s := f.sessions[key]
	if s == nil {
		if len(f.sessions) >= maxSessions {
			key = ""
		}
		if s = f.sessions[key]; s == nil {
			s = &refusals{tokens: floodBurst, tunnels: relayed * floodBurst, at: now, counts: map[refusal]*Record{}}
			f.sessions[key] = s
		}
	}
	earned := now.Sub(s.at).Seconds() * floodRate
	s.tokens = min(floodBurst, s.tokens+earned)
	s.tunnels = min(relayed*floodBurst, s.tunnels+relayed*earned)
	s.at = now
	left := &s.tokens
	if r.Type == TypePassthrough {
		left = &s.tunnels
	}
	if *left >= 1 && !f.low {
		*left--
		return false
	}
	f.count(s, key, r)
	return true
}

func (f *flood) count(s *refusals, session string, r *Record) {
	k := refusal{r.Type, r.Code}
	if len(s.counts) >= maxCounts {
		k = refusal{TypeDeny, "other"}
	}
	sum := s.counts[k]
	if sum == nil {
		sum = &Record{Type: k.kind, Session: session, Code: k.code, Host: r.Host, Port: r.Port, Rule: r.Rule,
			Isolation: r.Isolation, Process: r.Process, Reason: "a summary of many like it"}
		s.counts[k] = sum
	}
	if sum.Host != r.Host || sum.Port != r.Port {
		sum.Host, sum.Port = "", 0
	}
	if sum.Rule != r.Rule {
		sum.Rule = ""
	}
	if sum.Process != r.Process {
		sum.Process = Process{}
	}
	sum.Count++
	f.counted = true
}

// summarise writes what was counted for the session, or for all where session is "", into the pending batch. It is
// called with mu held.
func (l *Log) summarise(now time.Time, session string) {
	f := &l.flood
	if f.counted {
		for key, s := range f.sessions {
			if session != "" && key != session {
				continue
			}
			for k, sum := range s.counts {
				if l.encode(sum, now, true) == nil {
					delete(s.counts, k)
				}
			}
		}
	}
	if session == "" {
		f.counted = false
		f.last = now
		for key, s := range f.sessions {
			if len(s.counts) > 0 {
				f.counted = true
			} else if now.Sub(s.at) > time.Minute {
				delete(f.sessions, key)
			}
		}
		return
	}
	if s := f.sessions[session]; s != nil && len(s.counts) == 0 {
		delete(f.sessions, session)
	}
}
