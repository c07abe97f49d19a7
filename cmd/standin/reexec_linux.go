package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// environmentFD names, in the environment of the cleaned process, the open
// file that holds the environment which the user gave.
const environmentFD = "STANDIN_ENVIRONMENT_FD"

// kept are the variables that the gateway's own process may need. All others
// stay with the user's environment: several of them (GODEBUG, SSLKEYLOGFILE,
// LD_PRELOAD, RES_OPTIONS, HTTPS_PROXY, SSL_CERT_FILE) change what a Go or C
// runtime does before main is reached.
var kept = []string{
	"HOME", "PATH", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "TZ", "TMPDIR",
	"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "GOMAXPROCS", "GOMEMLIMIT", "GOCOVERDIR",
}

// cleanStart starts this program once more in the same process, with a clean
// environment. The user's environment waits in an anonymous memory file, never
// on a disk and never in an argument. The new start has as many processors as
// are given, or all for 0.
func (p *program) cleanStart(processors int) error {
	if p.cleaned {
		return nil
	}
	fd, err := unix.MemfdCreate("environment", 0)
	if err != nil {
		return fmt.Errorf("start with a clean environment: %w", err)
	}
	file := os.NewFile(uintptr(fd), "environment")
	if _, err := file.WriteString(strings.Join(p.env, "\x00")); err != nil {
		return fmt.Errorf("start with a clean environment: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("start with a clean environment: %w", err)
	}
	slack, err := relaxTimers()
	if err != nil {
		return fmt.Errorf("start with a clean environment: %w", err)
	}
	env := []string{environmentFD + "=" + strconv.Itoa(fd), timerSlack + "=" + strconv.Itoa(slack), "GOTRACEBACK=single"}
	for _, name := range kept {
		if value := p.getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	if processors > 0 {
		env = append(env, "GOMAXPROCS="+strconv.Itoa(processors))
	}
	argv := append([]string{os.Args[0]}, p.args...)
	return fmt.Errorf("start with a clean environment: %w", unix.Exec("/proc/self/exe", argv, env))
}

// timerSlack names the slack that this process's timers had.
const timerSlack = "STANDIN_TIMER_SLACK"

// gatewaySlack is how late a timer of the gateway may be, in nanoseconds. While
// one thread waits for the disk, Go's monitor looks after it every 20 µs: a
// tenth of the time of a request. No timer of the gateway needs more than this.
const gatewaySlack = 1_000_000

// relaxTimers sets the slack, which lasts across exec, and returns what it was:
// the command gets that back.
func relaxTimers() (before int, err error) {
	if before, err = unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil {
		return 0, err
	}
	return before, unix.Prctl(unix.PR_SET_TIMERSLACK, gatewaySlack, 0, 0, 0)
}

// restoreEnvironment takes the user's environment back after a clean start.
func (p *program) restoreEnvironment() error {
	number, ok := os.LookupEnv(environmentFD)
	if !ok {
		return nil
	}
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return fmt.Errorf("read $%s: not the number of an open file", environmentFD)
	}
	file := os.NewFile(uintptr(fd), "environment")
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return fmt.Errorf("read the user's environment: %w", err)
	}
	p.env = p.env[:0:0]
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		if len(entry) > 0 {
			p.env = append(p.env, string(entry))
		}
	}
	p.cleaned = true
	p.slack, _ = strconv.Atoi(os.Getenv(timerSlack))
	return errors.Join(os.Unsetenv(environmentFD), os.Unsetenv(timerSlack))
}
