package cases

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// playsTheGateway holds the lock of a segment and answers on a control socket
// with its last record, as any program of the same user can.
func (c *Case) playsTheGateway(path string) (stop func()) {
	c.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		c.Fatal(err)
	}
	var last struct {
		Seq          int
		Time, H, MAC string
	}
	lines := readLines(c, path)
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		c.Fatal(err)
	}
	stream := filepath.Base(path)[:len("000001-aaaaaaaa")]
	dir, err := os.Open(filepath.Join(c.Home, "run"))
	if err != nil {
		c.Fatal(err)
	}
	// By way of the descriptor: a path of a socket must be short.
	listener, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/fake.sock", dir.Fd()))
	if err != nil {
		c.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"anchor":{"stream":%q,"seq":%d,"h":%q,"mac":%q,"time":%q},"proof":%q,"sessions":1}`,
			stream, last.Seq, last.H, last.MAC, last.Time, strings.Repeat("ab", 32))
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	return func() {
		_ = server.Close()
		<-done
		_ = os.Remove(filepath.Join(c.Home, "run", "fake.sock"))
		_ = dir.Close()
		_ = file.Close()
	}
}

// aFakeGateway cuts the end off, and plays the live gateway of what is left.
func (c *Case) aFakeGateway(path string, lines [][]byte) {
	c.Helper()
	c.rewrite(path, lines[:len(lines)-2])
	stop := c.playsTheGateway(path)
	r, rep := c.verify()
	if r.Code != 12 || rep.Unproven != len(lines)-2 || !strings.Contains(r.Out, "does not hold its key") {
		c.Errorf("a cut log, and somebody who plays its gateway: %s", r.description)
	}
	stop()
	c.rewrite(path, lines)
}

// aLiveGateway vouches for its own stream, and misses one that was opened after it
// and is gone.
func (c *Case) aLiveGateway(receipts ...string) {
	c.Helper()
	var flags []string
	for _, r := range receipts {
		flags = append(flags, "--receipt", r)
	}
	s := c.Start(Start{Name: "live"})
	c.Status(s.Do(api, get("/live", api, bearer(c.P))), 200)
	c.Exit(first(c.verify(flags...)), 0)
	path, _, newest := c.oneLog("beside")
	c.Exit(first(c.verify(flags...)), 12)
	c.Exit(first(c.verify(append(flags, "--receipt", newest)...)), 0)
	if err := os.Rename(path, path+".away"); err != nil {
		c.Fatal(err)
	}
	r, _ := c.verify(flags...)
	if r.Code != 10 || !strings.Contains(r.Out, "has seen it") {
		c.Errorf("a stream that the live gateway knows is gone: %s", r.description)
	}
	if err := os.Rename(path+".away", path); err != nil {
		c.Fatal(err)
	}
	c.Equal(s.End(), 0)
}
