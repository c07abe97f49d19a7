package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"standin/grant"
)

// maxLog is the size, in bytes, at which a log file is begun anew.
const maxLog = 8 << 20

// openLog opens the operator's log: the named file, or standin.log of the home.
func openLog(h home, named string) (*os.File, error) {
	path := named
	if path == "" {
		path = filepath.Join(h.State, "standin.log")
		if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
			if err := os.Rename(path, path+".old"); err != nil {
				return nil, fmt.Errorf("turn log over: %w", err)
			}
		}
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = file.Chmod(0o600) // whatever the umask took away, or was there before
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), file.Close())
	}
	return file, nil
}

// scrubbedWriter is what every logger writes through: no value that a session
// holds reaches the file, whoever logs what.
type scrubbedWriter struct {
	to io.Writer

	mu       sync.Mutex
	sessions []*grant.Session
}

func (w *scrubbedWriter) add(s *grant.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions = append(w.sessions, s)
}

func (w *scrubbedWriter) remove(s *grant.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions = slices.DeleteFunc(w.sessions, func(have *grant.Session) bool { return have == s })
}

// Write takes one whole line, as slog's handlers give it.
func (w *scrubbedWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(line)
	for _, s := range w.sessions {
		text = s.Logged(text)
	}
	if _, err := io.WriteString(w.to, text); err != nil {
		return 0, err
	}
	return len(line), nil
}

func newLogger(w *scrubbedWriter) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
