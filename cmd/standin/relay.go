package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"

	"standin/launch/peer"
)

// relay listens where the command is, in another network than the gateway, and
// hands each connection through the control socket. It looks at nothing: what
// passes shows the session's credentials to the gateway.
type relay struct {
	socket   string
	listener net.Listener
	sockets  *peer.Sockets // nil where the system does not tell who connects
	serving  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]struct{}
	over bool
}

func newRelay(socket string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	r := &relay{socket: socket, listener: listener, open: map[net.Conn]struct{}{}}
	r.sockets, _ = peer.OpenSockets() // without it whoever has the credentials is served, as the gateway's log says
	r.serving.Go(r.serve)
	return r, nil
}

func (r *relay) address() net.Addr { return r.listener.Addr() }

func (r *relay) serve() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			pause()
			continue
		}
		r.serving.Go(func() { r.pass(conn) })
	}
}

// pass relays one connection, of this user's processes only.
func (r *relay) pass(conn net.Conn) {
	defer r.drop(conn)
	if !r.keep(conn) {
		return
	}
	if r.sockets != nil {
		if socket, err := r.sockets.Other(conn); err != nil || socket.UID != os.Getuid() {
			return
		}
	}
	door, err := upgraded(r.socket, "standin-door", "/v1/door")
	if err != nil {
		return
	}
	defer r.drop(door)
	if !r.keep(door) {
		return
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		io.Copy(door, conn)
		door.(*net.UnixConn).CloseWrite()
	})
	io.Copy(conn, door)
	conn.Close()
	sending.Wait()
}

func (r *relay) keep(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.open[conn] = struct{}{}
	}
	return !r.over
}

func (r *relay) drop(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

// close cuts everything.
func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.over = true
	for conn := range r.open {
		conn.Close()
	}
	r.mu.Unlock()
	r.serving.Wait()
	if r.sockets != nil {
		r.sockets.Close()
	}
}

// relayedBy puts the address at which a launcher relays into the proxy's URL.
func (o *outfit) relayedBy(address net.Addr) {
	if u, err := url.Parse(o.ProxyURL); err == nil {
		u.Host = address.String()
		o.ProxyURL = u.String()
	}
}
