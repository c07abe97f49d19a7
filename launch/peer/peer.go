// Package peer finds which process is at the other end of a loopback
// connection, and whether that process belongs to the tree of one command.
//
// To the tree belong: the command; every process whose chain of parents leads
// up to it; and what such a process left behind when it ended. The launcher is
// the subreaper of its children, so what is left behind becomes its own child;
// from other children of the launcher (the helpers that read a secret, and what
// they leave behind) it is told by the command's mark in the environment with
// which it was started, or by having been placed before. A process that cleared
// its environment, became an orphan and only then connects is refused. In a pid
// namespace of the command's own, the first process of that is the launcher.
//
// A connection is judged by who holds its socket when it is judged: one holder
// in the tree is enough. Others are not looked for, because that would mean to
// read the descriptors of every process of the machine, and would win nothing:
// a process in the tree that hands its socket out could as well relay what
// passes over it. A socket that only strangers hold is refused, whoever made
// it, and so is one that another user made, unless its holder is that user.
//
// It opens no connection, keeps none, and decides nothing about requests. It
// finds only what this process may look into: not setuid programs, programs
// with capabilities of their own, or others that are not dumpable; they are
// refused. It does not defend a process of the tree against others of its user
// that may trace it. Everything is refused where the system is not Linux.
//
// Invariant: a process is never named by its number alone. It is read through
// one handle of its directory in /proc, which a later process of the same
// number does not answer; and it is remembered by number and start time, which
// another could share only if all numbers were given out within one tick.
package peer

import (
	"errors"
	"fmt"
)

// ErrUnsupported says that this system cannot tell who holds a connection.
var ErrUnsupported = errors.New("find the owners of connections: it needs Linux")

// ErrNoSocket says that nobody on this machine, in this network namespace, has the
// socket, or has it any more.
var ErrNoSocket = errors.New("find the socket of a connection: it is closed, or of another machine or namespace")

// Process is who holds the other end of a connection. What is not known is zero.
type Process struct {
	PID   int
	Start uint64 // clock ticks since the machine was started, as in /proc/PID/stat
	Exe   string
	UID   int // of the socket
	Depth int // generations below the command; an orphan's are counted from one
}

// Config says which tree it is.
type Config struct {
	Sockets *Sockets // must outlive the tree
	PID     int      // the command, a child of the launcher
	Start   uint64   // its start time
	Mark    string   // an entry "NAME=value" of the environment of the command, and of nothing else
	Alone   bool     // the tree is the command itself, without its children
	// Launcher is the process that started the command and adopts what it leaves
	// behind. The zero Launcher is this process.
	Launcher Launcher
}

// A Launcher is a process that starts a command. Without a process (None) what the
// command leaves behind is not in the tree.
type Launcher struct {
	PID   int
	Start uint64
	None  bool
}

// A StrangerError says that a connection is not of the tree. Process holds what
// is known of who made it; its PID is 0 if nobody was found.
type StrangerError struct {
	Process Process
	Reason  string
}

// Why a connection is not of the tree.
const (
	reasonOutside = "it does not descend from the command"
	reasonChild   = "the grants are for the command itself, not for its children"
	reasonUser    = "another user made the connection"
	reasonEnded   = "the command has ended, or its launcher"
	reasonGone    = "no process that can be looked into holds the connection: its own has ended, is setuid, has capabilities or is not dumpable"
	reasonBusy    = "too many strangers connect at the same time"
)

func (e *StrangerError) Error() string {
	if e.Process.PID == 0 {
		return fmt.Sprintf("place connection of user %d: %s", e.Process.UID, e.Reason)
	}
	return fmt.Sprintf("place connection of process %d (%s, user %d): %s", e.Process.PID, e.Process.Exe, e.Process.UID, e.Reason)
}
