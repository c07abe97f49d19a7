//go:build linux

package peer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// playVariable makes this test binary play a process of the tree.
const (
	playVariable = "PEER_PLAY"
	mark         = "STANDIN_SESSION=s1"
)

func TestMain(m *testing.M) {
	if os.Getenv(playVariable) != "" {
		play()
		return
	}
	// As the gateway: orphans come here, and nobody may look into it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// play reads orders, one a line, and answers each with a line. It keeps all that
// it opens, and ends with its input.
func play() {
	lines := bufio.NewScanner(os.Stdin)
	var children []*actor
	var kept []int
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		answer := "done"
		switch words[0] {
		case "dial":
			kept = append(kept, dial(words[1]))
		case "dial6":
			kept = append(kept, dial6(words[1]))
		case "files": // many descriptors
			n, _ := strconv.Atoi(words[1])
			for range n {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
				check(err)
				kept = append(kept, fd)
			}
		case "close":
			for _, fd := range kept {
				unix.Close(fd)
			}
			kept = nil
		case "pass": // the latest, to who listens there
			conn, err := net.Dial("unix", words[1])
			for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); {
				conn, err = net.Dial("unix", words[1])
			}
			check(err)
			_, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte{1}, unix.UnixRights(kept[len(kept)-1]), nil)
			check(err)
			var got [1]byte
			_, err = conn.Read(got[:])
			check(err)
		case "take":
			kept = append(kept, take(words[1]))
		case "ask": // a child: its number, then its order
			n, _ := strconv.Atoi(words[1])
			for len(children) <= n {
				children = append(children, startActor(&syscall.SysProcAttr{}, os.Environ()))
			}
			answer = children[n].ask(strings.Join(words[2:], " "))
			if words[2] == "leave" { // it has left when it has ended
				children[n].end()
			}
		case "user": // a child of another user
			uid, _ := strconv.Atoi(words[1])
			children = append(children, startActor(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}, os.Environ()))
		case "leave": // a process that a middle one leaves behind in a session of its own
			env := os.Environ()
			if words[1] == "bare" {
				env = []string{playVariable + "=1"}
			}
			orphan := startActor(&syscall.SysProcAttr{Setsid: true}, env)
			orphan.ask("stay")
			fmt.Println(orphan.ask(strings.Join(words[2:], " ")))
			os.Exit(0)
		case "stay": // when its input ends, for as long as a test takes
			defer time.Sleep(10 * time.Second)
		case "pid":
			answer = strconv.Itoa(os.Getpid())
		}
		fmt.Println(answer)
	}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func address(text string) (port int) {
	_, digits, _ := strings.Cut(text, ":")
	port, _ = strconv.Atoi(digits)
	return port
}

func dial(to string) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(err)
	check(unix.Connect(fd, &unix.SockaddrInet4{Port: address(to), Addr: [4]byte{127, 0, 0, 1}}))
	return fd
}

// dial6 reaches an IPv4 address by an IPv6 socket, as Java does.
func dial6(to string) int {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(err)
	check(unix.Connect(fd, &unix.SockaddrInet6{Port: address(to), Addr: [16]byte{10: 0xff, 11: 0xff, 12: 127, 15: 1}}))
	return fd
}

// take receives a descriptor from whoever connects to path.
func take(path string) int {
	listener, err := net.Listen("unix", path)
	check(err)
	conn, err := listener.Accept()
	check(err)
	rights := make([]byte, 64)
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), rights)
	check(err)
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	check(err)
	fds, err := unix.ParseUnixRights(&messages[0])
	check(err)
	_, err = conn.Write([]byte{1})
	check(err)
	return fds[0]
}

// actor is a process that plays.
type actor struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startActor(attr *syscall.SysProcAttr, env []string) *actor {
	a := &actor{cmd: exec.Command("/proc/self/exe")}
	a.cmd.Args[0] = "actor"
	a.cmd.SysProcAttr = attr
	a.cmd.Env = append(env[:len(env):len(env)], playVariable+"=1")
	var err error
	a.in, err = a.cmd.StdinPipe()
	check(err)
	out, err := a.cmd.StdoutPipe()
	check(err)
	a.out = bufio.NewReader(out)
	check(a.cmd.Start())
	return a
}

// ask gives an order and returns the answer.
func (a *actor) ask(order string) string {
	if _, err := fmt.Fprintln(a.in, order); err != nil {
		return err.Error()
	}
	line, err := a.out.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

func (a *actor) end() {
	a.in.Close()
	_ = a.cmd.Process.Kill() // it may wait for something else
	_ = a.cmd.Wait()
}

// stage is a listener, and the tree of one command.
type stage struct {
	*testing.T
	listener net.Listener
	sockets  *Sockets
	command  *actor
	tree     *Tree
}

func newStage(t *testing.T, alone bool) *stage {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := OpenSockets()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{T: t, listener: listener, sockets: sockets, command: startActor(nil, append(os.Environ(), mark))}
	s.tree, err = New(Config{Sockets: sockets, PID: s.command.pid(), Start: startOf(t, s.command.pid()), Mark: mark, Alone: alone})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.command.end()
		s.tree.Close()
		sockets.Close()
		listener.Close()
	})
	return s
}

func (a *actor) pid() int { return a.cmd.Process.Pid }

func startOf(t testing.TB, pid int) uint64 {
	t.Helper()
	p, err := openProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	return p.start
}

func (s *stage) addr() string { return s.listener.Addr().String() }

// accept takes the connection that was made last.
func (s *stage) accept() net.Conn {
	s.Helper()
	_ = s.listener.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
	conn, err := s.listener.Accept()
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	return conn
}

// from asks an actor for something that makes a connection, and accepts it.
func (s *stage) from(a *actor, order string) net.Conn {
	s.Helper()
	if answer := a.ask(order + " " + s.addr()); answer != "done" {
		s.Fatalf("%s: %s", order, answer)
	}
	return s.accept()
}
