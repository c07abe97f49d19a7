//go:build !linux

package peer

import (
	"net"
	"os"
)

// Socket is a socket as the kernel names it.
type Socket struct {
	Inode uint32
	UID   int
}

// Sockets cannot be had here.
type Sockets struct{}

// OpenSockets returns ErrUnsupported.
func OpenSockets() (*Sockets, error) { return nil, ErrUnsupported }

// SocketsOf returns ErrUnsupported.
func SocketsOf(*os.File) (*Sockets, error) { return nil, ErrUnsupported }

// Other returns ErrUnsupported.
func (s *Sockets) Other(net.Conn) (Socket, error) { return Socket{}, ErrUnsupported }

// Close does nothing.
func (s *Sockets) Close() error { return nil }

// Tree cannot be had here.
type Tree struct{}

// New returns ErrUnsupported.
func New(Config) (*Tree, error) { return nil, ErrUnsupported }

// Command is nobody.
func (t *Tree) Command() Process { return Process{} }

// Owner returns ErrUnsupported.
func (t *Tree) Owner(net.Conn) (Process, error) { return Process{}, ErrUnsupported }

// Close does nothing.
func (t *Tree) Close() error { return nil }

// SelfTest returns ErrUnsupported.
func SelfTest() error { return ErrUnsupported }

// Ancestors are not known here.
func Ancestors(int) []int { return nil }

// Started is not known here.
func Started(int) (uint64, error) { return 0, ErrUnsupported }

// Watch cannot be had here.
type Watch struct{}

// WatchProcess returns ErrUnsupported.
func WatchProcess(int, uint64) (*Watch, error) { return nil, ErrUnsupported }

// Done is never closed.
func (w *Watch) Done() <-chan struct{} { return nil }

// Close does nothing.
func (w *Watch) Close() error { return nil }

// Shell returns ErrUnsupported.
func Shell() (Process, error) { return Process{}, ErrUnsupported }

// Program is not known here.
func Program(int) string { return "" }
