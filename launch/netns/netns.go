// Package netns gives one command a room of its own: user, network, mount, pid
// and IPC namespaces in which there is no way to anybody but the gateway.
//
// The room is made by this program, started once more as the first process in
// it (Init). That process is an ordinary one: it holds no secret, and a process
// that is not dumpable, as the gateway is, could not map users. It makes the
// room's network (every address is local, so that a connection to any host ends
// at a listener of the room), hands the listeners and a sock_diag socket out to
// the gateway, hides what leads elsewhere (the sockets of other programs, the
// gateway's own folders), gives up every capability for good, tests from the
// inside that nothing leads out, and then starts the command and reaps what it
// leaves behind.
//
// It serves no connection itself, answers no name, and knows no rule: the
// listeners are the gateway's. It does not keep the command from files, but for
// those that it is told to hide; nor from what other programs do because of files
// that the command writes.
//
// Invariant: the command is started only after the self-test has passed, by the
// very thread that was tested, with its credentials.
package netns

import (
	"fmt"
	"os"
)

// InitArgument is the only argument with which this program is started as the
// first process of a room.
const InitArgument = "netns-init"

// Config says what a room is made with.
type Config struct {
	Ports   []uint16 // on which all addresses are listened on, besides 80 and 443
	Dir     string   // the working directory
	Environ []string // of the user: it names sockets
	// Standard files of the command; nil is the null device.
	Stdin, Stdout, Stderr *os.File
}

// Furniture says what the command finds in its room.
type Furniture struct {
	Private []string // folders of the gateway: empty in there
	Scratch string   // one of them, for what the room itself needs
	Kept    []string // folders inside of them that the command needs, to be read only
	Blank   []string // files that nobody may read in there
	Holes   []string // unix sockets that stay
	Trust   Trust
}

// Trust are the files that stand in for those of the system, so that programs
// which read no variable trust the session's authority.
type Trust struct {
	Bundle  string   // PEM, for OpenSSL, GnuTLS and Go
	Java    string   // a key store
	Systems []string // what Bundle stands in for
	Javas   []string // what Java stands in for
}

// A Report says what a room was found to be.
type Report struct {
	Tests  []string `json:"tests"`  // those that passed; a room that fails one is not used
	Hidden []string `json:"hidden"` // sockets that are out of reach
}

// A LackingError says why the system gives no such room.
type LackingError struct {
	Step  string // what was being done
	Cause error
	Why   string // what forbids it, if that is known
	Fix   string // something to type, or ""
}

func (e *LackingError) Error() string {
	if e.Why == "" {
		return fmt.Sprintf("%s: %v", e.Step, e.Cause)
	}
	return fmt.Sprintf("%s: %v: %s", e.Step, e.Cause, e.Why)
}

func (e *LackingError) Unwrap() error { return e.Cause }

// A LeakError says that the self-test found a way out.
type LeakError struct{ Test, Found string }

func (e *LeakError) Error() string { return fmt.Sprintf("self-test: %s: %s", e.Test, e.Found) }
