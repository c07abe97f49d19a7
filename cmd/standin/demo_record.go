package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func (d *demonstration) receipt() string { return filepath.Join(d.dir, "receipt.json") }

// again runs this program once more, and gives its output and its exit code.
func (d *demonstration) again(args ...string) (string, int, error) {
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: d.self, Args: append([]string{os.Args[0]}, args...), Env: withoutProxies(d.p.env), Stdout: &out, Stderr: &out}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", 0, fmt.Errorf("demo: run standin %s: %w", args[0], err)
	}
	return strings.TrimSpace(out.String()), cmd.ProcessState.ExitCode(), nil
}

// theRecord shows the log and verifies it.
func (d *demonstration) theRecord() error {
	shown, code, err := d.again("audit", "show", "--home", d.dir, "--secret", "demo")
	if err != nil {
		return err
	}
	d.screen.title("3. What the log says of the secret (standin audit show --secret demo)")
	d.screen.text(shown)
	if code != 0 || !strings.Contains(shown, demoAPI) || strings.Contains(shown, d.value) {
		return failed("the log does not show the use of the secret")
	}
	// Each run was a stream of its own; the receipt anchors the newest.
	code, err = d.verify(d.dir)
	if err != nil {
		return err
	}
	d.screen.row("standin audit verify", verdictText(code), calm)
	if code != 0 && code != 12 {
		return failed(fmt.Sprintf("the log does not verify: exit code %d", code))
	}
	return nil
}

// verify checks the log of a home, with the recovery key and the receipt.
func (d *demonstration) verify(dir string) (int, error) {
	_, code, err := d.again("audit", "verify", "--home", dir, "--recovery-key-file", d.recovery, "--receipt", d.receipt())
	return code, err
}

// theDamage verifies two copies of the log: one without a record of its middle,
// one without its end.
func (d *demonstration) theDamage() error {
	d.screen.title("4. Copies of the log that somebody has changed")
	for _, damage := range []struct {
		name string
		do   func(lines [][]byte) [][]byte
	}{
		{"a record cut out of the middle", func(l [][]byte) [][]byte { return slices.Delete(l, len(l)/2, len(l)/2+1) }},
		{"two records cut off the end", func(l [][]byte) [][]byte { return l[:len(l)-2] }},
	} {
		copied := filepath.Join(d.dir, "copy-"+damage.name)
		if err := d.damagedCopy(copied, damage.do); err != nil {
			return err
		}
		code, err := d.verify(copied)
		if err != nil {
			return err
		}
		d.screen.row(damage.name, verdictText(code), alarming)
		if code != 10 {
			return failed(fmt.Sprintf("verify did not find %s: exit code %d", damage.name, code))
		}
	}
	return nil
}

// damagedCopy copies the log, and changes the lines of its newest stream.
func (d *demonstration) damagedCopy(to string, change func([][]byte) [][]byte) error {
	from := home{State: d.dir}.Audit()
	segments, err := filepath.Glob(filepath.Join(from, "*.jsonl"))
	if err != nil || len(segments) == 0 {
		return failed("there is no log to copy")
	}
	slices.Sort(segments)
	target := home{State: to}.Audit()
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("copy the log: %w", err)
	}
	for i, segment := range segments {
		text, err := os.ReadFile(segment)
		if err != nil {
			return fmt.Errorf("copy the log: %w", err)
		}
		if i == len(segments)-1 {
			text = bytes.Join(change(bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))), nil)
		}
		if err := os.WriteFile(filepath.Join(target, filepath.Base(segment)), text, 0o600); err != nil {
			return fmt.Errorf("copy the log: %w", err)
		}
	}
	return nil
}

// verdictText says what an exit code of verify means.
func verdictText(code int) string {
	meaning := map[int]string{
		0: "whole, and anchored", 10: "TAMPERED", 11: "order checked only", 12: "whole; the end after the newest anchor is unproven", 13: "whole, but for a torn last record",
	}[code]
	return fmt.Sprintf("%s (exit code %d)", meaning, code)
}
