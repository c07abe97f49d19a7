package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// loopback is the index of "lo" in every network namespace.
const loopback = 1

// connect makes the network of the room: the loopback device alone, on which
// every address of the world is local. There is no other device and no route,
// so a packet has nowhere else to go.
func connect() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return step("open a netlink socket", err)
	}
	defer unix.Close(fd)
	// ip link set lo up
	up := make([]byte, unix.SizeofIfInfomsg)
	native := binary.NativeEndian
	native.PutUint32(up[4:], loopback)
	native.PutUint32(up[8:], unix.IFF_UP)
	native.PutUint32(up[12:], unix.IFF_UP)
	if err := ask(fd, unix.RTM_NEWLINK, 0, up); err != nil {
		return step("set the loopback device up", err)
	}
	if err := ask(fd, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, everywhere(unix.AF_INET)); err != nil {
		return step("make every IPv4 address local", err)
	}
	err = ask(fd, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, everywhere(unix.AF_INET6))
	if err != nil && haveIPv6() {
		return step("make every IPv6 address local", err)
	}
	return nil
}

// everywhere is: ip route add local 0.0.0.0/0 dev lo, or ::/0.
func everywhere(family byte) []byte {
	route := make([]byte, unix.SizeofRtMsg)
	route[0] = family
	route[4], route[5], route[6], route[7] = unix.RT_TABLE_LOCAL, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL
	native := binary.NativeEndian
	route = native.AppendUint16(route, unix.SizeofRtAttr+4)
	route = native.AppendUint16(route, unix.RTA_OIF)
	return native.AppendUint32(route, loopback)
}

// ask sends one request and waits for its acknowledgement.
func ask(fd int, kind, flags uint16, body []byte) error {
	native := binary.NativeEndian
	message := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	message = native.AppendUint16(message, kind)
	message = native.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	message = native.AppendUint32(message, 1)
	message = native.AppendUint32(message, 0)
	message = append(message, body...)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink answers with something else")
	}
	if errno := -int32(native.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

func haveIPv6() bool {
	_, err := os.Stat("/proc/self/net/if_inet6")
	return err == nil
}

// What a descriptor is that the first process hands out.
const (
	kindProxy  = "proxy"  // a listener on the room's 127.0.0.1
	kindDirect = "direct" // a listener on all addresses of one port
	kindNames  = "names"  // a UDP socket on port 53
	kindStream = "stream" // a listener on port 53
	kindDiag   = "diag"   // sock_diag
)

// namesPort is where names are asked for.
const namesPort = 53

// listen opens the sockets of the room.
func listen(ports []uint16) (kinds []string, fds []int, err error) {
	add := func(kind string, fd int, err error) error {
		if err != nil {
			return step("open the room's sockets", fmt.Errorf("%s: %w", kind, err))
		}
		kinds, fds = append(kinds, kind), append(fds, fd)
		return nil
	}
	fd, err := listenTCP(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err := add(kindProxy, fd, err); err != nil {
		return nil, nil, err
	}
	six := haveIPv6()
	for _, port := range append([]uint16{80, 443, namesPort}, ports...) {
		kind := kindDirect
		if port == namesPort {
			kind = kindStream
		}
		fd, err := listenTCP(&unix.SockaddrInet4{Port: int(port)})
		if err := add(kind, fd, err); err != nil {
			return nil, nil, err
		}
		if six {
			fd, err := listenTCP(&unix.SockaddrInet6{Port: int(port)})
			if err := add(kind, fd, err); err != nil {
				return nil, nil, err
			}
		}
	}
	fd, err = bound(unix.SOCK_DGRAM, &unix.SockaddrInet4{Port: namesPort})
	if err := add(kindNames, fd, err); err != nil {
		return nil, nil, err
	}
	if six {
		fd, err = bound(unix.SOCK_DGRAM, &unix.SockaddrInet6{Port: namesPort})
		if err := add(kindNames, fd, err); err != nil {
			return nil, nil, err
		}
	}
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err := add(kindDiag, fd, err); err != nil {
		return nil, nil, err
	}
	return kinds, fds, nil
}

func listenTCP(address unix.Sockaddr) (int, error) {
	fd, err := bound(unix.SOCK_STREAM, address)
	if err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, unix.SOMAXCONN)
}

func bound(kind int, address unix.Sockaddr) (int, error) {
	family := unix.AF_INET
	if _, six := address.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	// A datagram tells which address it was for: the answer comes from there.
	info, option := unix.SOL_IP, unix.IP_PKTINFO
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, err
		}
		info, option = unix.SOL_IPV6, unix.IPV6_RECVPKTINFO
	}
	if kind == unix.SOCK_DGRAM {
		if err := unix.SetsockoptInt(fd, info, option, 1); err != nil {
			return -1, err
		}
	}
	return fd, unix.Bind(fd, address)
}

// mapUsers maps the user and the group of the gateway, and nobody else, to
// themselves. This process may do so because they are its own.
func mapUsers(uid, gid int) error {
	one := func(id int) string { return strconv.Itoa(id) + " " + strconv.Itoa(id) + " 1\n" }
	for _, m := range []struct{ file, text string }{
		{"setgroups", "deny"}, {"gid_map", one(gid)}, {"uid_map", one(uid)},
	} {
		file, err := os.OpenFile("/proc/self/"+m.file, os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString(m.text)
			file.Close()
		}
		if err != nil {
			return step("map users", err)
		}
	}
	return nil
}
