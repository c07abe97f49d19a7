//go:build unix

package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSilentSocketsDelayNobodyForLong: whoever can write to the folder of sockets
// can put some there that never answer.
func TestSilentSocketsDelayNobodyForLong(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	h := home{Runtime: dir}
	if err := os.Mkdir(h.Run(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		l, err := net.Listen("unix", filepath.Join(h.Run(), name+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	began := time.Now()
	found, err := survey(h, func(string, int) bool { return false })
	if err != nil || len(found) != 4 {
		t.Fatalf("asked %d gateways, %v", len(found), err)
	}
	for _, a := range found {
		if !a.silent {
			t.Errorf("%s has answered", a.gateway.path)
		}
	}
	if took := time.Since(began); took > 2*surveyTime {
		t.Errorf("four silent sockets took %v", took)
	}
}
