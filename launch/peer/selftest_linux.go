package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// SelfTest makes a connection from this process to itself and places it. The
// error says what of it this system cannot do.
func SelfTest() error {
	// In another process's view of /proc all numbers would mean others.
	if own, err := os.Readlink("/proc/self"); err != nil || own != strconv.Itoa(os.Getpid()) {
		return errors.New("find the owners of connections: /proc is missing, or belongs to another pid namespace")
	}
	sockets, err := OpenSockets()
	if err != nil {
		return fmt.Errorf("find the owners of connections: %w", err)
	}
	defer sockets.Close()
	self, err := openProcess(os.Getpid())
	if err != nil {
		return fmt.Errorf("find the owners of connections: %w", err)
	}
	defer self.close()
	tree, err := New(Config{Sockets: sockets, PID: self.pid, Start: self.start})
	if err != nil {
		return fmt.Errorf("find the owners of connections: %w", err)
	}
	defer tree.Close()
	accepted, done, err := ownConnection()
	if err != nil {
		return fmt.Errorf("find the owners of connections: %w", err)
	}
	defer done()
	owner, err := tree.Owner(accepted)
	if err != nil {
		return fmt.Errorf("find the owners of connections: %w", err)
	}
	if owner.PID != os.Getpid() || owner.UID != os.Getuid() {
		return fmt.Errorf("find the owners of connections: this process's own is said to be of process %d, user %d", owner.PID, owner.UID)
	}
	return nil
}

// ownConnection is a connection from this process to itself.
func ownConnection() (accepted net.Conn, done func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	dialled, err := net.DialTimeout("tcp", listener.Addr().String(), time.Second)
	if err != nil {
		return nil, nil, err
	}
	for { // others may have been first
		if accepted, err = listener.Accept(); err != nil {
			dialled.Close()
			return nil, nil, err
		}
		if accepted.RemoteAddr().String() == dialled.LocalAddr().String() {
			return accepted, func() { dialled.Close(); accepted.Close() }, nil
		}
		accepted.Close()
	}
}
