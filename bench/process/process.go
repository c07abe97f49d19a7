// Package process starts the other processes of the benchmark, and reads what
// any process has used: CPU time and memory. CPU time is that of the process
// alone, not of its children, and holds on a busy machine. It limits nothing and
// signals nothing that it did not start.
package process

import "time"

// Memory is what a process holds, in bytes.
type Memory struct {
	Now  int64 // VmRSS
	Peak int64 // VmHWM: the most that it ever held
}

// Usage is CPU time in user and kernel mode together.
type Usage = time.Duration
