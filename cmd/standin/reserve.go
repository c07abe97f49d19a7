package main

import (
	"net"
	"os"
	"sync"
)

// reserve holds descriptors for the control socket: also a gateway that has none
// left is asked, and revokes.
type reserve struct {
	mu    sync.Mutex
	files []*os.File
}

// reserved is how many descriptors are held: one for a caller, the others for what
// is opened to answer him.
const reserved = 4

func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.files) < reserved {
		file, err := os.Open(os.DevNull)
		if err != nil {
			return // there are none now; the next caller's end is another chance
		}
		r.files = append(r.files, file)
	}
}

func (r *reserve) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range r.files {
		file.Close()
	}
	r.files = nil
}

// reservedListener takes its connections from the reserve when there is no other
// descriptor.
type reservedListener struct {
	net.Listener
	reserve *reserve
}

func (l *reservedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil || !exhausted(err) {
		return conn, err
	}
	l.reserve.release()
	if conn, err = l.Listener.Accept(); err != nil {
		l.reserve.fill()
		return nil, err
	}
	return &reservedConn{UnixConn: conn.(*net.UnixConn), reserve: l.reserve}, nil
}

// reservedConn gives back what it was taken from.
type reservedConn struct {
	*net.UnixConn
	reserve *reserve
	once    sync.Once
}

func (c *reservedConn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(c.reserve.fill)
	return err
}
