//go:build linux

package peer

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// placed asserts that a connection is of the tree, that deep, and returns whose it is.
func (s *stage) placed(conn net.Conn, depth int) Process {
	s.Helper()
	p, err := s.tree.Owner(conn)
	if err != nil {
		s.Fatal(err)
	}
	if p.Depth != depth || p.Start == 0 || p.Exe == "" {
		s.Errorf("it is placed as %+v, not at depth %d", p, depth)
	}
	return p
}

// refused asserts that a connection is a stranger's, and returns who that is.
func (s *stage) refused(conn net.Conn, reason string) Process {
	s.Helper()
	p, err := s.tree.Owner(conn)
	var stranger *StrangerError
	if !errors.As(err, &stranger) {
		s.Fatalf("it is placed as %+v, error %v", p, err)
	}
	if stranger.Reason != reason || p != (Process{}) {
		s.Errorf("refused with %v, process %+v; the reason should be %q", err, p, reason)
	}
	return stranger.Process
}

func TestAConnectionIsPlacedByWhoHoldsIt(t *testing.T) {
	s := newStage(t, false)
	first := s.placed(s.from(s.command, "dial"), 0)
	if first.PID != s.command.pid() || first.UID != os.Getuid() || first.Start != startOf(t, first.PID) {
		t.Errorf("the command is said to be %+v", first)
	}
	if again := s.placed(s.from(s.command, "dial"), 0); again != first {
		t.Errorf("the second connection is of %+v, the first of %+v", again, first)
	}
	child := s.placed(s.from(s.command, "ask 0 dial"), 1)
	grandchild := s.placed(s.from(s.command, "ask 0 ask 0 dial"), 2)
	if child.PID == grandchild.PID || child.PID == first.PID {
		t.Errorf("processes are %+v, %+v and %+v", first, child, grandchild)
	}
	if command := s.tree.Command(); command != first {
		t.Errorf("the command is %+v, and connects as %+v", command, first)
	}
}

func TestAConnectionByASocketOfBothVersionsIsPlaced(t *testing.T) {
	s := newStage(t, false)
	s.placed(s.from(s.command, "dial6"), 0)
}

func TestAProcessWithThousandsOfFilesIsPlaced(t *testing.T) {
	s := newStage(t, false)
	s.command.ask("files 900")
	s.placed(s.from(s.command, "dial"), 0)
}

func TestAnOrphanOfTheCommandIsPlaced(t *testing.T) {
	s := newStage(t, false)
	orphan := s.placed(s.from(s.command, "ask 0 leave marked dial"), 1)
	s.placed(s.from(s.command, "ask 1 ask 0 leave marked ask 0 dial"), 2)
	p, err := openProcess(orphan.PID)
	if err != nil {
		t.Skipf("the orphan has ended: %v", err)
	}
	defer p.close()
	if p.parent != os.Getpid() {
		t.Errorf("the orphan's parent is %d, this is %d", p.parent, os.Getpid())
	}
}

func TestAnOrphanWithoutTheMarkIsAStranger(t *testing.T) {
	s := newStage(t, false)
	s.refused(s.from(s.command, "ask 0 leave bare dial"), reasonOutside)
}

func TestAnOrphanThatWasPlacedBeforeStaysInTheTree(t *testing.T) {
	s := newStage(t, false)
	conn := s.from(s.command, "ask 0 dial")
	child := s.placed(conn, 1)
	s.tree.cfg.Mark = "" // as if it had been started without
	p, err := openProcess(child.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	p.parent = s.tree.self
	if _, ok, _ := s.tree.ascend(p); !ok {
		t.Error("a process that was placed is not in the tree when its parent has ended")
	}
	s.tree.known = nil
	if _, ok, _ := s.tree.ascend(p); ok {
		t.Error("any child of this process is in the tree")
	}
}

func TestOthersAreStrangers(t *testing.T) {
	s := newStage(t, false)
	// This process, as which the gateway runs.
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if own := s.refused(s.accept(), reasonOutside); own.PID != os.Getpid() || own.Exe != exe {
		t.Errorf("this process is said to be %+v", own)
	}
	// A helper of the gateway, its child, and what it leaves behind.
	helper := startActor(nil, os.Environ())
	defer helper.end()
	if p := s.refused(s.from(helper, "dial"), reasonOutside); p.PID != helper.pid() {
		t.Errorf("the helper %d is said to be %+v", helper.pid(), p)
	}
	s.refused(s.from(helper, "ask 0 dial"), reasonOutside)
	s.refused(s.from(helper, "ask 1 leave marked dial"), reasonOutside)
}

func TestAClosedConnectionIsNobodys(t *testing.T) {
	s := newStage(t, false)
	conn := s.from(s.command, "dial")
	s.command.ask("close")
	s.refused(conn, reasonGone)
	// One whose process has ended.
	helper := startActor(nil, append(os.Environ(), mark))
	conn = s.from(helper, "dial")
	helper.end()
	s.refused(conn, reasonGone)
	// One that was reset: the kernel knows nothing of it but the listener.
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	accepted := s.accept()
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	s.refused(accepted, reasonGone)
}

func TestAfterTheCommandNobodyIsPlaced(t *testing.T) {
	s := newStage(t, false)
	// Its child lives on as an orphan.
	s.command.ask("ask 0 stay")
	conn := s.from(s.command, "ask 0 dial")
	later := s.from(s.command, "ask 0 dial")
	s.placed(conn, 1)
	if err := s.command.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); s.tree.alive() == nil && time.Now().Before(end); {
		runtime.Gosched()
	}
	s.refused(later, reasonEnded) // a zombie: nobody has waited for it
	_ = s.command.cmd.Wait()
	s.refused(later, reasonEnded)
	s.tree.Close()
	s.refused(later, reasonEnded)
}

func TestTheCommandAlone(t *testing.T) {
	s := newStage(t, true)
	s.placed(s.from(s.command, "dial"), 0)
	if p := s.refused(s.from(s.command, "ask 0 dial"), reasonChild); p.Depth != 1 {
		t.Errorf("the child is said to be %+v", p)
	}
	s.refused(s.from(s.command, "ask 1 leave marked dial"), reasonChild)
}

func TestASocketThatIsPassedOnBelongsToItsHolder(t *testing.T) {
	s := newStage(t, false)
	stranger := startActor(nil, os.Environ())
	defer stranger.end()
	pass := func(from, to *actor, path string) {
		t.Helper()
		var taking sync.WaitGroup
		taking.Go(func() { to.ask("take " + path) })
		if answer := from.ask("pass " + path); answer != "done" {
			t.Fatal(answer)
		}
		taking.Wait()
	}
	conn := s.from(s.command, "dial")
	pass(s.command, stranger, filepath.Join(t.TempDir(), "out"))
	s.placed(conn, 0) // both hold it
	s.command.ask("close")
	if p := s.refused(conn, reasonOutside); p.PID != stranger.pid() {
		t.Errorf("the connection that was passed to %d is said to be of %+v", stranger.pid(), p)
	}
	conn = s.from(stranger, "dial")
	s.refused(conn, reasonOutside)
	pass(stranger, s.command, filepath.Join(t.TempDir(), "in"))
	s.placed(conn, 0)
}

func TestANumberThatIsUsedAgainIsAnotherProcess(t *testing.T) {
	s := newStage(t, false)
	if _, err := New(Config{Sockets: s.sockets, PID: s.command.pid(), Start: s.tree.cfg.Start - 1}); err == nil {
		t.Error("a tree is made of a process with another start time")
	}
	stranger := startActor(nil, os.Environ())
	defer stranger.end()
	s.tree.remember(member{stranger.pid(), startOf(t, stranger.pid()) - 1, 1})
	s.refused(s.from(stranger, "dial"), reasonOutside)
	if len(s.tree.members()) != 0 {
		t.Error("a process that has ended is still known")
	}
}

func TestARealReuseOfANumberFoolsNobody(t *testing.T) {
	s := newStage(t, false)
	const last = "/proc/sys/kernel/ns_last_pid"
	if os.WriteFile(last, []byte(strconv.Itoa(s.command.pid())), 0) != nil {
		t.Skip("numbers of processes cannot be chosen here")
	}
	child := s.placed(s.from(s.command, "ask 0 dial"), 1)
	gone, err := openProcess(child.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer gone.close()
	if err := syscall.Kill(child.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.command.ask("ask 0 pid") // it waits for nothing, so the zombie stays until its parent ends
	s.command.end()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); runtime.Gosched() {
		if syscall.Wait4(child.PID, nil, syscall.WNOHANG, nil); gone.look() != nil { // it came here
			break
		}
	}
	time.Sleep(20 * time.Millisecond) // a start time is counted in ticks of 10 ms
	for range 50 {
		if err := os.WriteFile(last, []byte(strconv.Itoa(child.PID-1)), 0); err != nil {
			t.Fatal(err)
		}
		other := startActor(nil, os.Environ())
		defer other.end()
		if other.pid() != child.PID {
			continue
		}
		if gone.look() == nil || gone.holds(1) || gone.marked(mark) {
			t.Error("the handle of the dead process answers for the new one")
		}
		next := newStage(t, false)
		next.tree.remember(member{child.PID, child.Start, 1})
		next.refused(next.from(other, "dial"), reasonOutside)
		return
	}
	t.Skip("the number was not given out again")
}

func TestManyConnectionsAreAllPlacedAtOnce(t *testing.T) {
	s := newStage(t, false)
	var all sync.WaitGroup
	for i := range 200 {
		order := "dial"
		if i%2 == 1 {
			order = "ask " + strconv.Itoa(i%5) + " dial"
		}
		conn := s.from(s.command, order)
		all.Go(func() {
			if p, err := s.tree.Owner(conn); err != nil || p.Depth != i%2 {
				t.Errorf("connection %d is placed as %+v: %v", i, p, err)
			}
		})
	}
	all.Wait()
}

func TestTheMachineIsLookedThroughByFewAtATime(t *testing.T) {
	s := newStage(t, false)
	for range maxSeekers {
		s.tree.queued <- struct{}{}
	}
	stranger := startActor(nil, os.Environ())
	defer stranger.end()
	s.refused(s.from(stranger, "dial"), reasonBusy)
	s.placed(s.from(s.command, "ask 0 dial"), 1) // the tree's own do not need it
}

func TestAnotherUserOfTheTreeIsPlacedByRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start processes of another user")
	}
	s := newStage(t, false)
	s.command.ask("user 65534")
	if p := s.placed(s.from(s.command, "ask 0 dial"), 1); p.UID != 65534 {
		t.Errorf("it is said to be %+v", p)
	}
	stranger := startActor(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, os.Environ())
	defer stranger.end()
	if p := s.refused(s.from(stranger, "dial"), reasonOutside); p.UID != 65534 || p.PID != stranger.pid() {
		t.Errorf("it is said to be %+v", p)
	}
	// Without root's rights nobody is looked into.
	s.tree.uid = 1000
	s.refused(s.from(s.command, "ask 0 dial"), reasonUser)
	s.refused(s.from(s.command, "dial"), reasonUser)
}

// TestAsAnUnprivilegedUser runs the other tests once more without the rights
// of root, which hide what a user cannot do.
func TestAsAnUnprivilegedUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is an unprivileged user")
	}
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "peer.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, text, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.v", "-test.run=^Test[^M]", "-test.timeout=1m")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestAConnectionIsPlacedByWhoHoldsIt") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAncestorsLeadUpFromTheParent(t *testing.T) {
	found := Ancestors(os.Getpid())
	if len(found) == 0 || found[0] != os.Getppid() {
		t.Errorf("the ancestors are %v, the parent is %d", found, os.Getppid())
	}
}

func TestTheSelfTestPassesHere(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
}

func TestAnswersOfTheKernelAreReadWithCare(t *testing.T) {
	s := newStage(t, false)
	conn := s.from(s.command, "dial")
	socket, err := s.sockets.Other(conn)
	if err != nil || socket.Inode == 0 || socket.UID != os.Getuid() {
		t.Fatalf("%+v, %v", socket, err)
	}
	if _, err := answer(make([]byte, headerSize), endpoints{}); err == nil {
		t.Error("an empty answer is taken")
	}
	s.sockets.Close()
	if _, err := s.sockets.Other(conn); err == nil {
		t.Error("a closed socket answers")
	}
	var stranger *StrangerError
	if _, err := s.tree.Owner(conn); err == nil || errors.As(err, &stranger) {
		t.Errorf("without an answer of the kernel: %v", err)
	}
}
