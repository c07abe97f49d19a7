package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"standin/audit"
)

func TestWhatIsShownCannotMoveATerminal(t *testing.T) {
	for text, want := range map[string]string{
		"plain /path?":             "plain /path?",
		"b\u00fccher \u65e5\u672c": "b\u00fccher \u65e5\u672c",
		"\x1b[31mred\a":            `\u{1b}[31mred\u{7}`,
		"a\nb\tc\r":                `a\u{a}b\u{9}c\u{d}`,
		"\u202egnp.exe\u2069":      `\u{202e}gnp.exe\u{2069}`,
		"\u009b2J\u007f":           `\u{9b}2J\u{7f}`,
		"\u05d0\u0627\u200b":       `\u{5d0}\u{627}\u{200b}`,
		"e\u0301":                  `e\u{301}`,
	} {
		if got := shown(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	var out bytes.Buffer
	table := newAuditTable(&out)
	evil := "x\x1b]0;title\a\u202e"
	e := &audit.Entry{Record: audit.Record{Type: audit.TypeDeny, Session: evil, Host: evil, Method: evil, Path: evil, Code: evil, Reason: evil, Command: evil,
		Secrets: []string{evil}, Process: audit.Process{PID: 1, Exe: evil}}}
	if err := table.add(e); err != nil {
		t.Fatal(err)
	}
	table.flush()
	for _, r := range out.String() {
		if r != '\n' && (r < ' ' || r > '~') {
			t.Fatalf("%q in %q", r, out.String())
		}
	}
}

func TestASubstitutionAndItsResultAreOneRow(t *testing.T) {
	var out bytes.Buffer
	table := newAuditTable(&out)
	add := func(kind, id string, status int) {
		t.Helper()
		if err := table.add(&audit.Entry{Stream: "a", Record: audit.Record{Type: kind, Session: "s", ID: id, Status: status, Path: "/" + id}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 * maxWaiting { // that never come to an end
		add(audit.TypeSubstitute, strings.Repeat("x", i+1), 0)
	}
	add(audit.TypeSubstitute, "one", 0)
	add(audit.TypeSubstitute, "two", 0)
	add(audit.TypeResult, "two", 202)
	add(audit.TypeResult, "one", 201)
	add(audit.TypeResult, "stray", 203)
	table.flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	tail := lines[len(lines)-3:]
	if len(lines) != 1+3*maxWaiting+3 || !strings.Contains(tail[0], "/one") || !strings.Contains(tail[0], "201") ||
		!strings.Contains(tail[1], "/two") || !strings.Contains(tail[1], "202") || !strings.Contains(tail[2], "203") {
		t.Errorf("%d lines, the last are\n%s", len(lines), strings.Join(tail, "\n"))
	}
}

func TestTimesAreReadAsPeopleWriteThem(t *testing.T) {
	now := time.Date(2026, 8, 1, 16, 30, 15, 0, time.FixedZone("here", 2*3600))
	for text, want := range map[string]string{
		"14:00":                "2026-08-01T14:00:00+02:00",
		"14:00:05":             "2026-08-01T14:00:05+02:00",
		"2h":                   "2026-08-01T14:30:15+02:00",
		"90m":                  "2026-08-01T15:00:15+02:00",
		"2026-07-31":           "2026-07-31T00:00:00+02:00",
		"2026-07-31 08:15":     "2026-07-31T08:15:00+02:00",
		"2026-07-31T08:15:00Z": "2026-07-31T08:15:00Z",
	} {
		got, err := parseWhen(text, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q is %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "25:00", "-2h", "14:61", "2026-13-01"} {
		if got, err := parseWhen(text, now); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}
