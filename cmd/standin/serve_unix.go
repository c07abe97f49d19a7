//go:build unix

package main

import (
	"os"
	"syscall"
)

// serveSignals are those that a serving gateway takes.
func serveSignals() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}
}

// handle takes a signal, and answers false if the gateway is to end.
func (s *serving) handle(got os.Signal) bool {
	switch got {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
		return false
	case syscall.SIGHUP:
		s.desk.reload(true)
	}
	return true
}
