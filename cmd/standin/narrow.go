package main

import (
	"slices"
	"time"

	"standin/rules"
)

// asked is what whoever opens a session asks for. It only takes away.
type asked struct {
	Profile   string        `json:"profile,omitempty"`
	Secrets   []string      `json:"secrets,omitempty"` // none: all of the profile
	TTL       time.Duration `json:"ttl,omitempty"`     // 0: that of the profile
	Isolation string        `json:"isolation,omitempty"`
}

// narrowed is the profile of a policy, less what was not asked for.
func narrowed(policy *rules.Policy, a asked) (*rules.Profile, error) {
	found, err := policy.Profile(a.Profile)
	if err != nil {
		return nil, err
	}
	return lessened(found, a)
}

// lessened is a profile less what was not asked for.
func lessened(found *rules.Profile, a asked) (*rules.Profile, error) {
	profile := *found
	if len(a.Secrets) > 0 {
		for _, name := range a.Secrets {
			if !slices.Contains(profile.Secrets, name) {
				return nil, usageError("--secret %s: profile %q does not have it", name, profile.Name)
			}
		}
		profile.Secrets = a.Secrets
	}
	if a.TTL < 0 || a.TTL > profile.TTL {
		return nil, usageError("--ttl %v: profile %q allows at most %v", a.TTL, profile.Name, profile.TTL)
	}
	if a.TTL > 0 {
		profile.TTL = a.TTL
	}
	return &profile, nil
}

// within makes a profile a part of the session that it is asked for inside of,
// or says why it is none.
func within(outer sessionView, profile *rules.Profile, rulesHash string) error {
	refuse := func(format string, args ...any) error { return newNestedError(outer.ID, format, args...) }
	if outer.Ended != "" {
		return refuse("it has ended")
	}
	if outer.Extends == "command" {
		return refuse("its grants are for the command alone")
	}
	if outer.RulesHash != rulesHash {
		return refuse("it has other rules")
	}
	if slices.Index(levels, profile.Isolation) < slices.Index(levels, outer.Isolation) {
		return refuse("isolation %q is less than its %q", profile.Isolation, outer.Isolation)
	}
	for _, name := range profile.Secrets {
		i := slices.IndexFunc(outer.Grants, func(g granted) bool { return g.Secret == name && !g.Narrowed })
		if i < 0 {
			return refuse("it has no grant of secret %q", name)
		}
		if outer.Grants[i].Left >= 0 {
			return refuse("its uses of secret %q are counted", name)
		}
	}
	profile.TTL = min(profile.TTL, time.Until(outer.Expires))
	return nil
}
