package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"standin/audit"
)

func TestMarksAreWrittenWhileSessionsLive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		vault := make([]byte, 32)
		vault[0] = 1
		record, err := audit.Open(dir, audit.Keys{Vault: vault, Recovery: identity.Recipient().String()}, audit.Config{})
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway{record: record, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		g.life, g.endLife = context.WithCancel(t.Context())
		g.marking.Go(g.mark)
		for _, living := range []int64{0, 2, 0, 1} {
			g.living.Store(living)
			time.Sleep(2*markEvery + time.Second)
		}
		g.endLife()
		g.marking.Wait()
		if err := record.Close(); err != nil {
			t.Fatal(err)
		}
	})
	marks := 0
	if err := audit.Query(dir, audit.Filter{Types: []string{audit.TypeMark}}, func(*audit.Entry) error { marks++; return nil }); err != nil {
		t.Fatal(err)
	}
	if marks != 4 {
		t.Errorf("%d marks in two times ten minutes with a session", marks)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
}
