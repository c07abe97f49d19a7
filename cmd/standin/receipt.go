package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// placeForReceipt is the file that a receipt can be written to: known before the
// command runs, or nobody would learn how it ended.
func placeForReceipt(path string) (string, error) {
	if _, err := os.Lstat(path); err == nil { // a link is followed: what it names is replaced
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", &hinted{fmt.Errorf("write receipt: %w", err), "name a file: --receipt FILE"}
		}
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return "", &hinted{fmt.Errorf("write receipt %q: it is a folder", path), "name a file in it: --receipt " + shellWord(filepath.Join(path, "receipt.json"))}
	case err == nil && !info.Mode().IsRegular():
		return "", &hinted{fmt.Errorf("write receipt %q: it is no file, and a receipt takes the place of what is there", path), "name a file: --receipt FILE"}
	}
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", &hinted{fmt.Errorf("write receipt %q: there is no such folder", path), "mkdir -p " + shellWord(dir)}
	}
	try, err := os.CreateTemp(dir, ".receipt-*")
	if err != nil {
		return "", &hinted{fmt.Errorf("write receipt %q: %w", path, errors.Unwrap(err)), "name a file in a folder that you can write to: --receipt FILE"}
	}
	return path, errors.Join(try.Close(), os.Remove(try.Name()))
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
