//go:build !linux

package control

import (
	"net"
	"os"
)

// PeerOf trusts the mode of the socket and of its folder: only this user gets
// through.
func PeerOf(net.Conn) (Peer, error) { return Peer{UID: os.Getuid()}, nil }
