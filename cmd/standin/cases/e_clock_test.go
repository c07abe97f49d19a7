//go:build linux

package cases

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clock moves the wall clock of one gateway, and of nothing else: time
// namespaces hold monotonic clocks only, and a static program loads no library
// that could do it. Go reads the time by a function that the kernel maps into
// each process. Before the first instruction of the gateway that function is
// turned into one that adds what stands in a file of ours.
type clock struct {
	c    *Case
	file *os.File
	path string
}

// Where the code stands in the file; the seconds to add are at its begin.
const clockCode = 64

// newClock needs the machine code of this processor.
func (c *Case) newClock() *clock {
	c.Helper()
	if runtime.GOARCH != "amd64" {
		c.Skip("moving the clock of one process is written for amd64 only")
	}
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 0x0a, // jne to ret: not CLOCK_REALTIME
		0x48, 0x8b, 0x0d, 0, 0, 0, 0, // mov rcx, [rip+…]
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	}
	back := -int32(clockCode + 18)
	binary.LittleEndian.PutUint32(code[14:], uint32(back))
	path := filepath.Join(c.Dir, "clock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o700)
	if err == nil {
		_, err = file.WriteAt(append(code, make([]byte, 4096-clockCode-len(code))...), clockCode)
	}
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = file.Close() })
	return &clock{c, file, path}
}

// Start starts a session by this clock.
func (k *clock) Start(o Start) *Session {
	k.c.Helper()
	runtime.LockOSThread() // a tracer is one thread
	defer runtime.UnlockOSThread()
	o.Change = func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true} }
	o.Began = func(cmd *exec.Cmd) {
		if err := k.take(cmd.Process.Pid); err != nil {
			_ = cmd.Process.Kill()
			k.c.Fatalf("take the clock of the gateway: %v", err)
		}
	}
	return k.c.Start(o)
}

// Move sets the clock this far from the true time, at once.
func (k *clock) Move(by time.Duration) {
	k.c.Helper()
	var text [8]byte
	binary.LittleEndian.PutUint64(text[:], uint64(int64(by/time.Second)))
	if _, err := k.file.WriteAt(text[:], 0); err != nil {
		k.c.Fatal(err)
	}
}

// take follows the program until it has started itself once more, with a clean
// environment, and changes the clock of that second start.
func (k *clock) take(pid int) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACEEXEC); err != nil {
		return err
	}
	for tid := pid; ; {
		signal := int(status.StopSignal())
		if signal == int(unix.SIGTRAP) || signal == int(unix.SIGSTOP) {
			signal = 0 // ours
		}
		if status.Stopped() {
			if err := unix.PtraceCont(tid, signal); err != nil && err != unix.ESRCH {
				return err
			}
		}
		var err error
		if tid, err = unix.Wait4(-pid, &status, unix.WALL, nil); err != nil {
			return err
		}
		if status.Stopped() && status.TrapCause() == unix.PTRACE_EVENT_EXEC {
			break
		}
	}
	if err := k.step(pid); err != nil { // out of execve
		return err
	}
	if err := k.change(pid); err != nil {
		return err
	}
	return unix.PtraceDetach(pid)
}

// step lets the process execute one instruction. A signal that arrives just
// then, as Go's own do, stops it before that and is dropped.
func (k *clock) step(pid int) error {
	for {
		if err := unix.PtraceSingleStep(pid); err != nil {
			return err
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
			return err
		}
		if !status.Stopped() {
			return fmt.Errorf("the process ended")
		}
		if status.StopSignal() == unix.SIGTRAP {
			return nil
		}
	}
}

// change maps the file into the process and leads its clock there.
func (k *clock) change(pid int) error {
	at, err := clockOf(pid)
	if err != nil {
		return err
	}
	var saved unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &saved); err != nil {
		return err
	}
	kept := make([]byte, 8)
	path := append([]byte(k.path), make([]byte, 16-len(k.path)%8)...)
	for _, step := range []func() (int, error){
		func() (int, error) { return unix.PtracePeekText(pid, uintptr(saved.Rip), kept) },
		func() (int, error) {
			return unix.PtracePokeText(pid, uintptr(saved.Rip), []byte{0x0f, 0x05, 0, 0, 0, 0, 0, 0})
		},
		func() (int, error) { return unix.PtracePokeData(pid, uintptr(saved.Rsp-1024), path) },
	} {
		if _, err := step(); err != nil {
			return err
		}
	}
	call := func(number uint64, a ...uint64) (result uint64) {
		regs := saved
		regs.Rax, regs.Orig_rax = number, ^uint64(0)
		for i, to := range []*uint64{&regs.Rdi, &regs.Rsi, &regs.Rdx, &regs.R10, &regs.R8, &regs.R9} {
			if *to = 0; i < len(a) {
				*to = a[i]
			}
		}
		if err = unix.PtraceSetRegs(pid, &regs); err == nil {
			err = k.step(pid)
		}
		if err == nil {
			err = unix.PtraceGetRegs(pid, &regs)
		}
		if int64(regs.Rax) < 0 && err == nil {
			err = syscall.Errno(-int64(regs.Rax))
		}
		return regs.Rax
	}
	fd := call(unix.SYS_OPEN, saved.Rsp-1024, unix.O_RDWR)
	if err != nil {
		return err
	}
	page := call(unix.SYS_MMAP, 0x70000000, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED|unix.MAP_FIXED_NOREPLACE, fd)
	if err != nil {
		return err
	}
	if call(unix.SYS_CLOSE, fd); err != nil {
		return err
	}
	jump := []byte{0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0, 0, 0, 0, 0} // mov rax, page; jmp rax
	binary.LittleEndian.PutUint64(jump[2:], page+clockCode)
	if _, err := unix.PtracePokeText(pid, at, jump); err != nil {
		return err
	}
	if _, err := unix.PtracePokeText(pid, uintptr(saved.Rip), kept); err != nil {
		return err
	}
	return unix.PtraceSetRegs(pid, &saved)
}

// clockOf finds the kernel's function that tells the time, in a process.
func clockOf(pid int) (uintptr, error) {
	maps, err := os.ReadFile(procFile(pid, "maps"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		image := make([]byte, to-from)
		if _, err := unix.PtracePeekText(pid, from, image); err != nil {
			return 0, err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + uintptr(s.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("the kernel maps no clock into the process")
}
