package main

import (
	"errors"
	"net"
	"os"
	"sync"

	"standin/audit"
	"standin/grant"
	"standin/launch/peer"
	"standin/proxy"
)

// doors is the listener of connections that came by the control socket: a
// launcher relays them, whose command is in another network.
type doors struct {
	ready  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newDoors() *doors { return &doors{ready: make(chan net.Conn), closed: make(chan struct{})} }

// push hands a connection to the front door.
func (d *doors) push(conn net.Conn) {
	select {
	case d.ready <- conn:
	case <-d.closed:
		conn.Close()
	}
}

func (d *doors) Accept() (net.Conn, error) {
	select {
	case conn := <-d.ready:
		return conn, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *doors) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// Addr is no address that anything could dial.
func (d *doors) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "relayed"} }

// sharedGate admits the connections of all sessions that show credentials, each
// judged by the gate of its session.
type sharedGate struct {
	g    *gateway
	desk *controlServer
}

// Admit implements proxy.Gate.
func (s *sharedGate) Admit(conn net.Conn, credentials []string) (*proxy.Client, audit.Process, error) {
	client, _, err := s.g.gate.Admit(conn, credentials)
	if err != nil {
		return nil, audit.Process{}, err
	}
	if err := client.Session.Live(); err != nil {
		return client, audit.Process{}, err
	}
	for _, h := range s.desk.all() {
		if h.client == client {
			return h.gate.Admit(conn, credentials)
		}
	}
	return client, audit.Process{}, &grant.Refusal{Code: "session_closed"}
}

// ours says whether the user of this gateway is at the other end, as far as can be
// told: the kernel knows both ends of a connection of this machine and network.
// One from elsewhere has shown its credentials, which is all there is.
func (t *gate) ours(conn net.Conn) bool {
	if _, relayed := conn.(*net.UnixConn); relayed {
		return true // only this user reaches the control socket
	}
	if t.sockets == nil {
		return true
	}
	socket, err := t.sockets.Other(conn)
	if err == nil {
		return socket.UID == os.Getuid()
	}
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && !remote.IP.IsLoopback() && errors.Is(err, peer.ErrNoSocket)
}
