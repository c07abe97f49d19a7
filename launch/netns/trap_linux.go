package netns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// trap listens outside for what must not come out of a room.
type trap struct {
	addresses []netip.AddrPort
	name      string // of an abstract socket
	sockets   []trapSocket
}

type trapSocket struct {
	fd   int
	what string
	take func(fd int) error // takes what has come; EAGAIN: nothing
}

// loopbacks are where a program listens that is for this machine alone.
var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}

// setTrap listens for TCP and UDP on the same ports of the loopback addresses,
// and under a name of no file.
func setTrap() (*trap, error) {
	t := &trap{name: "standin-" + rand.Text()}
	for _, host := range loopbacks {
		if host.Is6() && !haveIPv6() {
			continue
		}
		if err := t.listen(host); err != nil {
			t.close()
			return nil, err
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		t.sockets = append(t.sockets, trapSocket{fd, "an abstract socket", accept})
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + t.name}); err == nil {
			err = unix.Listen(fd, 4)
		}
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *trap) listen(host netip.Addr) error {
	for range 16 { // a port that is free for TCP may be taken for UDP
		stream, err := bound(unix.SOCK_STREAM, socketAddress(netip.AddrPortFrom(host, 0)))
		if err != nil {
			return err
		}
		t.sockets = append(t.sockets, trapSocket{stream, "TCP to " + host.String(), accept})
		if err := unix.Listen(stream, 4); err != nil {
			return err
		}
		name, err := unix.Getsockname(stream)
		if err != nil {
			return err
		}
		packet, err := bound(unix.SOCK_DGRAM, name)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return err
		}
		t.sockets = append(t.sockets, trapSocket{packet, "UDP to " + host.String(), func(fd int) error {
			_, _, err := unix.Recvfrom(fd, make([]byte, 16), 0)
			return err
		}})
		t.addresses = append(t.addresses, netip.AddrPortFrom(host, uint16(portOf(name))))
		return nil
	}
	return fmt.Errorf("no port is free on %v", host)
}

func accept(fd int) error {
	got, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err == nil {
		unix.Close(got)
	}
	return err
}

func portOf(name unix.Sockaddr) int {
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}

// sprung says what has come, "" if nothing has.
func (t *trap) sprung() string {
	for _, s := range t.sockets {
		if err := s.take(s.fd); !errors.Is(err, unix.EAGAIN) {
			return fmt.Sprintf("%s came out (%v)", s.what, err)
		}
	}
	return ""
}

func (t *trap) close() {
	for _, s := range t.sockets {
		_ = unix.Close(s.fd)
	}
}

// socketAddress writes an address as system calls take it.
func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if host := a.Addr().Unmap(); host.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: host.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
