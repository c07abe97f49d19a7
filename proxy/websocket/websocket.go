// Package websocket is the wire of WebSocket connections (RFC 6455): the rules
// of the handshake, frames, and a relay that passes messages from one end to the
// other.
//
// It negotiates no extension, looks for nothing in a message and knows no secret:
// what becomes of a payload is its caller's, by the interface Payloads. It keeps
// no message: what it holds of one does not grow with it.
//
// Invariant: only whole frames leave, each framed anew, and only those that a
// strict reader accepts; a frame that is not as the RFC says ends the connection.
package websocket

import (
	"errors"
	"fmt"
)

// Op says what a frame is.
type Op byte

// The frames that there are. All others are reserved, and refused.
const (
	Continuation Op = 0
	Text         Op = 1
	Binary       Op = 2
	Close        Op = 8
	Ping         Op = 9
	Pong         Op = 10
)

func (op Op) known() bool { return op <= Binary || Close <= op && op <= Pong }

func (op Op) control() bool { return op >= Close }

// Codes by which a connection is closed (RFC 6455, 7.4).
const (
	GoingAway     = 1001
	ProtocolError = 1002
	InvalidText   = 1007
	PolicyBroken  = 1008
	InternalError = 1011
	TryAgainLater = 1013
)

// MaxControl is the longest payload of a control frame (RFC 6455, 5.5).
const MaxControl = 125

// window is how much of a payload is in hand at once. A longer frame is passed on
// as fragments of this size.
const window = 64 << 10

// Violation says that an end broke the protocol.
type Violation struct {
	Code   uint16 // to close with
	Reason string // fixed text: nothing of what came
	Client bool   // it was the client
}

func (v *Violation) Error() string {
	return fmt.Sprintf("read frame: %s (close with %d)", v.Reason, v.Code)
}

// Errors with which a relay ends. A relay that ended in order has none.
var (
	ErrClientGone   = errors.New("the client broke off")
	ErrUpstreamGone = errors.New("the upstream broke off")
	ErrIdle         = errors.New("nothing was said for too long")
	ErrNoGoodbye    = errors.New("an end did not answer that the connection closes")
)
