package audit

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
)

func testKeys(t testing.TB) (Keys, string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	vault := make([]byte, 32)
	for i := range vault {
		vault[i] = byte(i + 1)
	}
	return Keys{Vault: vault, Recovery: id.Recipient().String()}, id.String()
}

func TestSmoke(t *testing.T) {
	keys, _ := testKeys(t)
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := Open(dir, keys, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(context.Background(), &Record{Type: TypeSubstitute, Session: "s1", Host: "api.allowed.test", Port: 443, Process: Process{PID: 4, Exe: "/usr/bin/cu\x1brl"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Note(&Record{Type: TypeResult}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Open(dir, keys, Config{})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	names, _ := filepath.Glob(dir + "/*")
	for _, n := range names {
		b, _ := os.ReadFile(n)
		t.Logf("%s\n%s", n, b)
	}
}
