package peer

import (
	"bytes"
	"errors"
	"os"
)

// Shell is the process that has called this one, such as a shell. A subshell that
// was forked for the call is a copy of it, in memory too, and is passed over: it
// would end at once.
func Shell() (Process, error) {
	own, err := openProcess(os.Getpid())
	if err != nil {
		return Process{}, err
	}
	defer own.close()
	at, err := openProcess(own.parent)
	if err != nil {
		return Process{}, err
	}
	for range maxDepth {
		above, err := openProcess(at.parent)
		if err != nil || !at.copyOf(above) {
			if err == nil {
				above.close()
			}
			break
		}
		at.close()
		at = above
	}
	defer at.close()
	if at.pid <= 1 {
		return Process{}, errors.New("find the shell: it has ended")
	}
	return Process{PID: at.pid, Start: at.start, Exe: at.exe(), UID: at.user()}, nil
}

// copyOf says whether a process was forked from another and runs no program of its
// own yet: stack, arguments and environment lie where they lie in the other, which
// the kernel chooses anew for each program.
func (p *process) copyOf(above *process) bool {
	mine, theirs := p.layout(), above.layout()
	return len(mine) > 0 && mine == theirs && p.exe() == above.exe()
}

// layout is where the kernel has put stack, arguments and environment, "" where it
// does not tell.
func (p *process) layout() string {
	const stack, firstArgument, lastArgument, environment = 25, 45, 46, 47 // counted from the state, as in proc_pid_stat(5)
	var buf [1024]byte
	line, err := p.read("stat", buf[:])
	if err != nil {
		return ""
	}
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) <= environment || string(fields[firstArgument]) == "0" {
		return ""
	}
	return string(bytes.Join([][]byte{fields[stack], fields[firstArgument], fields[lastArgument], fields[environment]}, []byte(" ")))
}

// Program is the path of a process's program, or "".
func Program(pid int) string {
	p, err := openProcess(pid)
	if err != nil {
		return ""
	}
	defer p.close()
	return p.exe()
}
