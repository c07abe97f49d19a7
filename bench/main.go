// Command bench measures Standin against the least that can do the same work.
//
// It builds the real standin binary and drives it as a user would, starts it
// and the references of package reference as separate processes, together with
// an upstream and a load client, all on loopback, and takes turns between them:
// A B A B, several rounds, medians. Machines are shared and noisy, so what
// counts is the ratio of two programs in one run, and CPU time of the proxy's
// process for each request before anything else.
//
//	go run ./bench [--short] [--write] [--peers] [--only ID,...] [--profile DIR]
//
// It does not measure the inner pieces (go test -bench does), nor anything
// across a network, nor on systems other than Linux. No figure is printed for
// work that was not done: the upstream says which credential it saw, and a
// scenario that the product does not serve is marked as such.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == roleWord {
		os.Exit(role(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are what the command line says.
type options struct {
	short   bool
	write   bool
	peers   bool
	only    []string
	profile string
	standin string // a binary that is already built
}

func parse(args []string, errs io.Writer) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.BoolVar(&o.short, "short", false, "fewer and shorter rounds: the whole table in under two minutes")
	flags.BoolVar(&o.write, "write", false, "write bench/RESULTS.md after a short or partial run, too")
	flags.BoolVar(&o.peers, "peers", false, "measure goproxy, mitmproxy and squid as well, where they are installed")
	flags.StringVar(&only, "only", "", "measure only these scenarios, `ID,...`")
	flags.StringVar(&o.profile, "profile", "", "write CPU profiles into `DIR`: of the references, and by perf of standin")
	flags.StringVar(&o.standin, "standin", "", "measure this `BINARY` instead of building one")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	for id := range strings.SplitSeq(only, ",") {
		if id = strings.ToUpper(strings.TrimSpace(id)); id != "" {
			o.only = append(o.only, id)
		}
	}
	return o, nil
}

// run measures and returns the exit code: 1 if a scenario could not be measured.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	o, err := parse(args, errs)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(errs, "bench:", err)
		return 2
	}
	if err := bench(ctx, o, out, errs); err != nil {
		fmt.Fprintln(errs, "bench:", err)
		return 1
	}
	return 0
}

func bench(ctx context.Context, o options, out, errs io.Writer) error {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	l, err := newLab(ctx, o, errs)
	if err != nil {
		return err
	}
	defer l.close()
	report := &report{short: o.short, started: time.Now(), notes: l.notes}
	broken := 0
	for _, s := range chosen {
		l.say("measuring %s: %s", s.id, s.work)
		result, err := s.measure(ctx, l, s)
		if err != nil {
			return fmt.Errorf("measure %s: %w", s.id, err)
		}
		result.judge()
		if result.failed != "" {
			broken++
		}
		report.results = append(report.results, result)
	}
	report.took = time.Since(report.started)
	report.notes = append(report.notes, l.afterwards(ctx)...)
	if _, err := io.WriteString(out, report.table()); err != nil {
		return err
	}
	if o.write || !o.short && len(o.only) == 0 {
		path := filepath.Join(l.root, "bench", "RESULTS.md")
		if err := os.WriteFile(path, []byte(report.markdown()), 0o644); err != nil {
			return err
		}
		l.say("wrote %s", path)
	}
	if broken > 0 {
		return fmt.Errorf("%d scenarios could not be measured with standin", broken)
	}
	return nil
}

// choose takes the scenarios with those ids, or all. "A" stands for all of A.
func choose(only []string) ([]scenario, error) {
	all := scenarios()
	if len(only) == 0 {
		return all, nil
	}
	var chosen []scenario
	for _, s := range all {
		if slices.ContainsFunc(only, func(id string) bool { return id == s.id || id == strings.TrimRight(s.id, "0123456789") }) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no scenario %s", strings.Join(only, ","))
	}
	return chosen, nil
}
