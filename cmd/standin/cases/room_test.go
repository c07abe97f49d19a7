//go:build linux

package cases

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// roomRole is the first argument with which this test binary tries things from
// inside a room: each further argument is one attempt, each answer one line.
const roomRole = "play-in-the-room"

func playInTheRoom(attempts []string) int {
	for _, attempt := range attempts {
		words := strings.Fields(attempt)
		answer, err := tryInTheRoom(words[0], words[1:])
		if err != nil {
			answer = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Printf("%s\n", answer)
	}
	return 0
}

func tryInTheRoom(what string, args []string) (string, error) {
	switch what {
	case "dial": // network, address
		conn, err := net.DialTimeout(args[0], args[1], patience)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if args[0] == "udp" {
			_, _ = conn.Write([]byte("x"))
			_, err = conn.Write([]byte("x"))
		}
		return "reached", err
	case "socket": // family, type, protocol
		var n [3]int
		for i := range n {
			n[i], _ = strconv.Atoi(args[i])
		}
		fd, err := unix.Socket(n[0], n[1], n[2])
		if err != nil {
			return "", err
		}
		if len(args) == 4 { // and where to
			ap, err := net.ResolveTCPAddr("tcp", args[3])
			if err != nil {
				return "", err
			}
			return "reached", unix.Connect(fd, &unix.SockaddrInet4{Port: ap.Port, Addr: [4]byte(ap.IP.To4())})
		}
		return "opened", nil
	case "fastopen": // address
		ap, err := net.ResolveTCPAddr("tcp", args[0])
		if err != nil {
			return "", err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return "", err
		}
		return "reached", unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: ap.Port, Addr: [4]byte(ap.IP.To4())})
	case "tls": // address, name in the greeting or -, host
		return tlsInTheRoom(args[0], args[1], args[2])
	case "plain": // address, host
		return plainInTheRoom(args[0], args[1])
	case "send": // address, text: is it closed?
		conn, err := net.DialTimeout("tcp", args[0], patience)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, args[1]+"\r\n"); err != nil {
			return "", err
		}
		text, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			return "", err
		}
		return fmt.Sprintf("%q", text), nil
	case "read": // file
		text, err := os.ReadFile(args[0])
		return fmt.Sprintf("%q", text), err
	case "keys": // in the kernel
		id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_SESSION_KEYRING, false)
		return fmt.Sprint(id), err
	case "kill": // process
		pid, _ := strconv.Atoi(args[0])
		return "signalled", unix.Kill(pid, 0)
	case "flood": // address, count: how many are not closed at once
		return floodFromTheRoom(args[0], args[1])
	}
	return "", fmt.Errorf("no such attempt: %s", what)
}

func tlsInTheRoom(address, name, host string) (string, error) {
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return "", err
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: name}
	cfg.RootCAs.AppendCertsFromPEM(pem)
	if name == "-" {
		cfg.ServerName, cfg.InsecureSkipVerify = "", true
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return askInTheRoom(conn, host)
}

func plainInTheRoom(address, host string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return askInTheRoom(conn, host)
}

func askInTheRoom(conn net.Conn, host string) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /in-the-room HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", host, os.Getenv("GITHUB_TOKEN"))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	code := ""
	if rest, found := strings.CutPrefix(string(body), `{"error":"`); found {
		code, _, _ = strings.Cut(rest, `"`)
	}
	return strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", code)), err
}

func floodFromTheRoom(address, count string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	open := 0
	for range n {
		conn, err := net.DialTimeout("tcp", address, patience)
		if errors.Is(err, unix.ECONNRESET) {
			continue // so soon
		}
		if err != nil {
			return "", err
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write([]byte("\x16\x03\x01"))
		if got, err := conn.Read(make([]byte, 1)); got > 0 || !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, io.EOF) {
			open++
		}
		conn.Close()
	}
	return fmt.Sprint(open, " open"), nil
}

// filterRole is the first argument with which this test binary becomes a program
// in a container: one whose filter of system calls knows no user namespaces.
const filterRole = "play-the-container"

func playTheContainer(argv []string) int {
	runtime.LockOSThread()
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_NEWUSER, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x50000 | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 1
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return 1
	}
	fmt.Fprintln(os.Stderr, unix.Exec(argv[0], argv, os.Environ()))
	return 1
}

// inARoom runs a test as nobody, since root hides what a user cannot do.
func inARoom(t *testing.T) (again bool) {
	t.Helper()
	if os.Getuid() == 0 {
		runAsNobody(t, "^"+t.Name()+"$", "--- PASS: "+t.Name())
		return false
	}
	return true
}

// netns runs a command under isolation "netns", if users may have namespaces.
func (c *Case) netns(flags []string, command ...string) (r Result, had bool) {
	c.Helper()
	c.Rules.Write()
	args := append([]string{"run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "netns", "--log", filepath.Join(c.Dir, "netns.log")}, flags...)
	r = c.Standin(append(append(args, "--"), command...)...)
	if strings.Contains(r.Err, `level "netns" is not to be had: make namespaces`) {
		c.Exit(r, 125)
		c.Logf("no namespaces for users here: %s", r.Err)
		return r, false
	}
	return r, true
}

// Netns runs a shell script under isolation "netns".
func (c *Case) Netns(script string, flags ...string) Result {
	c.Helper()
	r, had := c.netns(flags, "sh", "-c", script)
	if !had {
		c.Skip("no namespaces for users here")
	}
	return r
}

// Room makes attempts from inside a room, and returns the answers.
func (c *Case) Room(flags []string, attempts ...string) []string {
	c.Helper()
	r, had := c.netns(flags, append([]string{os.Args[0], roomRole}, attempts...)...)
	if !had {
		c.Skip("no namespaces for users here")
	}
	answers := strings.Split(strings.TrimSpace(r.Out), "\n")
	if len(answers) != len(attempts) || r.Code != 0 {
		c.Fatalf("%d attempts: %s", len(attempts), r.description)
	}
	return answers
}

// Answered asserts that an attempt in a room had an answer that begins so.
func (c *Case) Answered(attempt, answer, want string) {
	c.Helper()
	if !strings.HasPrefix(answer, want) {
		c.Errorf("%s: %s, not %s", attempt, answer, want)
	}
}
