//go:build !linux

package netns

import (
	"errors"
	"net"
	"os"

	"standin/launch"
)

// Room cannot be had here.
type Room struct {
	Proxy   net.Listener
	Direct  []net.Listener
	Names   []net.PacketConn
	Streams []net.Listener
	Sockets *os.File
}

var errUnsupported = errors.New("it needs the namespaces of Linux")

// Open returns a *LackingError.
func Open(Config) (*Room, error) {
	return nil, &LackingError{Step: "make a room", Cause: errUnsupported}
}

// Ready returns an error.
func (r *Room) Ready() error { return errUnsupported }

// Init is nobody.
func (r *Room) Init() (pid int, start uint64) { return 0, 0 }

// Furnish returns an error.
func (r *Room) Furnish(Furniture) (Report, error) { return Report{}, errUnsupported }

// Start returns an error.
func (r *Room) Start(launch.Spec) (pidfd int, err error) { return -1, errUnsupported }

// Wait returns an error.
func (r *Room) Wait() (status uint32, err error) { return 0, errUnsupported }

// Close does nothing.
func (r *Room) Close() error { return nil }

// Init does nothing.
func Init() int { return 1 }
