package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"standin/audit"
	"standin/vault"
)

func newAuditCommand(p *program) *cobra.Command {
	return group("audit", "Check and search the log of every use of a secret",
		newAuditVerifyCommand(p), newAuditShowCommand(p), newAuditTailCommand(p), newAuditExportCommand(p), newAuditPruneCommand(p), newAuditRecoverCommand(p))
}

// auditKey is the purpose of the vault's key that a log is opened with.
const auditKey = "audit"

func auditKeys(store *vault.Store) audit.Keys {
	return audit.Keys{Vault: store.Key(auditKey), Recovery: store.RecoveryRecipient()}
}

// auditConfig is what every writer of the log is opened with.
func auditConfig(store *vault.Store) audit.Config {
	return audit.Config{Version: version, Journal: audit.FindJournal(), VaultWrites: store.Refresh}
}

// maxKeyFile bounds files of keys, receipts and values, in bytes.
const maxKeyFile = 1 << 20

// auditVerify are the flags of "audit verify".
type auditVerify struct {
	recovery, journal, export string
	receipts                  []string
	vault, json, printKeys    bool
}

func newAuditVerifyCommand(p *program) *cobra.Command {
	v := &auditVerify{}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Find out whether the log is whole",
		Long: `Checks every record of the log. Without the recovery key only the order of the
records and what streams say of each other can be checked; with it, that every
record was written by the gateway and never changed. Opening records are checked
against the vault, too, if --vault or a passphrase file opens it.

What was written after the newest anchor could have been cut off unseen. Anchors
come from receipts, from the system's journal, and from gateways that are running,
which prove with the key of their log that it is they who answer.
An export of a stretch of time is never more than 12: what lies outside of it, and
which streams were left out, does not show in it. One of everything is whole (0)
with the receipt of the newest session.

Exit codes: 0 whole, and anchored up to the end; 10 tampered; 11 order only, no
recovery key; 12 whole, but the end is unproven; 13 whole, but for an unfinished
last record, as a crash leaves it; 1 nothing could be checked.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.auditVerify(cmd, v) },
	}
	f := cmd.Flags()
	f.StringVar(&v.recovery, "recovery-key-file", "", "read the recovery key from `FILE`")
	f.StringArrayVar(&v.receipts, "receipt", nil, "take the anchor of the receipt in `FILE` (repeatable)")
	f.StringVar(&v.journal, "journal", "", "take anchors from `FILE`, or - for standard input: journalctl -t standin-audit -o cat")
	f.StringVar(&v.export, "export", "", "check `FILE`, or - for standard input, made by \"standin audit export\", instead of the log")
	f.BoolVar(&v.vault, "vault", false, "open the vault, to check who opened the streams")
	f.BoolVar(&v.printKeys, "print-keys", false, "print the first key of each stream, for another verifier, and check nothing")
	f.BoolVar(&v.json, "json", false, "print the report as JSON")
	passphraseFlag(cmd)
	return cmd
}

func (p *program) auditVerify(cmd *cobra.Command, v *auditVerify) error {
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	o, err := p.auditOptions(cmd, h, v)
	if err != nil {
		return err
	}
	if v.printKeys {
		return p.auditPrintKeys(h, o.RecoveryKey)
	}
	var report *audit.Report
	if v.export != "" {
		in, err := p.openInput(v.export)
		if err != nil {
			return fmt.Errorf("read export: %w", err)
		}
		defer in.Close()
		report, err = audit.VerifyExport(in, o)
		if err != nil {
			return withAuditHint(err)
		}
		if len(report.Streams) == 0 {
			return &hinted{errors.New("verify audit: nothing could be checked: the export is empty"), "look at what there is: standin audit show; and export that"}
		}
	} else if report, err = audit.Verify(h.Audit(), o); errors.Is(err, fs.ErrNotExist) && len(o.Anchors) > 0 {
		return exitError(audit.Tampered, &hinted{errors.New("verify audit: there is no log, and an anchor says that there was one"), "keep what is left as it is; is --home right?"})
	} else if err != nil {
		return withAuditHint(err)
	}
	if v.json {
		if err := printJSON(p.out, report); err != nil {
			return err
		}
	} else {
		p.printReport(report, v.export != "")
	}
	return verdict(report, v.export != "")
}

func (p *program) auditOptions(cmd *cobra.Command, h home, v *auditVerify) (o audit.VerifyOptions, err error) {
	if v.recovery != "" {
		text, err := readLimited(v.recovery, maxKeyFile)
		if err != nil {
			return o, fmt.Errorf("read recovery key: %w", err)
		}
		if o.RecoveryKey = recoveryKeyIn(text); o.RecoveryKey == "" {
			return o, fmt.Errorf("read recovery key %q: there is no key in it", v.recovery)
		}
	}
	if v.vault || cmd.Flags().Changed("passphrase-file") || p.getenv("STANDIN_PASSPHRASE_FILE") != "" {
		store, err := p.openVaultAsItIs(cmd, h)
		var missing *vault.MissingError
		switch {
		case errors.As(err, &missing) && !v.vault: // a copy of the log is checked where there is no vault
		case err != nil:
			return o, err
		default:
			o.VaultKey = store.Key(auditKey)
		}
	}
	for _, path := range v.receipts {
		text, err := readLimited(path, maxKeyFile)
		if err != nil {
			return o, fmt.Errorf("read receipt: %w", err)
		}
		anchors, err := audit.ParseReceipt(text)
		if err != nil {
			return o, fmt.Errorf("read receipt %q: %w", path, err)
		}
		o.Anchors = append(o.Anchors, anchors...)
	}
	if v.journal != "" {
		in, err := p.openInput(v.journal)
		if err != nil {
			return o, fmt.Errorf("read journal: %w", err)
		}
		defer in.Close()
		anchors, err := audit.ParseJournal(in)
		if err != nil {
			return o, fmt.Errorf("read journal: %w", err)
		}
		o.Anchors = append(o.Anchors, anchors...)
	}
	if v.export == "" {
		o.Anchors = append(o.Anchors, liveAnchors(h)...)
	}
	return o, nil
}

// liveAnchors asks the gateways of this home how far their logs have come. Anybody
// could answer: verify checks that it was the gateway.
func liveAnchors(h home) []audit.Anchor {
	gateways, err := gatewaysOf(h)
	if err != nil {
		return nil
	}
	var anchors []audit.Anchor
	for _, g := range gateways {
		var live audit.Live
		nonce := audit.NewNonce()
		if g.call("GET", "/v1/anchor?nonce="+nonce, "", &live) == nil && live.Anchor.Stream != "" {
			anchors = append(anchors, live.AnchorTo(nonce))
		}
	}
	return anchors
}

// recoveryKeyIn finds the key in a file that may have comments, as age's key files do.
func recoveryKeyIn(text []byte) string {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

func (p *program) auditPrintKeys(h home, recovery string) error {
	if recovery == "" {
		return usageError("--print-keys needs --recovery-key-file")
	}
	keys, err := audit.FirstKeys(h.Audit(), recovery)
	if err != nil {
		return withAuditHint(err)
	}
	for _, k := range keys {
		fmt.Fprintf(p.out, "%s %s\n", k.Stream, k.Key)
	}
	return nil
}

func (p *program) printReport(r *audit.Report, export bool) {
	for _, s := range r.Streams {
		end := "ended without a seal"
		switch {
		case export:
			end = "a part"
		case s.Running:
			end = "being written"
		case s.Torn:
			end = "ended in an unfinished record"
		case s.Sealed:
			end = "sealed"
		}
		fmt.Fprintf(p.out, "stream %s: %d records are whole, %s\n", shown(s.Stream), s.Records, end)
		if !s.First.IsZero() {
			fmt.Fprintf(p.out, "  from %s to %s\n", s.First.Local().Format(time.DateTime), s.Last.Local().Format(time.DateTime))
		}
		switch {
		case s.Live:
			fmt.Fprintf(p.out, "  anchored up to record %d by its gateway, which is running\n", s.Anchored)
		case s.Anchored > 0:
			fmt.Fprintf(p.out, "  anchored up to record %d by %s; %d lie after it\n", s.Anchored, shown(s.AnchorBy), s.Unproven)
		}
		if s.GivenUp > 0 {
			fmt.Fprintf(p.out, "  %d bytes were left behind by writes that failed; nothing vouches for them\n", s.GivenUp)
		}
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(p.out, "warning: %s\n", shown(w))
	}
	for _, problem := range r.Problems {
		fmt.Fprintf(p.out, "tampered: %s\n", shown(problem.String()))
	}
	if r.Newest != nil {
		fmt.Fprintf(p.out, "newest anchor: record %d of stream %s, %s, from the %s\n", r.Newest.Seq, r.Newest.Stream,
			r.Newest.Time.Local().Format(time.DateTime), r.Newest.Source)
	}
	checked := []string{"order and commitments"}
	if r.Keyed {
		checked = append(checked, "the MAC of every record")
	}
	if r.Vouched {
		checked = append(checked, "that the vault's owner opened every stream")
	}
	fmt.Fprintf(p.out, "checked: %s\n", strings.Join(checked, ", "))
	if !r.Vouched {
		fmt.Fprintln(p.out, "not checked: who opened the streams (--vault)")
	}
	if r.Code == audit.Whole {
		fmt.Fprintf(p.out, "whole: every record (%d), in every stream (%d), up to the end, as of the newest anchor\n", r.Records, len(r.Streams))
	}
}

// openInput opens a file to read, or standard input for "-".
func (p *program) openInput(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(p.in), nil
	}
	return os.Open(path)
}

// readLimited reads a file of the user that holds no more than most bytes. Errors
// are *fs.PathError.
func readLimited(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(text) > most {
		err = &fs.PathError{Op: "read", Path: path, Err: &hinted{fmt.Errorf("it is longer than %d bytes", most), "name a file that is no longer than that"}}
	}
	return text, err
}
