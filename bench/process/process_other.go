//go:build !linux

package process

import "errors"

var errUnsupported = errors.New("read another process's CPU time and memory: only on Linux")

// CPU is an error: this system has no /proc.
func CPU(int) (Usage, error) { return 0, errUnsupported }

// Ticks is an error: this system has no /proc.
func Ticks(int) (Usage, error) { return 0, errUnsupported }

// ReadMemory is an error: this system has no /proc.
func ReadMemory(int) (Memory, error) { return Memory{}, errUnsupported }
