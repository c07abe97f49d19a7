package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"standin/audit"
)

// auditTable prints entries as rows. A substitution waits for its result, so that both are one row.
type auditTable struct {
	out     *columns
	rows    []*auditRow
	waiting map[string]*auditRow
	printed int
}

type auditRow struct {
	cells   [6]string
	waiting bool
	key     string
}

const (
	maxWaiting = 512 // rows that may wait for a result
	tableBlock = 64  // rows whose columns are aligned together
)

func newAuditTable(out io.Writer) *auditTable {
	t := &auditTable{out: &columns{out: out}, waiting: map[string]*auditRow{}}
	t.out.add("TIME", "SESSION", "PROCESS", "WHAT", "WHERE", "OUTCOME")
	return t
}

// add takes an entry; it fits audit.Query.
func (t *auditTable) add(e *audit.Entry) error {
	key := e.Stream + " " + e.Session + " " + e.ID
	if e.Type == audit.TypeResult {
		if row := t.waiting[key]; row != nil && e.ID != "" {
			row.cells[5], row.waiting = outcomeOf(e), false
			delete(t.waiting, key)
			return t.print(false)
		}
	}
	row := &auditRow{cells: [6]string{shownTime(e.Time), dash(shown(e.Session)), processOf(e), whatOf(e), whereOf(e), outcomeOf(e)}, key: key}
	if e.Type == audit.TypeSubstitute && e.ID != "" {
		row.waiting = true
		t.waiting[key] = row
	}
	t.rows = append(t.rows, row)
	return t.print(len(t.rows) > maxWaiting)
}

// print writes the rows that wait for nothing, in their order; with all set also the first that waits.
func (t *auditTable) print(one bool) error {
	n := 0
	for _, row := range t.rows {
		if row.waiting && !one {
			break
		}
		one = false
		delete(t.waiting, row.key)
		t.out.add(row.cells[:]...)
		n++
		if t.printed++; t.printed%tableBlock == 0 {
			if err := t.out.flush(); err != nil {
				return err
			}
		}
	}
	t.rows = t.rows[n:]
	return nil
}

func (t *auditTable) flush() {
	for len(t.rows) > 0 {
		if t.print(true) != nil {
			return
		}
	}
	_ = t.out.flush() // what cannot be printed has nobody to be told
}

// columns are rows that are printed with their cells below one another.
type columns struct {
	out    io.Writer
	rows   [][]string
	widths []int
}

// maxPadding is the widest that a column is made for the sake of one cell, in
// characters. A longer cell stays whole, and only its own row goes out of line.
const maxPadding = 40

func (c *columns) add(cells ...string) { c.rows = append(c.rows, slices.Clone(cells)) }

// flush prints the rows that were added. What comes later is never narrower.
func (c *columns) flush() error {
	for _, row := range c.rows {
		for i, cell := range row {
			if i == len(c.widths) {
				c.widths = append(c.widths, 0)
			}
			c.widths[i] = max(c.widths[i], min(utf8.RuneCountInString(cell), maxPadding))
		}
	}
	var b strings.Builder
	for _, row := range c.rows {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", 2+max(0, c.widths[i]-utf8.RuneCountInString(cell))))
			}
		}
		b.WriteByte('\n')
	}
	c.rows = nil
	_, err := io.WriteString(c.out, b.String())
	return err
}

func processOf(e *audit.Entry) string {
	if e.Process.PID == 0 {
		return "-"
	}
	name := path.Base(e.Process.Exe)
	if name == "." || name == "/" {
		name = "?"
	}
	return fmt.Sprintf("%s[%d]", shown(name), e.Process.PID)
}

func whatOf(e *audit.Entry) string {
	var parts []string
	for _, u := range e.Uses {
		text := u.Secret
		if u.Version != "" {
			text += " v" + u.Version
		}
		if u.Surface != "" {
			text += " in " + u.Surface
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 && len(e.Secrets) > 0 {
		parts = e.Secrets
	}
	what := strings.ReplaceAll(e.Type, "_", " ")
	switch e.Type {
	case "stream":
		what = "log opened"
	case "seal":
		what = "log sealed"
	case "segment":
		what = "log continued"
	}
	if e.Count > 1 {
		what = fmt.Sprintf("%s ×%d", what, e.Count)
	}
	if len(parts) > 0 {
		what += " " + strings.Join(parts, ", ")
	}
	if e.Command != "" {
		what += " " + e.Command
	}
	return shown(what)
}

func whereOf(e *audit.Entry) string {
	where := e.Host
	if e.Port != 0 && e.Port != 443 {
		where = fmt.Sprintf("%s:%d", e.Host, e.Port)
	}
	if e.Method != "" {
		where = e.Method + " " + where
	}
	return dash(shown(where + e.Path))
}

// dash stands where there is nothing, so that columns can be counted.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func outcomeOf(e *audit.Entry) string {
	var parts []string
	if e.Status != 0 {
		parts = append(parts, fmt.Sprint(e.Status))
	}
	if e.Code != "" {
		parts = append(parts, e.Code)
	}
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if e.BytesIn > 0 || e.BytesOut > 0 {
		parts = append(parts, fmt.Sprintf("%d B out, %d B in", e.BytesOut, e.BytesIn))
	}
	if e.Duration > 0 {
		parts = append(parts, e.Duration.Round(time.Millisecond/10).String())
	}
	return dash(shown(strings.Join(parts, ", ")))
}

func shownTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// shown makes text from outside harmless on a terminal: what moves the cursor, changes colours, is invisible or turns the
// direction of writing is written out as its number.
func shown(s string) string {
	clean := true
	for _, r := range s {
		if r < ' ' || r > '~' {
			clean = false
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar && !unicode.In(r, unicode.Mn, unicode.Me, unicode.Hebrew, unicode.Arabic, unicode.Syriac, unicode.Thaana, unicode.Nko, unicode.Adlam) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}
