package main

import (
	"errors"
	"time"
)

// The messages of the conversation by which a launcher has a session of a serving
// gateway. Package control has proved both ends by then.

// vaultKey is the name of the key that whoever can open the vault holds.
const vaultKey = "vault"

// openingRequest is the launcher's first message.
type openingRequest struct {
	Do string `json:"do"` // open, or token
	asked
	Command   string   `json:"command,omitempty"`    // base name of the executable
	RulesHash string   `json:"rules_hash,omitempty"` // "": whatever rules are in force
	Environ   []string `json:"environ,omitempty"`    // that the user gave
	Extra     []string `json:"extra,omitempty"`      // of the --env-file
	Place     place    `json:"place"`
	Outer     string   `json:"outer,omitempty"` // the session that the environment names
	// Shell binds the session to a process above the launcher, instead of to the
	// conversation.
	Shell processID `json:"shell,omitzero"`
}

// place is where a process sees network and processes from. Two processes with
// the same one see the same.
type place struct {
	Network   string `json:"network"`
	Processes string `json:"processes"`
}

// processID names a process beyond its life.
type processID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// openingAnswer is the gateway's.
type openingAnswer struct {
	Error *toldError `json:"error,omitempty"`
	Token string     `json:"token,omitempty"`

	Outfit    *outfit `json:"outfit,omitempty"`
	Isolation string  `json:"isolation,omitempty"`
	Extends   string  `json:"extends,omitempty"`
	// Relay says that the front door is reached through this socket: the launcher
	// listens where its command is, and relays.
	Relay bool `json:"relay,omitempty"`
}

// launched tells the gateway which process is the command.
type launched struct {
	Command processID `json:"command"`
	Removed []string  `json:"removed"`
}

// leaving is the launcher's last message, and its answer. A gateway that ends in
// order gives the answer unasked.
type leaving struct {
	Reason string `json:"reason"`
}

type left struct {
	// Early says that the gateway has ended before the command.
	Early   bool       `json:"early,omitempty"`
	Error   *toldError `json:"error,omitempty"`
	Receipt *receipt   `json:"receipt,omitempty"`
}

// toldError is an error as it is told over the socket, with its hint and the exit
// code that it asks for.
type toldError struct {
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
	Code int    `json:"code,omitempty"`
}

func tell(err error) *toldError {
	if err == nil {
		return nil
	}
	told := &toldError{Text: err.Error(), Hint: hint(err)}
	var coded *codedError
	if errors.As(err, &coded) {
		told.Code = coded.code
	}
	return told
}

// err is the error that was told.
func (t *toldError) err() error {
	if t == nil {
		return nil
	}
	err := errors.New(t.Text)
	if t.Hint != "" {
		err = &hinted{err, t.Hint}
	}
	if t.Code != 0 {
		return exitError(t.Code, err)
	}
	return err
}

// farewell is how long the gateway may take to end a session.
const farewell = 15 * time.Second
