package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Socket is a socket as the kernel names it.
type Socket struct {
	Inode uint32
	UID   int // who made it
}

// Sockets asks the kernel about single sockets of this process's network
// namespace, by sock_diag(7). It may be used concurrently.
type Sockets struct {
	mu  sync.Mutex
	fd  int // -1 when closed
	seq uint32
}

// OpenSockets opens the kernel's answering socket, which Close closes.
func OpenSockets() (*Sockets, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	return socketsOf(fd)
}

// SocketsOf takes over the kernel's answering socket of another network
// namespace, in which it was opened.
func SocketsOf(file *os.File) (*Sockets, error) {
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(fmt.Errorf("open sock_diag socket: %w", err), unix.Close(fd))
	}
	return socketsOf(fd)
}

func socketsOf(fd int) (*Sockets, error) {
	// The kernel answers within the call that asks. The limit is for a system
	// that only pretends to have this.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return nil, errors.Join(fmt.Errorf("open sock_diag socket: %w", err), unix.Close(fd))
	}
	return &Sockets{fd: fd}, nil
}

// Close closes the socket. Later questions are errors.
func (s *Sockets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// Other returns the socket at the other end of a TCP connection that was
// accepted on this machine.
func (s *Sockets) Other(conn net.Conn) (Socket, error) {
	here, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return Socket{}, fmt.Errorf("find the socket of a connection: %w", err)
	}
	there, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return Socket{}, fmt.Errorf("find the socket of a connection: %w", err)
	}
	return s.find(endpoints{plain(there), plain(here)})
}

// plain writes a mapped IPv4 address as what it is.
func plain(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// endpoints are those of one socket: its own address and that of its peer.
type endpoints struct{ own, peer netip.AddrPort }

// Sizes of struct nlmsghdr, inet_diag_req_v2, inet_diag_sockid and inet_diag_msg.
const (
	headerSize  = 16
	requestSize = 56
	idSize      = 48
	answerSize  = 72
)

func (s *Sockets) find(e endpoints) (Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if err := unix.Sendto(s.fd, request(e, s.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Socket{}, fmt.Errorf("ask for the socket of a connection: %w", err)
	}
	var buf [4096]byte
	for {
		n, from, err := unix.Recvfrom(s.fd, buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Socket{}, fmt.Errorf("ask for the socket of a connection: %w", err)
		}
		// Any process may write to a netlink socket; the kernel is port 0.
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue
		}
		if n < headerSize || binary.NativeEndian.Uint32(buf[8:]) != s.seq {
			continue // the late answer to a question that timed out
		}
		return answer(buf[:n], e)
	}
}

// request asks for exactly this connection: no dump, no filter.
func request(e endpoints, seq uint32) []byte {
	b := make([]byte, 0, headerSize+requestSize)
	native, network := binary.NativeEndian, binary.BigEndian
	b = native.AppendUint32(b, headerSize+requestSize)
	b = native.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0)
	family := byte(unix.AF_INET6)
	if e.own.Addr().Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = native.AppendUint32(b, ^uint32(0)) // states; not looked at without a dump
	b = network.AppendUint16(b, e.own.Port())
	b = network.AppendUint16(b, e.peer.Port())
	b = appendAddr(b, e.own.Addr())
	b = appendAddr(b, e.peer.Addr())
	b = native.AppendUint32(b, 0)          // interface
	b = native.AppendUint64(b, ^uint64(0)) // no cookie
	return b
}

func appendAddr(b []byte, a netip.Addr) []byte {
	var wide [16]byte
	copy(wide[:], a.AsSlice())
	return append(b, wide[:]...)
}

// answer reads the kernel's answer. Where the connection is gone, the kernel
// offers the listener of that port in its place: so addresses are compared.
func answer(b []byte, e endpoints) (Socket, error) {
	native := binary.NativeEndian
	switch native.Uint16(b[4:]) {
	case unix.NLMSG_ERROR:
		if len(b) < headerSize+4 {
			return Socket{}, errors.New("read sock_diag answer: too short")
		}
		errno := unix.Errno(-int32(native.Uint32(b[headerSize:])))
		if errno == unix.ENOENT {
			return Socket{}, ErrNoSocket
		}
		return Socket{}, fmt.Errorf("ask for the socket of a connection: %w", errno)
	case unix.SOCK_DIAG_BY_FAMILY:
	default:
		return Socket{}, fmt.Errorf("read sock_diag answer: type %d", native.Uint16(b[4:]))
	}
	b = b[headerSize:]
	if len(b) < answerSize {
		return Socket{}, errors.New("read sock_diag answer: too short")
	}
	id := b[4 : 4+idSize]
	if addrPort(b[0], id[4:], id[0:]) != e.own || addrPort(b[0], id[20:], id[2:]) != e.peer {
		return Socket{}, ErrNoSocket
	}
	found := Socket{UID: int(native.Uint32(b[64:])), Inode: native.Uint32(b[68:])}
	if found.Inode == 0 { // closed by all who held it
		return Socket{}, ErrNoSocket
	}
	return found, nil
}

func addrPort(family byte, addr, port []byte) netip.AddrPort {
	a := netip.AddrFrom4([4]byte(addr[:4]))
	if family == unix.AF_INET6 {
		a = netip.AddrFrom16([16]byte(addr[:16])).Unmap()
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}
