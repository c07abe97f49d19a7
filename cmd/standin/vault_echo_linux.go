package main

import "golang.org/x/sys/unix"

// hideTyping turns the echo of a terminal off before the prompt is shown: a
// program that answers the moment it sees the prompt would be echoed otherwise.
func hideTyping(fd int) {
	state, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		state.Lflag &^= unix.ECHO
		unix.IoctlSetTermios(fd, unix.TCSETS, state) // else the reading itself does it, a moment later
	}
}
