//go:build linux

package peer

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkOwner is the cost of placing one connection: of a process that is
// known, of a new one in a tree of six, and of a stranger, with so many
// processes on the machine.
func BenchmarkOwner(b *testing.B) {
	for _, processes := range []int{50, 700} {
		b.Run(strconv.Itoa(processes), func(b *testing.B) {
			crowd(b, processes)
			for _, who := range []string{"known", "new", "stranger"} {
				b.Run(who, func(b *testing.B) { benchmarkOwner(b, who) })
			}
		})
	}
}

func benchmarkOwner(b *testing.B, who string) {
	t := &testing.T{}
	s := newStage(t, false)
	stranger := startActor(nil, os.Environ())
	defer func() {
		stranger.end()
		s.command.end()
		s.tree.Close()
		s.sockets.Close()
		s.listener.Close()
	}()
	for i := range 5 {
		s.command.ask(fmt.Sprintf("ask %d pid", i))
	}
	conn := s.from(s.command, "ask 2 dial")
	if who == "stranger" {
		conn = s.from(stranger, "dial")
	}
	defer conn.Close()
	before := processor(b)
	for b.Loop() {
		if who == "new" {
			s.tree.known = nil
		}
		if _, err := s.tree.Owner(conn); (err != nil) != (who == "stranger") {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processor(b)-before)/float64(b.N), "cpu-µs/op")
}

// processor is the CPU time of this process, in microseconds: what else runs on
// the machine does not change it.
func processor(b *testing.B) int64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return (usage.Utime.Sec+usage.Stime.Sec)*1e6 + int64(usage.Utime.Usec+usage.Stime.Usec)
}

// crowd fills the machine up to so many processes.
func crowd(b *testing.B, want int) {
	b.Helper()
	have, err := numbers()
	if err != nil {
		b.Fatal(err)
	}
	if len(have) > want {
		b.Logf("there are %d processes already", len(have))
	}
	for range want - len(have) {
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}
