//go:build linux

package netns

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"standin/launch"
)

// TestEachTestOfTheSelfTestFindsAWayOut: out here, where everything is open, each
// of them has something to find.
func TestEachTestOfTheSelfTestFindsAWayOut(t *testing.T) {
	runtime.LockOSThread() // and is thrown away with what the tests do to it
	trap, err := setTrap()
	if err != nil {
		t.Fatal(err)
	}
	defer trap.close()
	own, err := namespacesOf()
	if err != nil {
		t.Fatal(err)
	}
	traced := exec.Command("sleep", "60")
	traced.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := traced.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = traced.Process.Kill()
		_ = traced.Wait()
	}()
	dir := t.TempDir()
	socket, secret := filepath.Join(dir, "socket"), filepath.Join(dir, "secret")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	open, err := unix.Open(os.DevNull, unix.O_RDONLY, 0) // inherited by what is started
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(open)
	p := &probe{Gateway: traced.Process.Pid, Namespaces: own, Addresses: trap.addresses, Abstract: trap.name, Foreign: trap.addresses, Secrets: []identity{identityOf(secret)}}
	for _, a := range attempts {
		err := a.run(p, []string{socket})
		switch {
		case err != nil:
			t.Logf("%s: %v", a.name, err)
		case os.Getuid() != 0 && (a.name == "raw sockets" || a.name == "namespaces of others"):
			t.Logf("%s: only root has a way out", a.name)
		case a.name == "sockets of a virtual machine" && missing(unix.AF_VSOCK, 0), a.name == "MPTCP" && missing(unix.AF_INET, unix.IPPROTO_MPTCP):
			t.Logf("%s: this kernel has none", a.name)
		default:
			t.Errorf("%s finds nothing out here", a.name)
		}
	}
	if trap.sprung() == "" {
		t.Error("nothing came into the trap")
	}
}

// missing reports whether the kernel makes no such sockets.
func missing(family, protocol int) bool {
	fd, err := unix.Socket(family, unix.SOCK_STREAM, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err != nil
}

// TestRoomWithALeakIsNotFurnished: what the self-test finds ends it.
func TestRoomWithALeakIsNotFurnished(t *testing.T) {
	h := newHouse(t)
	folder, err := os.Open(h.private) // by which the command could reach what is hidden
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	s := newStage(t, Config{Stdin: folder})
	_, err = s.Furnish(s.furniture())
	var leak *LeakError
	if !errors.As(err, &leak) || leak.Test != "descriptors" {
		t.Errorf("a room with a way out: %v", err)
	}
	if _, err := launch.Start(launch.Spec{Argv: []string{"true"}, Host: s.Room}); err == nil {
		t.Error("a command is started in it")
	}
}

// TestSocketsAreFoundWhereTheyLie: by the kernel's list, by the environment, and
// by looking.
func TestSocketsAreFoundWhereTheyLie(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for _, name := range []string{"with space", "plain", "deep/er"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want = append(want, path)
	}
	for how, found := range map[string][]string{
		"by the list":        listedSockets(),
		"by the environment": namedSockets([]string{"A=unix://" + want[0], "TMUX=" + want[1] + ",1,2", "DBUS_SESSION_BUS_ADDRESS=unix:path=" + want[2] + ",guid=1"}),
		"by looking":         nearSockets(dir),
		"by all":             findSockets(nil, lookAround([]string{"HOME=" + dir}, dir)),
	} {
		for _, path := range want {
			if !strings.Contains(strings.Join(found, "\n")+"\n", path+"\n") {
				t.Errorf("%s: %s is not found among %q", how, path, found)
			}
		}
	}
}
