package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"standin/audit"
)

// auditShow are the flags of "audit show".
type auditShow struct {
	filter        audit.Filter
	since, until  string
	json, summary bool
	value         bool
	process       string
}

func newAuditShowCommand(p *program) *cobra.Command {
	s := &auditShow{}
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show which session touched which secret, when, through which process",
		Long: `Shows records of the log. It does not verify them: see "standin audit verify".

Times are HH:MM of today, 2006-01-02, "2006-01-02 15:04", RFC 3339, or an age such
as 90m or 2h. Outcomes are substituted, delivered, passed, refused, ok, failed, a
code such as no_grant, or a status such as 403.`,
		Example: "  standin audit show --secret github --since 14:00 --until 16:00\n  standin audit show --summary --since 24h",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.auditShow(cmd, s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.filter.Secret, "secret", "", "only uses of the secret `NAME`")
	f.StringVar(&s.filter.Session, "session", "", "only the session `ID`")
	f.StringVar(&s.filter.Host, "host", "", "only requests to `HOST`")
	f.StringVar(&s.process, "process", "", "only what this process did: a `PID`, an executable's path, or its name")
	f.IntVar(&s.filter.PID, "pid", 0, "only what the process `PID` did")
	f.StringVar(&s.filter.Exe, "exe", "", "only what this executable did: a `PATH` or a name")
	f.StringVar(&s.filter.Outcome, "outcome", "", "only records that tell this `OUTCOME`")
	f.StringVar(&s.since, "since", "", "only from `TIME` on")
	f.StringVar(&s.until, "until", "", "only before `TIME`")
	f.BoolVar(&s.summary, "summary", false, "one line for each session and secret: first and last use, and how it ended")
	f.BoolVar(&s.value, "value-stdin", false, "only uses of the very value on standard input (opens the vault)")
	f.BoolVar(&s.json, "json", false, "print JSON")
	passphraseFlag(cmd)
	return cmd
}

func (p *program) auditShow(cmd *cobra.Command, s *auditShow) error {
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	now := time.Now()
	if s.filter.Since, s.filter.Until, err = parseStretch(s.since, s.until, now); err != nil {
		return err
	}
	if s.process != "" {
		if s.filter.PID != 0 || s.filter.Exe != "" {
			return usageError("take one of --process, --pid and --exe")
		}
		if s.filter.PID, err = strconv.Atoi(s.process); err != nil {
			s.filter.PID, s.filter.Exe = 0, s.process
		}
	}
	if err := checkOutcome(h.Audit(), s.filter.Outcome); err != nil {
		return err
	}
	if s.value {
		if s.filter.Fingerprint, err = p.fingerprintOfInput(cmd, h); err != nil {
			return err
		}
	}
	found := false
	counting := func(each func(*audit.Entry) error) func(*audit.Entry) error {
		return func(e *audit.Entry) error {
			found = true
			return each(e)
		}
	}
	switch {
	case s.summary:
		found, err = p.showSummary(h.Audit(), s)
	case s.json:
		err = audit.Query(h.Audit(), s.filter, counting(auditJSON(p.out)))
	default:
		t := newAuditTable(p.out)
		err = audit.Query(h.Audit(), s.filter, counting(t.add))
		if !errors.Is(err, fs.ErrNotExist) {
			t.flush()
		}
	}
	if !found && err == nil {
		p.explainNothing(h.Audit(), s.filter)
	}
	return withAuditHint(err)
}

// withAuditHint adds what to type where there is no log.
func withAuditHint(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &hinted{err, "a log begins with the first \"standin run\"; is --home right?"}
	}
	return err
}

// auditJSON prints entries as the lines of the log, which are plain ASCII, with what a line does not say of itself.
func auditJSON(out io.Writer) func(*audit.Entry) error {
	return func(e *audit.Entry) error {
		outcome := ""
		if o := e.Outcome(); o != "" {
			outcome = fmt.Sprintf(`"outcome":"%s",`, o)
		}
		_, err := fmt.Fprintf(out, `{"stream":"%s","segment":%d,%s%s`, e.Stream, e.Segment, outcome, e.Line[1:])
		return err
	}
}

func (p *program) fingerprintOfInput(cmd *cobra.Command, h home) (string, error) {
	value, err := io.ReadAll(io.LimitReader(p.in, maxKeyFile))
	if err != nil {
		return "", fmt.Errorf("read value: %w", err)
	}
	value = bytes.TrimSuffix(value, []byte("\n"))
	if len(value) == 0 {
		return "", usageError("--value-stdin: standard input is empty")
	}
	store, err := p.openVaultAsItIs(cmd, h)
	if err != nil {
		return "", err
	}
	defer clear(value)
	return audit.Fingerprint(store.Key(auditKey), value), nil
}

// parseStretch reads --since and --until.
func parseStretch(since, until string, now time.Time) (from, to time.Time, err error) {
	if from, err = parseWhen(since, now); err != nil {
		return from, to, usageError("--since: %w", err)
	}
	if to, err = parseWhen(until, now); err != nil {
		return from, to, usageError("--until: %w", err)
	}
	if !from.IsZero() && !to.IsZero() && from.After(to) {
		return from, to, usageError("--since %s is later than --until %s: nothing lies between them", since, until)
	}
	return from, to, nil
}

// parseWhen reads a time as people write it; "" is no time.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 14:00, 2h, 2006-01-02 or RFC 3339", text)
}
