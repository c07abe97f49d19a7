//go:build unix

package audit

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func fifo(t testing.TB, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fakeJournal listens as /dev/log does; each call of lines returns the next message as a line.
func fakeJournal(t testing.TB) (*Journal, func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &Journal{path: path}, func() string {
		buf := make([]byte, 4096)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n]) + "\n"
	}
}

func TestAMarkGoesToTheJournal(t *testing.T) {
	journal, lines := fakeJournal(t)
	h := newHouse(t)
	l := h.open(t, Config{Journal: journal})
	a, err := l.Mark(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	anchors, err := ParseJournal(strings.NewReader("noise\n" + lines() + lines() + `x {"stream":"nonsense"}` + "\n"))
	if err != nil || len(anchors) != 2 || anchors[0].Seq != a.Seq || anchors[1].H != l.Anchor().H {
		t.Fatalf("%+v, %v", anchors, err)
	}
	h.wants(t, Whole, anchors...)
	os.Remove(h.files(t)[0])
	h.wants(t, Unproven, anchors...) // nothing is left that could show whether the anchor is genuine: a warning
}
