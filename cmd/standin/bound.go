package main

import (
	"errors"
	"fmt"
	"slices"

	"standin/grant"
	"standin/launch"
	"standin/launch/peer"
)

// bind ties a session to a process above the caller, a shell: all that the shell
// starts is of the session, and the session ends with it.
func (v *visit) bind(h *hosted, shell processID, answer openingAnswer) error {
	if v.caller.PID == 0 || !slices.Contains(peer.Ancestors(v.caller.PID), shell.PID) {
		return errors.Join(errors.New("bind session to the shell: it is not above the caller"), h.end("command did not start"))
	}
	ended, err := h.bind(shell)
	if err != nil {
		return errors.Join(err, h.end("command did not start"))
	}
	v.o.bound.Go(func() {
		defer v.o.g.contain("shell")
		defer func() { v.o.g.logged(h.end(reasonShell)) }() // whatever happens here
		grant.Fault("shell", h.session.Profile.Name)
		select {
		case <-ended.Done():
		case <-h.gone:
		}
		ended.Close()
		v.o.g.logged(h.end(reasonShell))
		v.o.desk.forget()
	})
	return v.conn.Send(answer)
}

// reasonShell ends a session that is bound to a shell.
const reasonShell = "its shell has ended"

// bind makes a shell the root of the session.
func (h *hosted) bind(shell processID) (*peer.Watch, error) {
	if h.session.Profile.Extends == "command" {
		return nil, fmt.Errorf("bind session to the shell: profile %q is for one command alone (extends: command)", h.session.Profile.Name)
	}
	ended, err := peer.WatchProcess(shell.PID, shell.Start)
	if err != nil {
		return nil, err
	}
	h.root(peer.Config{PID: shell.PID, Start: shell.Start, Mark: launch.Mark(h.session.ID), Launcher: peer.Launcher{None: true}})
	return ended, nil
}
