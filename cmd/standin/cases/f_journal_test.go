//go:build linux

package cases

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inPlaceOf mounts a folder over another one, which only the session sees.
func inPlaceOf(place, folder string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		const script = `mount --bind "$0" "$1" && shift && exec "$@"`
		cmd.Args = append([]string{"sh", "-c", script, folder, place, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}
	}
}

// TestTheJournalIsAWitness: where the system has a journal, the end of a log is
// sent there, and proves the log as a receipt does; a made up line proves nothing.
func TestTheJournalIsAWitness(t *testing.T) {
	t.Parallel()
	c := newCase(t, "journal")
	c.NoGateway()
	run := filepath.Join(c.Dir, "run")
	if err := os.MkdirAll(filepath.Join(run, "systemd", "journal"), 0o755); err != nil {
		t.Fatal(err)
	}
	journal, err := net.ListenPacket("unixgram", filepath.Join(run, "systemd", "journal", "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	s := c.Start(Start{Name: "S1", Change: inPlaceOf("/run", run)})
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
	c.Equal(s.End(), 0)
	buf := make([]byte, 64<<10)
	_ = journal.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := journal.ReadFrom(buf)
	if err != nil {
		t.Fatalf("nothing reaches the journal: %v", err)
	}
	entry := string(buf[:n])
	c.Hear("the journal", buf[:n])
	message, ok := strings.CutPrefix(entry, "MESSAGE=")
	if !ok || !strings.Contains(entry, "\nSYSLOG_IDENTIFIER=standin-audit\n") {
		t.Fatalf("the journal gets %q", entry)
	}
	message, _, _ = strings.Cut(message, "\n")
	file := filepath.Join(c.Dir, "journal")
	c.put(file, []byte("unrelated\nNov 25 19:00:00 host standin-audit[1]: "+message+"\n"))
	r, _ := c.verify("--journal", file)
	c.Exit(r, 0)
	// Anybody may write there: what does not check is a warning, and proves nothing.
	forged := strings.Replace(message, `"mac":"`, `"mac":"0`, 1)
	forged = forged[:strings.Index(forged, `"mac":"0`)+8+63] + forged[strings.Index(forged, `"mac":"0`)+8+64:]
	c.put(file, []byte(forged+"\n"))
	if r, _ = c.verify("--journal", file); r.Code != 12 {
		t.Errorf("a forged line in the journal: %s", r.description)
	}
	// And the end that it knows cannot be cut off.
	path := c.segments()[0]
	whole := c.bytesOf(path)
	c.put(path, whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1])
	c.put(file, []byte(message+"\n"))
	if r, _ = c.verify("--journal", file); r.Code != 10 {
		t.Errorf("the end is cut off, and the journal knows: %s", r.description)
	}
	c.put(path, whole)
}
