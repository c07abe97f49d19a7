package peer

// Ancestors are the processes above a process, the nearest first.
func Ancestors(pid int) []int {
	var found []int
	for len(found) < maxDepth {
		p, err := openProcess(pid)
		if err != nil {
			break
		}
		pid = p.parent
		p.close()
		if pid < 1 {
			break
		}
		found = append(found, pid)
	}
	return found
}

// Started is when a process started, as in Process.Start.
func Started(pid int) (uint64, error) {
	p, err := openProcess(pid)
	if err != nil {
		return 0, err
	}
	defer p.close()
	return p.start, nil
}
