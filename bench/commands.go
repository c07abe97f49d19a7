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
	added := map[string][]timing{}
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
	alone := []timing{}
	for range count {
		bare, err := timeOf(exec.CommandContext(ctx, "true"))
		if err != nil {
			return nil, err
		}
		alone = append(alone, bare)
		for _, level := range served {
			whole, err := l.timed(ctx, path, level)
			if err != nil {
				return r, r.without(standinName, err)
			}
			added[level] = append(added[level], timing{whole.wall - bare.wall, whole.cpu - bare.cpu})
		}
	}
	r.figures = append(r.figures, timesOf("true", alone))
	for _, level := range served {
		r.figures = append(r.figures, timesOf(standinName+" "+level, added[level]))
	}
	return r, nil
}

// timing is what one command took, in µs, with the processes that it started.
type timing struct{ wall, cpu float64 }

func wallOf(t timing) float64 { return t.wall }

func (l *lab) timed(ctx context.Context, rules, level string) (timing, error) {
	return timeOf(l.home.command(ctx, "run", "--rules", rules, "--isolation", level, "--", "true"))
}

func timeOf(cmd *exec.Cmd) (timing, error) {
	start := time.Now()
	_, err := process.Output(cmd)
	took := time.Since(start)
	if err != nil {
		return timing{}, err
	}
	return timing{micros(took), micros(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime())}, nil
}

// pick is one value of each.
func pick[T any](list []T, value func(T) float64) []float64 {
	out := make([]float64, 0, len(list))
	for _, v := range list {
		out = append(out, value(v))
	}
	return out
}

func timesOf(name string, list []timing) figures {
	wall, cpu := pick(list, wallOf), pick(list, func(t timing) float64 { return t.cpu })
	return figures{program: name, samples: []sample{{cpu: median(cpu), p50: median(wall), p99: slices.Max(wall)}}}
}

// askCommands says what is asked, of figures in µs that are yet to come.
func (r *result) askCommands(added map[string][]timing) {
	r.checks = []check{{
		what: "run adds to true", target: "≤ 40 ms", format: "%.1f ms", limit: 40,
		value: func(*result) (float64, float64) { return median(pick(added["session"], wallOf)) / 1000, 0 },
	}, {
		what: "netns adds to session", target: "≤ 15 ms", format: "%.1f ms", limit: 15,
		served: func() bool { return len(added["netns"]) > 0 },
		value: func(*result) (float64, float64) {
			return (median(pick(added["netns"], wallOf)) - median(pick(added["session"], wallOf))) / 1000, 0
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
