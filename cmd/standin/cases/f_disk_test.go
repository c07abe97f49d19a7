//go:build linux

package cases

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of that size, which only the session sees, in
// the place of a folder. Its outside is an empty folder of ours.
func smallDisk(folder, size string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		const script = `mount -t tmpfs -o "size=$0,mode=700" small "$1" && shift && exec "$@"`
		cmd.Args = append([]string{"sh", "-c", script, size, folder, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}
	}
}

// fill writes until nothing more goes in, and returns how to make room again.
func (c *Case) fill(dir string) (empty func()) {
	c.Helper()
	path := filepath.Join(dir, "filler")
	file, err := os.Create(path)
	if err != nil {
		c.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 64<<10); len(block) > 0; {
		if _, err := file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			c.Fatal(err)
		}
	}
}

// copyOut brings the log out of a disk that goes with its session, for verify and
// whoever looks later, and says in how many files it lies.
func (c *Case) copyOut(inside, folder string) int {
	c.Helper()
	files, err := filepath.Glob(filepath.Join(inside, "*.jsonl"))
	if err != nil {
		c.Fatal(err)
	}
	for _, from := range files {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, filepath.Base(from)), data, 0o600)
		}
		if err != nil {
			c.Fatal(err)
		}
	}
	return len(files)
}

// onASmallDisk starts S1 with its log on a file system of 1 MiB. It returns the
// folder of the log, and a path to what the session sees there, also when it has
// ended.
func (c *Case) onASmallDisk() (s *Session, folder, inside string) {
	c.Helper()
	folder = filepath.Join(c.Home, "audit")
	if err := os.Mkdir(folder, 0o700); err != nil {
		c.Fatal(err)
	}
	s = c.Start(Start{Name: "S1", Change: smallDisk(folder, "1m")})
	disk, err := os.Open(procFile(s.Gateway, "root"+folder))
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { disk.Close() })
	return s, folder, fmt.Sprintf("/proc/self/fd/%d", disk.Fd())
}

func theDiskIsFull(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	s, folder, inside := c.onASmallDisk()
	t := s.Tunnel(api)
	asked := 0
	ask := func() *Response {
		asked++
		t.Send(get(fmt.Sprintf("/user/%d", asked), api, bearer(c.P)))
		return t.Response("GET")
	}
	c.Status(ask(), 200)
	served := 1
	for range 2 {
		empty := c.fill(inside)
		// What was set aside for substitutions is used up first.
		var r *Response
		for r = ask(); r.Status == 200 && served < 5000; r = ask() {
			served++
		}
		c.Refused(r, 503, "audit_unavailable")
		// What the file that failed gives back may do for one more record.
		for refused := 0; refused < 3; refused++ {
			if r = ask(); r.Status == 200 && served < 5000 {
				served++
				refused = -1
				continue
			}
			c.Refused(r, 503, "audit_unavailable")
		}
		// Requests without a secret need no record before they leave.
		t.Send(get("/plain", api))
		c.Status(t.Response("GET"), 200)
		c.arrivedOf(served)
		// Room again, service again, without a new start.
		empty()
		began := time.Now()
		c.Eventually("the gateway serves again", func() bool { return ask().Status == 200 })
		served++
		if took := time.Since(began); took > 2*time.Second {
			c.Errorf("it served again after %v", took)
		}
		c.arrivedOf(served)
	}
	c.failingWrites(s, &served, ask)
	c.Equal(s.End(), 0)
	if n := c.copyOut(inside, folder); n < 2 {
		c.Errorf("the log has %d files", n)
	}
	c.Recorded(served, Want{"type": "substitute"})
	if r, rep := c.verify(); r.Code != 12 || len(rep.Problems) > 0 {
		c.Errorf("the log of a full disk: %s", r.description)
	}
}

// arrivedOf asserts that the value left this many times: never without a record.
func (c *Case) arrivedOf(n int) {
	c.Helper()
	if got := bytes.Count([]byte(c.U1.Raw()), []byte(R)); got != n {
		c.Errorf("%d requests were served, the upstream received the value %d times", n, got)
	}
}

// failingWrites lets each write to the log fail from outside, where strace may.
func (c *Case) failingWrites(s *Session, served *int, ask func() *Response) {
	c.Helper()
	fds, err := filepath.Glob(procFile(s.Gateway, "fd/*"))
	if err != nil {
		c.Fatal(err)
	}
	path := ""
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasSuffix(to, ".jsonl") && to > path {
			path = to // the newest segment
		}
	}
	const writes = "write,pwrite64,writev"
	stop := c.trace(s, "-o", os.DevNull, "-P", path, "-e", "trace="+writes, "-e", "inject="+writes+":error=ENOSPC")
	if stop == nil {
		return
	}
	defer stop()
	r := ask()
	c.Refused(r, 503, "audit_unavailable")
	c.arrivedOf(*served)
	// A segment that failed once is never written again: the next one is another file.
	c.Eventually("the gateway goes on in a new file", func() bool { return ask().Status == 200 })
	*served++
	c.arrivedOf(*served)
}

// TestAShortWriteOfTheRecordIsGivenUp: the kernel takes a part of a record and no
// more, as where a file has become as long as it may.
func TestAShortWriteOfTheRecordIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newCase(t, "short-write")
	c.NoGateway()
	c.U1.HTTP1()
	s := c.S1()
	tunnel := s.Tunnel(api)
	ask := func() *Response {
		tunnel.Send(get("/user", api, bearer(c.P)))
		return tunnel.Response("GET")
	}
	c.Status(ask(), 200)
	segments := func() []string {
		found, err := filepath.Glob(filepath.Join(c.Home, "audit", "*.jsonl"))
		if err != nil || len(found) == 0 {
			c.Fatal(found, err)
		}
		return found
	}
	first := segments()[0]
	c.Eventually("the result is written", func() bool { return bytes.Contains(c.bytesOf(first), []byte(`"type":"result"`)) })
	size := len(c.bytesOf(first))
	var before unix.Rlimit
	if err := unix.Prlimit(s.Gateway, unix.RLIMIT_FSIZE, nil, &before); err != nil {
		c.Fatal(err)
	}
	if err := unix.Prlimit(s.Gateway, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(size) + 100, Max: before.Max}, nil); err != nil {
		c.Fatal(err)
	}
	c.Refused(ask(), 503, "audit_unavailable")
	c.Equal(len(c.bytesOf(first)), size) // the part is cut off again
	if err := unix.Prlimit(s.Gateway, unix.RLIMIT_FSIZE, &before, nil); err != nil {
		c.Fatal(err)
	}
	c.Eventually("it goes on in a new segment", func() bool { return ask().Status == 200 })
	if len(segments()) < 2 {
		c.Error("the file was written again after a short write")
	}
	c.arrivedOf(2)
	c.Equal(s.End(), 0)
	c.Recorded(2, Want{"type": "substitute"})
}
