package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"standin/audit"
)

// followEvery is how often a followed log is looked at.
const followEvery = 300 * time.Millisecond

func newAuditTailCommand(p *program) *cobra.Command {
	var n int
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the last records, and with --follow those to come",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			if n < 0 {
				return usageError("-n: %d is negative", n)
			}
			return p.auditTail(h.Audit(), n, follow, asJSON)
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "show the last `N` records")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) auditTail(dir string, n int, follow, asJSON bool) error {
	t := newAuditTable(p.out)
	show := t.add
	if asJSON {
		show = auditJSON(p.out)
	}
	at := audit.Position{}
	last, err := lastEntries(dir, n, at)
	if follow && errors.Is(err, fs.ErrNotExist) {
		err = nil // there will be one when the first gateway starts
	}
	malformed := withAuditHint(err)
	for i := range last {
		if err := show(&last[i]); err != nil {
			return err
		}
	}
	if !asJSON && (follow || !errors.Is(err, fs.ErrNotExist)) {
		t.flush()
	}
	if !follow {
		return malformed
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	defer signal.Stop(stop)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-tick.C:
		}
		err := audit.Resume(dir, audit.Filter{}, at, show)
		var bad *audit.MalformedError
		if err != nil && !errors.As(err, &bad) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !asJSON {
			t.flush()
		}
	}
}

// lastEntries reads the log to its end and keeps the last n records. It looks at recent ones first: to decode all of a
// long log for the sake of twenty takes long.
func lastEntries(dir string, n int, at audit.Position) ([]audit.Entry, error) {
	for _, since := range []time.Duration{time.Hour, 48 * time.Hour, 0} {
		var f audit.Filter
		if since > 0 {
			f.Since = time.Now().Add(-since)
		}
		clear(at)
		var last []audit.Entry
		err := audit.Resume(dir, f, at, func(e *audit.Entry) error {
			kept := *e
			kept.Line = bytes.Clone(e.Line)
			if last = append(last, kept); len(last) > 2*n {
				last = append(last[:0], last[len(last)-n:]...)
			}
			return nil
		})
		if len(last) >= n || since == 0 || err != nil {
			return last[max(0, len(last)-n):], err
		}
	}
	return nil, nil
}

func newAuditExportCommand(p *program) *cobra.Command {
	var since, until, stream, out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write out a stretch of the log that can be verified by itself",
		Long: `Writes the records of a stretch of time, as they are, with what is needed to
check them without the rest: standin audit verify --export FILE.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			from, to, err := parseStretch(since, until, time.Now())
			if err != nil {
				return err
			}
			return p.auditExport(h.Audit(), stream, out, from, to)
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "from `TIME` on, as in \"standin audit show\"")
	cmd.Flags().StringVar(&until, "until", "", "before `TIME`")
	cmd.Flags().StringVar(&stream, "stream", "", "only the stream `ID`")
	cmd.Flags().StringVarP(&out, "out", "o", "", "write to `FILE`, which must not exist, instead of standard output")
	return cmd
}

// auditExport writes a stretch of the log to a file, or to standard output.
func (p *program) auditExport(dir, stream, out string, from, to time.Time) (err error) {
	written := &countingWriter{to: p.out}
	if out == "" {
		err = audit.Export(dir, stream, from, to, written)
	} else {
		f, opened := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if opened != nil {
			return fmt.Errorf("export audit: %w", opened)
		}
		written.to = f
		err = errors.Join(audit.Export(dir, stream, from, to, written), f.Sync(), f.Close())
	}
	if err == nil && written.n == 0 {
		fmt.Fprintln(p.err, "standin: hint: nothing was exported: no record lies there; see \"standin audit show\"")
	}
	return withAuditHint(err)
}

// countingWriter counts what passes through it, in bytes.
type countingWriter struct {
	to io.Writer
	n  int64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	w.n += int64(n)
	return n, err
}

func newAuditRecoverCommand(p *program) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Move a broken log aside and begin a new one that says so",
		Long: `Moves every stream of the log into a folder beside it and opens a new log whose
first record says so, with the reason and the last record of each stream. Nothing
is deleted. It refuses while a gateway is running, and it opens the vault.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reason == "" {
				return usageError("--reason is needed: it will stand in the record")
			}
			h, err := p.home(cmd)
			if err != nil {
				return err
			}
			store, err := p.openVaultAsItIs(cmd, h) // Recover looks at its age itself, as far as a broken log tells it
			if err != nil {
				return err
			}
			l, archive, err := audit.Recover(h.Audit(), auditKeys(store), auditConfig(store), reason)
			if l != nil {
				err = errors.Join(err, l.Close())
			}
			if err != nil {
				return withAuditHint(err)
			}
			fmt.Fprintf(p.out, "moved to %s\n", filepath.Join(h.Audit(), archive))
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why: it is recorded (required)")
	passphraseFlag(cmd)
	return cmd
}
