package main

import (
	"encoding/json"
	"fmt"
	"time"

	"standin/audit"
	"standin/vault"
)

// receipt says what a session was granted and used, and holds an anchor of the
// log: kept elsewhere, it proves that the log reached at least so far.
type receipt struct {
	Version int `json:"version"`
	sessionStatus
	sessionNotes
	Closed    time.Time    `json:"closed"`
	ExitCode  int          `json:"exit_code"`
	RulesPath string       `json:"rules"`
	RulesHash string       `json:"rules_hash"`
	Anchor    audit.Anchor `json:"anchor"`
}

// receipt is that of a session which has ended.
func (h *hosted) receipt() *receipt {
	return &receipt{Version: 1, sessionStatus: h.status(), sessionNotes: h.decided(), Closed: time.Now(),
		RulesPath: h.session.Policy.Path, RulesHash: h.session.Policy.Hash, Anchor: h.g.record.Anchor()}
}

func (r *receipt) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	if err := vault.ReplaceFile(path, append(data, '\n')); err != nil {
		return fmt.Errorf("write receipt %q: %w", path, err)
	}
	return nil
}
