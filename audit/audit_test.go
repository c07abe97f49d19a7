package audit

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
)

// A house is a directory with a log in it, and the keys to it.
type house struct {
	dir      string
	keys     Keys
	recovery string
}

func newHouse(t testing.TB) house {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	vault := make([]byte, 32)
	for i := range vault {
		vault[i] = byte(i + 1)
	}
	return house{filepath.Join(t.TempDir(), "audit"), Keys{Vault: vault, Recovery: id.Recipient().String()}, id.String()}
}

func (h house) open(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(h.dir, h.keys, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (h house) verify(t testing.TB, anchors ...Anchor) *Report {
	t.Helper()
	r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery, VaultKey: h.keys.Vault, Anchors: anchors})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (h house) wants(t testing.TB, code int, anchors ...Anchor) *Report {
	t.Helper()
	r := h.verify(t, anchors...)
	if r.Code != code {
		t.Fatalf("code %d, want %d: problems %v, warnings %v, streams %+v", r.Code, code, r.Problems, r.Warnings, r.Streams)
	}
	return r
}

// fill opens a stream with n substitutions, closes it and returns the anchor of its seal.
func (h house) fill(t testing.TB, n int, c Config) Anchor {
	t.Helper()
	l := h.open(t, c)
	for i := range n {
		appendTo(t, l, substitution(i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Anchor()
}

func substitution(i int) *Record {
	return &Record{Type: TypeSubstitute, Session: "s1", Profile: "default", Isolation: "tree",
		Process: Process{PID: 4242, Start: 99887766, Exe: "/usr/bin/curl", UID: 1000, Depth: 1},
		Host:    "api.allowed.test", Port: 443, Scheme: "https", Method: "GET", Path: "/repos/acme/thing/issues/" + string(rune('a'+i%26)),
		Rule: "github-api", ID: "01HF" + string(rune('a'+i%26)),
		Uses: []Use{{Secret: "github", Version: "1", Fingerprint: "0123456789abcdef", Surface: "header Authorization", Count: 1}}}
}

func appendTo(t testing.TB, l *Log, r *Record) {
	t.Helper()
	if err := l.Append(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}

func (h house) files(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(h.dir, "*.jsonl"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files: %v", err)
	}
	return names
}

// copyTo copies the log, private as it is, and returns the house with the copy.
func (h house) copyTo(t testing.TB, dir string) house {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != lockName {
			write(t, filepath.Join(dir, e.Name()), read(t, filepath.Join(h.dir, e.Name())))
		}
	}
	h.dir = dir
	return h
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A clock can be set.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) jump(by time.Duration) { c.offset.Add(int64(by)) }
