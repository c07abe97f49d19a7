package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"standin/launch"
	"standin/rules"
)

// loadRules finds and reads the rules file.
func (p *program) loadRules(h home, named string) (*rules.Policy, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find rules: %w", err)
	}
	path, err := rules.Find(named, cwd, h.Config)
	if err != nil {
		return nil, err
	}
	return readRules(path)
}

// readRules reads a rules file, and refuses variables that cannot carry what the
// file puts into them.
func readRules(path string) (*rules.Policy, error) {
	policy, err := rules.Load(path)
	if _, here := os.Stat(path); errors.Is(err, fs.ErrNotExist) && here == nil {
		return nil, &hinted{err, "the rules name that file: put it there (or install it, if it is the program of a source), or correct it in " + shellWord(path)}
	}
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, name := range secretNames(policy) {
		secret := policy.Secrets[name]
		for _, variable := range secret.Env {
			if why := launch.Reserved(variable); why != "" {
				faults = append(faults, &rules.Error{File: path, Line: secret.Line,
					Msg: fmt.Sprintf("secret %q: env: %s cannot carry it: %s", name, variable, why), Fix: "take another name of your own, such as MY_TOKEN"})
			}
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return policy, nil
}
