package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// probe is what the self-test tries to reach: it is there outside.
type probe struct {
	Gateway    int               // its pid
	Namespaces map[string]string // of the gateway, as /proc/self/ns has them
	Addresses  []netip.AddrPort  // where the gateway listens for what must not come, over TCP and UDP
	Abstract   string            // and by a name of no file
	Foreign    []netip.AddrPort  // where nobody in the room listens
	Secrets    []identity        // files and folders that must not be found
}

// identity is one file.
type identity struct {
	Path     string
	Dev, Ino uint64
}

// identityOf is zero for what is not there.
func identityOf(path string) identity {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) != nil {
		return identity{}
	}
	return identity{path, uint64(stat.Dev), stat.Ino}
}

// attempt is one test. It returns what was found, which is a way out.
type attempt struct {
	name string
	run  func(*probe, []string) error
}

// attempts run on the thread that starts the command. Each names what it tries.
var attempts = []attempt{
	{"capabilities", func(*probe, []string) error { return withoutCapabilities() }},
	{"namespaces", otherNamespaces},
	{"descriptors", func(*probe, []string) error { return nothingOpen() }},
	{"direct TCP", func(p *probe, _ []string) error { return p.dial(unix.SOCK_STREAM, 0) }},
	{"MPTCP", func(p *probe, _ []string) error { return p.dial(unix.SOCK_STREAM, unix.IPPROTO_MPTCP) }},
	{"TCP fast open", fastOpen},
	{"UDP", func(p *probe, _ []string) error { return p.dial(unix.SOCK_DGRAM, 0) }},
	{"other ports", otherPorts},
	{"raw sockets", rawSockets},
	{"sockets of a virtual machine", vsock},
	{"abstract sockets", abstractSocket},
	{"path sockets", pathSockets},
	{"ptrace of the gateway", traceGateway},
	{"signals to the gateway", signalGateway},
	{"state directory", secrets},
	{"keyring", keyring},
	{"namespaces of others", joinOthers},
}

// testNames are the names of all tests.
func testNames() (names []string) {
	for _, a := range attempts {
		names = append(names, a.name)
	}
	return names
}

// selfTest returns the first way out, or nil.
func selfTest(p *probe, sockets []string) *LeakError {
	for _, a := range attempts {
		if err := a.run(p, sockets); err != nil {
			return &LeakError{a.name, err.Error()}
		}
	}
	return nil
}

// otherNamespaces: none of the room's namespaces is the gateway's.
func otherNamespaces(p *probe, _ []string) error {
	if len(p.Namespaces) == 0 {
		return errors.New("it is not known which the gateway's are")
	}
	for name, outside := range p.Namespaces {
		if own, err := os.Readlink("/proc/thread-self/ns/" + name); err != nil || own == outside {
			return fmt.Errorf("%s is that of the gateway (%v)", name, err)
		}
	}
	return nil
}

// namespacesOf reads the namespaces that a room has of its own.
func namespacesOf() (map[string]string, error) {
	found := map[string]string{}
	for _, name := range []string{"user", "net", "mnt", "pid", "ipc"} {
		target, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return nil, err
		}
		found[name] = target
	}
	return found, nil
}

// dial tries each address. What is sent without an answer is looked for by the
// gateway, where it would arrive.
func (p *probe) dial(kind, protocol int) error {
	for _, to := range p.Addresses {
		err := try(to, kind, protocol, func(fd int, address unix.Sockaddr) error {
			if err := unix.Connect(fd, address); err != nil || kind == unix.SOCK_STREAM {
				return err
			}
			if _, err := unix.Write(fd, []byte("standin")); err != nil {
				return err
			}
			// The refusal of a datagram comes with the next call.
			_, err := unix.Write(fd, []byte("standin"))
			return err
		})
		if err == nil {
			return fmt.Errorf("%v can be reached", to)
		}
	}
	return nil
}

// try does something with a socket that is made for it, in a moment at most.
func try(to netip.AddrPort, kind, protocol int, do func(int, unix.Sockaddr) error) error {
	address, family := socketAddress(to), unix.AF_INET
	if _, six := address.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	moment := unix.NsecToTimeval(int64(time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &moment) // without it, a test takes long
	return do(fd, address)
}

func fastOpen(p *probe, _ []string) error {
	for _, to := range p.Addresses {
		err := try(to, unix.SOCK_STREAM, 0, func(fd int, address unix.Sockaddr) error {
			return unix.Sendto(fd, []byte("standin"), unix.MSG_FASTOPEN, address)
		})
		if err == nil {
			return fmt.Errorf("%v can be reached", to)
		}
	}
	return nil
}

// otherPorts: everywhere in the world, nobody listens but on the room's ports.
func otherPorts(p *probe, _ []string) error {
	for _, to := range p.Foreign {
		if err := try(to, unix.SOCK_STREAM, 0, unix.Connect); err == nil {
			return fmt.Errorf("%v can be reached", to)
		}
	}
	return nil
}

func rawSockets(*probe, []string) error {
	for name, kind := range map[string][3]int{
		"IPv4": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW}, "ICMP": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"IPv6": {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
	} {
		if fd, err := unix.Socket(kind[0], kind[1], kind[2]); err == nil {
			unix.Close(fd)
			return fmt.Errorf("%s can be opened", name)
		}
	}
	return nil
}

func vsock(*probe, []string) error {
	if fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); err == nil {
		unix.Close(fd)
		return errors.New("the host of the machine could be reached")
	}
	return nil
}

func abstractSocket(p *probe, _ []string) error {
	if dialUnix("@"+p.Abstract) == nil {
		return errors.New("one outside can be reached")
	}
	return nil
}

// pathSockets: none of those that were found outside is there.
func pathSockets(_ *probe, sockets []string) error {
	for _, path := range sockets {
		if dialUnix(path) == nil {
			return fmt.Errorf("%s can be reached", path)
		}
		if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			return fmt.Errorf("%s is there", path)
		}
	}
	return nil
}

func dialUnix(path string) (err error) {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		unix.Close(fd)
		if err == nil || errors.Is(err, unix.EAGAIN) {
			return nil
		}
	}
	return err
}

func traceGateway(p *probe, _ []string) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(p.Gateway), 0, 0, 0, 0)
	if errno == 0 {
		_, _, _ = unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(p.Gateway), 0, 0, 0, 0)
		return errors.New("it can be traced")
	}
	if os.Getppid() != 0 {
		return fmt.Errorf("this process sees its parent, as %d", os.Getppid())
	}
	return nil
}

func signalGateway(p *probe, _ []string) error {
	// The first process of the room has the number 1, in there.
	if p.Gateway != 1 && unix.Kill(p.Gateway, 0) == nil {
		return errors.New("it can be signalled")
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != 1 {
			return fmt.Errorf("process %d of others can be seen", pid)
		}
	}
	return nil
}

// secrets: where the gateway's files are, there is nothing, or something else.
func secrets(p *probe, _ []string) error {
	for _, s := range p.Secrets {
		if now := identityOf(s.Path); now == s && now != (identity{}) {
			return fmt.Errorf("%s is there", s.Path)
		}
	}
	return nil
}

func keyring(*probe, []string) error {
	if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); err == nil {
		return errors.New("keys in the kernel can be asked for")
	}
	return nil
}

// joinOthers: nothing in /proc leads to a namespace of somebody else.
func joinOthers(*probe, []string) error {
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/*") // a fixed pattern
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		err = unix.Setns(fd, 0)
		unix.Close(fd)
		if err == nil {
			return fmt.Errorf("%s can be joined", path)
		}
	}
	return nil
}
