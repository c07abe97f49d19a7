package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"standin/vault"
)

// envFile is a dotenv file whose values may be references to secrets. The nil one
// is none.
type envFile struct {
	path  string
	pairs []vault.Pair
}

func readEnvFile(path string) (*envFile, error) {
	if path == "" {
		return nil, nil
	}
	data, err := readLimited(path, maxDotenv)
	if err != nil {
		return nil, fmt.Errorf("read --env-file: %w", err)
	}
	pairs, err := vault.ParseDotenv(data)
	if err != nil {
		return nil, fmt.Errorf("read --env-file %q: %w", path, err)
	}
	return &envFile{path, pairs}, nil
}

// check names every reference that leads nowhere, before anything starts.
func (f *envFile) check(known func(secret string) bool) error {
	if f == nil {
		return nil
	}
	var misses []error
	for _, pair := range f.pairs {
		if name, ok := secretReference(string(pair.Value.Reveal())); ok && !known(name) {
			misses = append(misses, fmt.Errorf("read --env-file %q: line %d: %s names unknown secret %q", f.path, pair.Line, pair.Name, name))
		}
	}
	return errors.Join(misses...)
}

// environ are the variables of the file, the last of each name.
func (f *envFile) environ() []string {
	if f == nil {
		return nil
	}
	found := map[string]string{}
	for _, pair := range f.pairs {
		found[pair.Name] = string(pair.Value.Reveal())
	}
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(found)) {
		entries = append(entries, name+"="+found[name])
	}
	return entries
}

// secretReference says which secret a value like "secret:github" names.
func secretReference(value string) (name string, ok bool) { return strings.CutPrefix(value, "secret:") }
