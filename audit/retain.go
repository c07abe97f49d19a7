package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"standin/audit/segment"
)

const (
	archivePrefix = "archive-"
	maxRetired    = 1000 // streams that one opening record retires: it must fit into a line
)

// A Retention says which streams Open removes: only whole ones that ended, only the oldest, and only after the opening
// record that says so is durable.
type Retention struct {
	Bytes int64         // while the log is larger than this
	Age   time.Duration // while the last record is older than this
}

// choose returns the last records of the streams to retire.
func (r Retention) choose(dir string, streams []*stream, now time.Time) ([]tip, error) {
	if r == (Retention{}) {
		return nil, nil
	}
	sizes := make([]int64, len(streams))
	var total int64
	for i, s := range streams {
		for _, n := range s.segments {
			if info, err := os.Lstat(s.path(dir, n)); err == nil {
				sizes[i] += info.Size()
			}
		}
		total += sizes[i]
	}
	var retired []tip
	for i, s := range streams {
		if len(retired) == maxRetired || i == len(streams)-1 || segment.Running(s.path(dir, 1)) {
			break
		}
		last, at, err := lastRecord(dir, s, false)
		if err != nil {
			return nil, err
		}
		if !(r.Bytes > 0 && total > r.Bytes) && !(r.Age > 0 && !at.IsZero() && now.Sub(at) > r.Age) {
			break
		}
		retired = append(retired, last)
		total -= sizes[i]
	}
	return retired, nil
}

// remove deletes the files of retired streams, the first segment last: a stream never loses its head first.
func remove(dir string, streams []*stream, retired []tip) {
	for _, s := range streams {
		if slices.ContainsFunc(retired, func(t tip) bool { return t.Stream == s.id }) {
			for _, n := range slices.Backward(s.segments) {
				_ = os.Remove(s.path(dir, n))
			}
		}
	}
}

// Recover moves every stream of a broken log into a directory beside them, whose name it returns, and opens a new log
// whose first record says so, with the reason and the last record of each stream. It refuses while one is being written.
func Recover(dir string, keys Keys, config Config, reason string) (*Log, string, error) {
	b, err := prepare(dir, keys, config)
	if err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	defer b.unlock.Close()
	defer clear(b.vault[:])
	streams, _, err := scan(dir)
	if err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	tips := make([]tip, len(streams))
	for i, s := range streams {
		if segment.Running(s.path(dir, 1)) {
			return nil, "", fmt.Errorf("recover audit log: stream %q: %w", s.id, segment.ErrLocked)
		}
		last, _, err := lastRecord(dir, s, false)
		if err != nil {
			last = tip{Stream: s.id} // a broken log is what this is for
		}
		tips[i] = last
	}
	name := archivePrefix + b.log.wall().UTC().Format("20060102T150405.000000Z")
	b.opening.Archive, b.opening.Reason = newArchive(name, tips), reason
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	l, err := b.begin(streams)
	if err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	return l, name, moveAway(dir, name, streams)
}

func moveAway(dir, name string, streams []*stream) error {
	for _, s := range streams {
		for _, n := range s.segments {
			from := s.path(dir, n)
			if err := os.Rename(from, filepath.Join(dir, name, filepath.Base(from))); err != nil {
				return fmt.Errorf("recover audit log: %w", err)
			}
		}
	}
	return nil
}
