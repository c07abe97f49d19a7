package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"standin/audit"
	"standin/proxy"
)

// outcomes are the words that audit.Entry.Outcome may say.
var outcomes = []string{"substituted", "delivered", "passed", "refused", "ok", "failed"}

// errFound ends a search at its first hit.
var errFound = errors.New("found")

// occurs tells whether any record of the log is selected.
func occurs(dir string, f audit.Filter) bool {
	err := audit.Query(dir, f, func(*audit.Entry) error { return errFound })
	return errors.Is(err, errFound)
}

// checkOutcome refuses an outcome that no record could tell of: an empty table
// would say that nothing of the kind happened.
func checkOutcome(dir, outcome string) error {
	status, err := strconv.Atoi(outcome)
	switch {
	case outcome == "", slices.Contains(outcomes, outcome), proxy.IsCode(outcome), err == nil && 100 <= status && status <= 599:
		return nil
	case occurs(dir, audit.Filter{Outcome: outcome}): // what another version wrote
		return nil
	}
	return &hinted{usageError("--outcome %q: there is no such outcome", outcome),
		"one of " + strings.Join(outcomes, ", ") + ", a code such as no_grant, or a status such as 403"}
}

// explainNothing says, where a search found nothing, which of its conditions no
// record of the whole log meets: a misspelt name must not look like an answer.
func (p *program) explainNothing(dir string, f audit.Filter) {
	for _, alone := range []struct {
		set  bool
		only audit.Filter
		what string
		more func() string
	}{
		{f.Secret != "", audit.Filter{Secret: f.Secret}, "the secret " + strconv.QuoteToASCII(f.Secret), func() string { return secretsOf(dir) }},
		{f.Session != "", audit.Filter{Session: f.Session}, "the session " + strconv.QuoteToASCII(f.Session), func() string { return "see standin audit show --summary" }},
		{f.Host != "", audit.Filter{Host: f.Host}, "the host " + strconv.QuoteToASCII(f.Host), func() string { return "hosts are written as in the rules, without a port" }},
		{f.Fingerprint != "", audit.Filter{Fingerprint: f.Fingerprint}, "the value of standard input", func() string {
			return "only values that this vault's gateways sent or delivered are known, byte for byte"
		}},
		{f.PID != 0, audit.Filter{PID: f.PID}, fmt.Sprintf("the process %d", f.PID), nil},
		{f.Exe != "", audit.Filter{Exe: f.Exe}, "the process " + strconv.QuoteToASCII(f.Exe), func() string { return "its executable's whole path, or the last part of it" }},
	} {
		// Where it was the only condition, the search that found nothing has told.
		if !alone.set || !reflect.DeepEqual(f, alone.only) && occurs(dir, alone.only) {
			continue
		}
		text := "no record of the whole log names " + alone.what
		if alone.more != nil {
			text += "; " + alone.more()
		}
		fmt.Fprintf(p.err, "standin: hint: %s\n", text)
	}
}

// secretsOf names the secrets that the log knows: people try the vault's path,
// where the rules have a name.
func secretsOf(dir string) string {
	names := map[string]bool{}
	err := audit.Query(dir, audit.Filter{Types: []string{audit.TypeGrant, audit.TypeDeliver}}, func(e *audit.Entry) error {
		for _, name := range e.Secrets {
			names[name] = true
		}
		for _, u := range e.Uses {
			names[u.Secret] = true
		}
		return nil
	})
	var broken *audit.MalformedError
	if len(names) == 0 || err != nil && !errors.As(err, &broken) {
		return "it names none"
	}
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, shown(name))
	}
	slices.Sort(list)
	if len(list) > 20 {
		list = append(list[:20], "…")
	}
	return "it has " + strings.Join(list, ", ") + " (the names of the rules file, not the vault's)"
}
