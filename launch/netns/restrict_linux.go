package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed are the capabilities with which the first process makes the room. They
// count in the room's own namespaces only.
var needed = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP}

// lastCapability is the highest number that a kernel could know.
const lastCapability = 63

// Bits of prctl(PR_SET_SECUREBITS), each with its lock: uid 0 gains nothing by
// exec, no capability survives a change of user, none is raised to ambient.
const securebits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7

// restrict takes from the calling thread, and from all that it starts, every
// capability and every way to get one back.
func restrict() error {
	// Keys that the user keeps in the kernel stay with the keyring of the session
	// that this process came from.
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno != 0 && errno != unix.ENOSYS && errno != unix.EPERM { // there is none, or none to be had
		return step("leave the session's keyring", errno)
	}
	for c := uintptr(0); c <= lastCapability; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return step("give up capabilities", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return step("give up capabilities", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return step("give up capabilities", err)
	}
	var none [2]unix.CapUserData
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return step("give up capabilities", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return step("give up capabilities", err)
	}
	return step("filter system calls", filter())
}

// withoutCapabilities checks what restrict has done, on the calling thread.
func withoutCapabilities() error {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return err
	}
	if data != [2]unix.CapUserData{} {
		return fmt.Errorf("the process has capabilities: %x", data)
	}
	for c := 0; c <= lastCapability; c++ {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && has != 0 {
			return fmt.Errorf("capability %d can be had again", c)
		}
		if has, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, uintptr(c), 0, 0); err == nil && has != 0 {
			return fmt.Errorf("capability %d is ambient", c)
		}
	}
	if bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0); err != nil || bits&securebits != securebits {
		return fmt.Errorf("securebits are %x", bits)
	}
	if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || set != 1 {
		return errors.New("a setuid program could have privileges")
	}
	if mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil || mode != unix.SECCOMP_MODE_FILTER {
		return errors.New("system calls are not filtered")
	}
	return nil
}

// architectures are those whose system calls this program knows how to filter.
var architectures = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "riscv64": unix.AUDIT_ARCH_RISCV64, "loong64": unix.AUDIT_ARCH_LOONGARCH64,
}

// Offsets in struct seccomp_data, and numbers that package unix does not have.
const (
	dataNumber       = 0
	dataArchitecture = 4
	dataArguments    = 16
	x32Bit           = 0x40000000
	tiocLinux        = 0x541c
	answerAllow      = 0x7fff0000
	answerError      = 0x00050000
)

// families are the kinds of sockets that a network namespace contains, or that
// reach nobody. Others (vsock reaches the host of a virtual machine) pass it by.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_ALG}

// filter refuses the system calls that go past the room: sockets of other
// families, also by io_uring, which no filter sees into; keys in the kernel,
// whose keyrings know no namespace; and characters pushed into the terminal,
// which a shell outside would read.
func filter() error {
	architecture, ok := architectures[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("not known for %s", runtime.GOARCH)
	}
	refuse := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: answerError | uint32(errno)}
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: answerAllow}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// jump goes on if the value is k, else over so many instructions.
	jump := func(k uint32, over int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: uint8(over)}
	}
	program := []unix.SockFilter{load(dataArchitecture), jump(architecture, 1), {Code: unix.BPF_JMP | unix.BPF_JA, K: 1}, refuse(unix.ENOSYS), load(dataNumber)}
	if runtime.GOARCH == "amd64" {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32Bit, Jf: 1}, refuse(unix.ENOSYS))
	}
	for _, call := range []uint32{unix.SYS_IO_URING_SETUP, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY} {
		program = append(program, jump(call, 1), refuse(unix.ENOSYS))
	}
	test := []unix.SockFilter{load(dataArguments + 8)} // the low half of the second argument
	for _, request := range []uint32{unix.TIOCSTI, tiocLinux} {
		test = append(test, jump(request, 1), refuse(unix.EPERM))
	}
	program = append(append(program, jump(unix.SYS_IOCTL, len(test)+1)), append(test, allow)...)
	test = []unix.SockFilter{load(dataArguments)}
	for _, family := range families {
		test = append(test, jump(family, 1), allow)
	}
	program = append(append(program, jump(unix.SYS_SOCKET, len(test)+1)), append(test, refuse(unix.EAFNOSUPPORT))...)
	program = append(program, allow)
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// leaveNothingOpen closes, at exec, all but the standard files.
func leaveNothingOpen() error {
	return unix.CloseRange(3, uint(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
}

// nothingOpen checks it.
func nothingOpen() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil {
			continue // that of the listing itself
		}
		var stat unix.Stat_t
		if fd > 2 && flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("the command would inherit descriptor %d", fd)
		}
		if err := unix.Fstat(fd, &stat); err == nil && fd <= 2 && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Errorf("descriptor %d is a folder: what is hidden could be reached from it", fd)
		}
	}
	return nil
}
