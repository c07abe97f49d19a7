package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"standin/grant/scrub"
	"standin/launch"
	"standin/rules"
	"standin/rules/catalog"
)

// outfit is what the environment of a session's command is made of, as its
// gateway says it: to itself, or to the launcher that has opened the session.
type outfit struct {
	Session      string                 `json:"session"`
	ProxyURL     string                 `json:"proxy_url"`
	RootPEM      []byte                 `json:"root_pem"`
	Hosts        []string               `json:"hosts"`
	Git          []launch.GitCredential `json:"git"`
	Variables    map[string]string      `json:"variables"`               // with a placeholder, or what the rules hand out
	Placeholders map[string]string      `json:"placeholders"`            // of every secret of the rules
	Carriers     []string               `json:"carriers"`                // all that may carry a secret
	Holding      []string               `json:"holding"`                 // of the user's, in which a value of the session stands
	HoldingExtra []string               `json:"holding_extra,omitempty"` // the same, of the --env-file
	Inherit      []string               `json:"inherit"`
	InheritAll   bool                   `json:"inherit_all"`
	Delivered    map[string]string      `json:"delivered"` // values that the command gets, by their placeholders
}

// outfit hands out what the rules deliver, and says what the command gets.
// Environ is the environment that the user gave, extra what the --env-file adds.
func (l *live) outfit(environ, extra []string, proxyURL string) (*outfit, error) {
	policy, profile := l.session.Policy, l.session.Profile
	o := &outfit{Session: l.session.ID, ProxyURL: proxyURL, RootPEM: l.authority.RootPEM(), Hosts: policy.InterceptedHosts(),
		Git: l.gitHosts(), Variables: map[string]string{}, Delivered: map[string]string{}, Placeholders: l.placeholders, Carriers: catalog.Carriers(),
		Holding: holding(environ, l.session.Scrubber()), HoldingExtra: holding(extra, l.session.Scrubber()), Inherit: profile.Inherit, InheritAll: profile.InheritAll}
	for _, secret := range policy.Secrets {
		o.Carriers = append(o.Carriers, secret.Env...)
		if source, ok := strings.CutPrefix(secret.Source, "env:"); ok {
			o.Carriers = append(o.Carriers, source) // where the value itself stands
		}
	}
	for _, name := range profile.Secrets {
		secret := policy.Secrets[name]
		value := l.placeholders[name]
		if secret.Deliver != rules.Wire {
			var err error
			if value, err = l.deliver(secret, o.Delivered); err != nil {
				return nil, err
			}
		}
		for _, variable := range secret.Env {
			o.Variables[variable] = value
		}
	}
	return o, nil
}

// holding names the variables in which a value of the session stands, whatever
// they are called. No profile can inherit them.
func holding(environ []string, values *scrub.Scrubber) (names []string) {
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if values.Holds(value) {
			names = append(names, name)
		}
	}
	return names
}

// gitHosts are the hosts at which git is to answer with a placeholder.
func (l *live) gitHosts() []launch.GitCredential {
	var found []launch.GitCredential
	for _, rule := range l.session.Policy.Rules {
		for _, sub := range rule.Substitute {
			if !slices.Contains(sub.In, rules.Surface{Kind: rules.BasicPassword}) || !slices.Contains(l.session.Profile.Secrets, sub.Secret) {
				continue
			}
			for _, host := range rule.Hosts {
				found = append(found, launch.GitCredential{Host: gitHost(host), Placeholder: l.placeholders[sub.Secret]})
			}
		}
	}
	return found
}

// dressing is what the launcher adds to an outfit.
type dressing struct {
	home    home
	environ []string // that the user gave
	extra   []string // variables of the --env-file
	socket  string   // where the gateway is asked
}

// dress writes the files of the session, and makes the environment of its
// command. Removed names what the command does not get of the user's.
func (o *outfit) dress(d dressing) (files *launch.Files, env, removed []string, err error) {
	files, err = launch.WriteFiles(launch.FilesConfig{Dir: filepath.Join(d.home.Run(), o.Session), RootPEM: o.RootPEM, Environ: d.environ,
		ProxyURL: o.ProxyURL, Hosts: o.Hosts, GitHosts: o.Git})
	if errors.Is(err, syscall.ENOSPC) {
		err = &hinted{err, "free space where the files of sessions are: df -h " + shellWord(d.home.Run())}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	withheld := o.add(d.extra)
	inherited := slices.DeleteFunc(slices.Clone(d.environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(o.Holding, name) || slices.Contains(withheld, name)
	})
	env, removed = launch.Environ(launch.EnvConfig{Environ: inherited, Files: files, ProxyURL: o.ProxyURL, Placeholders: o.Variables,
		Carriers: o.Carriers, Hosts: o.Hosts, Inherit: o.Inherit, InheritAll: o.InheritAll, Session: o.Session, ControlSocket: d.socket})
	removed = append(removed, withheld...)
	for _, name := range o.Holding {
		if _, given := o.Variables[name]; !given { // else it carries a placeholder now
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	return files, env, slices.Compact(removed), nil
}

// add puts variables of the --env-file among the others, and names those that the
// command does not get. Where a value of the session stands, a placeholder of the
// same name stays, and else nothing: whoever wrote the value out meant its secret.
func (o *outfit) add(extra []string) (withheld []string) {
	for _, entry := range extra {
		variable, value, _ := strings.Cut(entry, "=")
		name, refers := secretReference(value)
		_, carries := o.Variables[variable]
		switch {
		case launch.Withheld(variable):
			withheld = append(withheld, variable)
		case refers:
			o.Variables[variable] = o.Placeholders[name]
		case slices.Contains(o.HoldingExtra, variable) && !carries:
			withheld = append(withheld, variable)
		case !slices.Contains(o.HoldingExtra, variable):
			o.Variables[variable] = value
		}
	}
	return withheld
}

// gitHost writes a host as git's configuration does: with a port unless it is 443.
func gitHost(h rules.HostPattern) string {
	name := h.Name
	if h.Wildcard {
		name = "*." + name
	}
	if h.Port != 443 {
		name = fmt.Sprintf("%s:%d", name, h.Port)
	}
	return name
}
