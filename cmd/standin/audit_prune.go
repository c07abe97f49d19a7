package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"standin/audit"
)

func newAuditPruneCommand(p *program) *cobra.Command {
	var age, size string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete the oldest streams, after recording it",
		Long: `Deletes the oldest streams of the log, whole ones that have ended, as long as they
are older than an age or the log is larger than a size. A new stream says first
which they were and how they ended, so that verify can tell this from a theft: it
opens the vault, and "standin audit verify --vault" checks that its owner did it.
Export them before, if they are to be kept elsewhere.`,
		Example: "  standin audit prune --older-than 90d\n  standin audit prune --larger-than 1GiB",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var retain audit.Retention
			var err error
			if age == "" && size == "" {
				return usageError("prune what? take --older-than, --larger-than, or both")
			}
			if age != "" {
				if retain.Age, err = parseAge(age); err != nil {
					return usageError("--older-than: %w", err)
				}
			}
			if size != "" {
				if retain.Bytes, err = parseSize(size); err != nil {
					return usageError("--larger-than: %w", err)
				}
			}
			return p.auditPrune(cmd, retain)
		},
	}
	cmd.Flags().StringVar(&age, "older-than", "", "streams whose last record is older than `AGE`, such as 90d or 36h")
	cmd.Flags().StringVar(&size, "larger-than", "", "the oldest, until the log is no larger than `SIZE`, such as 500MiB")
	passphraseFlag(cmd)
	return cmd
}

func (p *program) auditPrune(cmd *cobra.Command, retain audit.Retention) error {
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	store, err := p.openVault(cmd, h)
	if err != nil {
		return err
	}
	first := filepath.Join(h.Audit(), "*-000001.jsonl")
	before, err := filepath.Glob(first)
	if err != nil {
		return fmt.Errorf("prune audit log: %w", err)
	}
	if len(before) == 0 {
		_, err := fmt.Fprintln(p.out, "there is nothing to prune")
		return err
	}
	config := auditConfig(store)
	config.Retain, config.Reason = retain, "pruned"
	record, err := audit.Open(h.Audit(), auditKeys(store), config)
	if err != nil {
		return err
	}
	after, _ := filepath.Glob(first)
	if err := record.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "pruned %d of %d streams\n", len(before)+1-len(after), len(before))
	return err
}

// parseAge reads a duration, in days as well.
func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	if age, err := time.ParseDuration(text); err == nil && age > 0 {
		return age, nil
	}
	return 0, fmt.Errorf("%q is no age: write 90d or 36h", text)
}

// parseSize reads a number of bytes, with or without a unit.
func parseSize(text string) (int64, error) {
	for _, unit := range []struct {
		name string
		size int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"", 1}} {
		number, ok := strings.CutSuffix(text, unit.name)
		if n, err := strconv.ParseInt(number, 10, 32); ok && err == nil && n > 0 {
			return n * unit.size, nil
		}
	}
	return 0, fmt.Errorf("%q is no size: write 500MiB or 1GiB", text)
}
