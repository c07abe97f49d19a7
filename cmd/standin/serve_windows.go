package main

import "os"

// serveSignals are those that a serving gateway takes.
func serveSignals() []os.Signal { return []os.Signal{os.Interrupt} }

// handle takes a signal, and answers false if the gateway is to end.
func (s *serving) handle(os.Signal) bool { return false }
