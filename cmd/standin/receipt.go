package main

import (
	"encoding/json"
	"fmt"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/vault"
)

// receipt says what a session was granted and used, and holds an anchor of the
// log: kept elsewhere, it proves that the log reached at least so far.
type receipt struct {
	Version int `json:"version"`
	grant.Status
	sessionNotes
	Closed    time.Time    `json:"closed"`
	ExitCode  int          `json:"exit_code"`
	RulesPath string       `json:"rules"`
	RulesHash string       `json:"rules_hash"`
	Anchor    audit.Anchor `json:"anchor"`
}

func writeReceipt(path string, g *gateway, l *live, notes sessionNotes, code int) error {
	data, err := json.MarshalIndent(receipt{Version: 1, Status: l.session.Status(), sessionNotes: notes, Closed: time.Now(), ExitCode: code,
		RulesPath: g.policy.Path, RulesHash: g.policy.Hash, Anchor: g.record.Anchor()}, "", "  ")
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	if err := vault.ReplaceFile(path, append(data, '\n')); err != nil {
		return fmt.Errorf("write receipt %q: %w", path, err)
	}
	return nil
}
