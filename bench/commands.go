package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"standin/bench/process"
)

// isolations are the levels that run is timed at, with the least first.
var isolations = []string{"session", "tree", "netns"}

// commands times "standin run -- true" and true alone, in turn.
func commands(ctx context.Context, l *lab, s scenario) (*result, error) {
	r := newResult(s)
	added := map[string][]float64{}
	r.askCommands(added)
	path, err := l.home.rules(ctx, s.rules)
	if err != nil {
		return r, r.without(standinName, err)
	}
	served := []string{}
	for _, level := range isolations {
		_, err := l.timed(ctx, path, level)
		var c *process.Complaint
		switch {
		case err == nil:
			served = append(served, level)
		case level != "session" && errors.As(err, &c) && c.Code == 125:
			r.absent = append(r.absent, level+" isolation: not to be had here or not served yet")
		default:
			return r, r.without(standinName, err)
		}
	}
	count := 21
	if l.short {
		count = 9
	}
	alone := []float64{}
	for range count {
		bare, err := timeOf(exec.CommandContext(ctx, "true"))
		if err != nil {
			return nil, err
		}
		alone = append(alone, micros(bare))
		for _, level := range served {
			whole, err := l.timed(ctx, path, level)
			if err != nil {
				return r, r.without(standinName, err)
			}
			added[level] = append(added[level], micros(whole-bare))
		}
	}
	r.figures = append(r.figures, timesOf("true", alone))
	for _, level := range served {
		r.figures = append(r.figures, timesOf(standinName+" "+level, added[level]))
	}
	return r, nil
}

func (l *lab) timed(ctx context.Context, rules, level string) (time.Duration, error) {
	return timeOf(l.home.command(ctx, "run", "--rules", rules, "--isolation", level, "--", "true"))
}

func timeOf(cmd *exec.Cmd) (time.Duration, error) {
	start := time.Now()
	_, err := process.Output(cmd)
	return time.Since(start), err
}

func timesOf(name string, values []float64) figures {
	return figures{program: name, samples: []sample{{p50: median(values), p99: slices.Max(values)}}}
}

// askCommands says what is asked, of figures in µs that are yet to come.
func (r *result) askCommands(added map[string][]float64) {
	r.checks = []check{{
		what: "run adds to true", target: "≤ 40 ms", format: "%.1f ms", limit: 40,
		value: func(*result) (float64, float64) { return median(added["session"]) / 1000, 0 },
	}, {
		what: "netns adds to session", target: "≤ 15 ms", format: "%.1f ms", limit: 15,
		served: func() bool { return len(added["netns"]) > 0 },
		value: func(*result) (float64, float64) {
			return (median(added["netns"]) - median(added["session"])) / 1000, 0
		},
	}}
}

var errNotInstalled = errors.New("not installed")

// installed is the path of a program of this machine.
func installed(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, errNotInstalled)
	}
	return path, nil
}
