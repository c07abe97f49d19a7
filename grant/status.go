package grant

import (
	"slices"
	"strings"
	"time"
)

// Status is what a session may say about itself: names and counts, no value
// and no placeholder.
type Status struct {
	ID      string        `json:"id"`
	Profile string        `json:"profile"`
	Opened  time.Time     `json:"opened"`
	Expires time.Time     `json:"expires"`
	Ended   string        `json:"ended,omitempty"`
	Grants  []GrantStatus `json:"grants"`
	Alarms  int           `json:"alarms"` // placeholders noticed where none belongs
}

// GrantStatus is one grant. Left is -1 when uses are not limited.
type GrantStatus struct {
	Secret    string    `json:"secret"`
	Used      int       `json:"used"`
	Left      int       `json:"left"`
	Misplaced int       `json:"misplaced"`
	LastUsed  time.Time `json:"last_used,omitzero"`
}

// Status describes the session now.
func (s *Session) Status() Status {
	reason := s.Reason()
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{ID: s.ID, Profile: s.Profile.Name, Opened: s.Opened, Expires: s.Expires, Ended: reason, Alarms: s.alarms}
	for name, g := range s.grants {
		left := -1
		if g.limited {
			left = g.left
		}
		status.Grants = append(status.Grants, GrantStatus{name, g.used, left, g.misplaced, g.lastUsed})
	}
	slices.SortFunc(status.Grants, func(a, b GrantStatus) int { return strings.Compare(a.Secret, b.Secret) })
	return status
}
