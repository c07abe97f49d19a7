package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen prints aligned rows, coloured where it is a terminal.
type screen struct {
	to     io.Writer
	colour bool
}

// tone is how a row looks.
type tone string

const (
	calm     tone = "\x1b[32m"
	alarming tone = "\x1b[31m"
	strong   tone = "\x1b[1m"
	faint    tone = "\x1b[2m"
)

func newScreen(to io.Writer) *screen {
	file, ok := to.(*os.File)
	return &screen{to, ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == ""}
}

func (s *screen) paint(t tone, text string) string {
	if !s.colour {
		return text
	}
	return string(t) + text + "\x1b[0m"
}

func (s *screen) title(format string, args ...any) {
	fmt.Fprintf(s.to, "\n%s\n", s.paint(strong, fmt.Sprintf(format, args...)))
}

func (s *screen) row(name, text string, t tone) {
	fmt.Fprintf(s.to, "  %-32s %s\n", name, s.paint(t, harmless(text)))
}

func (s *screen) text(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.to, "  %s\n", harmless(strings.TrimSuffix(line, "\n")))
	}
}

func (s *screen) command(command, why string) {
	fmt.Fprintf(s.to, "  %-32s %s\n", command, s.paint(faint, why))
}
