// Package catalog holds rules for well-known services, and the names of the
// environment variables that are known to carry secrets.
//
// It does not judge rules, nor know what a user has: a file that it makes is
// the user's to read, narrow and trust. The invariant: every file that it makes
// loads, and takes a secret nowhere but to the hosts of its own service.
package catalog

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"
)

//go:embed *.yaml
var services embed.FS

//go:embed carriers.txt
var carriers string

// UnknownServiceError is returned for a service that is not in the catalog.
type UnknownServiceError struct {
	Name  string
	Known []string
}

func (e *UnknownServiceError) Error() string {
	return fmt.Sprintf("find service %q: not in the catalog", e.Name)
}

// Names lists the services, sorted.
func Names() []string {
	entries, err := services.ReadDir(".")
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), path.Ext(e.Name())))
	}
	return names
}

// Carriers lists, sorted, the variables whose value is known to be a secret or
// to lead to one.
func Carriers() []string {
	var names []string
	for line := range strings.Lines(carriers) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			names = append(names, line)
		}
	}
	slices.Sort(names)
	return names
}

const (
	begin = `# What commands under "standin run" may use, and where. Narrow it to what they
# need: add methods and paths to the rules.
# After a change: standin rules check && standin rules trust
version: 1
`
	end = `
# What happens to hosts that no rule names: passthrough (relayed unopened) or deny.
unmatched: passthrough
`
)

// File is a rules file for the named services, in the order given; one that is
// named twice stands there once.
func File(names []string) ([]byte, error) {
	var secrets, rules bytes.Buffer
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		comment, secret, rule, err := pieces(name)
		if err != nil {
			return nil, err
		}
		secrets.WriteString(secret)
		rules.WriteString(indent(comment) + rule)
	}
	file := []byte(begin)
	if len(seen) > 0 {
		file = slices.Concat(file, []byte("\nsecrets:\n"), secrets.Bytes(), []byte("\nrules:\n"), rules.Bytes())
	}
	return append(file, end...), nil
}

// pieces cuts the file of a service at its two keys.
func pieces(name string) (comment, secrets, rules string, err error) {
	if !slices.Contains(Names(), name) {
		return "", "", "", &UnknownServiceError{name, Names()}
	}
	data, err := services.ReadFile(name + ".yaml")
	if err != nil {
		return "", "", "", fmt.Errorf("read service %q: %w", name, err)
	}
	comment, rest, _ := strings.Cut(string(data), "secrets:\n")
	secrets, rules, found := strings.Cut(rest, "rules:\n")
	if !found {
		return "", "", "", fmt.Errorf("read service %q: no rules", name)
	}
	return comment, secrets, rules, nil
}

func indent(comment string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(comment, "\n"), "\n", "\n  ") + "\n"
}
