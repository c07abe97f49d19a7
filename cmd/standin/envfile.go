package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"standin/vault"
)

// readEnvFile reads a dotenv file whose values may be references to secrets.
// Every reference that leads nowhere is named at once, before anything starts.
func readEnvFile(path string, known func(secret string) bool) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read --env-file: %w", err)
	}
	pairs, err := vault.ParseDotenv(data)
	if err != nil {
		return nil, fmt.Errorf("read --env-file %q: %w", path, err)
	}
	found := map[string]string{}
	var misses []error
	for _, pair := range pairs {
		value := string(pair.Value.Reveal())
		if name, ok := secretReference(value); ok && !known(name) {
			misses = append(misses, fmt.Errorf("read --env-file %q: line %d: %s names unknown secret %q", path, pair.Line, pair.Name, name))
		}
		found[pair.Name] = value
	}
	return found, errors.Join(misses...)
}

// secretReference says which secret a value like "secret:github" names.
func secretReference(value string) (name string, ok bool) { return strings.CutPrefix(value, "secret:") }
