package peer

import "os"

// Ancestors are the processes above this one, the nearest first.
func Ancestors() []int {
	var found []int
	for pid := os.Getpid(); len(found) < maxDepth; {
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
