package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"standin/bench/load"
	"standin/bench/process"
)

// sample is one program's turn in one round.
type sample struct {
	cpu      float64 // µs of CPU time for each unit of work
	p50, p99 float64 // µs
	rate     float64 // units of work a second
}

// turn is one program in a scenario, with its own client.
type turn struct {
	program *program
	client  *process.Child
	idle    process.Memory
	peak    process.Memory
	samples []sample
}

// rounds measures a scenario: all programs are started, then they take turns.
func rounds(ctx context.Context, l *lab, s scenario) (*result, error) {
	r := newResult(s)
	var turns []*turn
	defer func() {
		for _, t := range turns {
			t.stop()
		}
	}()
	for _, name := range l.programs(s) {
		t, err := l.join(ctx, name, s)
		if err == nil {
			turns = append(turns, t)
			continue
		}
		if err := r.without(name, err); err != nil {
			return nil, err
		}
	}
	count, round := s.rounds, s.round
	if l.short {
		count, round = 3, s.short
	}
	for i := range count {
		for j := range turns {
			t := turns[(i+j)%len(turns)]
			one, err := t.take(round)
			if err == nil {
				t.samples = append(t.samples, one)
				continue
			}
			if err := r.without(t.program.name, err); err != nil {
				return nil, err
			}
			turns = slices.DeleteFunc(turns, func(other *turn) bool { return other == t })
			t.stop()
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.write(l); err != nil {
			return nil, err
		}
	}
	for _, t := range turns {
		var err error
		if t.peak, err = process.ReadMemory(t.program.pid); err != nil {
			return nil, err
		}
		r.add(t)
	}
	if len(r.writes) > 0 {
		r.figures = append(r.figures, figures{program: "one durable write", samples: r.writes})
	}
	return r, nil
}

// join starts a program and its client, and makes one short round that does
// not count.
func (l *lab) join(ctx context.Context, name string, s scenario) (*turn, error) {
	p, err := l.start(ctx, name, s)
	if err != nil {
		return nil, err
	}
	t := &turn{program: p}
	if t.idle, err = process.ReadMemory(p.pid); err != nil {
		t.stop()
		return nil, err
	}
	if t.client, err = process.Start(exec.Command(l.self, roleWord, "load")); err != nil {
		t.stop()
		return nil, err
	}
	if err := t.client.Tell(p.job(s)); err != nil {
		t.stop()
		return nil, err
	}
	if _, err := t.take(s.warm); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

func (t *turn) stop() {
	if t.client != nil {
		t.client.Stop()
	}
	t.program.stop()
}

// take has the client do one round, and reads the program's CPU time before
// and after it.
func (t *turn) take(r load.Round) (sample, error) {
	var made load.Result
	if err := t.ask(r, &made); err != nil {
		return sample{}, err
	}
	before, err := process.CPU(t.program.pid)
	if err != nil {
		return sample{}, err
	}
	if err := t.ask(struct{}{}, &made); err != nil {
		return sample{}, err
	}
	after, err := process.CPU(t.program.pid)
	if err != nil {
		return sample{}, err
	}
	if made.Count == 0 {
		return sample{}, errors.New("no work was done in a round")
	}
	return sample{
		cpu: micros(after-before) / float64(made.Count), p50: micros(made.P50), p99: micros(made.P99),
		rate: float64(made.Count) / made.Elapsed.Seconds(),
	}, nil
}

func (t *turn) ask(what any, made *load.Result) error {
	if err := t.client.Tell(what); err != nil {
		return fmt.Errorf("the load client ended: %s", t.client.Said())
	}
	if err := t.client.Hear(made); err != nil {
		return err
	}
	if made.Error != "" {
		return errors.New(made.Error)
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// durable is how long it takes to append a line to a file and to have it on
// disk, each of n times, sorted. The file lies where the log does.
func durable(dir string, n int) ([]time.Duration, error) {
	file, err := os.OpenFile(filepath.Join(dir, "durable"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	line := make([]byte, 600)
	samples := make([]time.Duration, 0, n)
	for range n {
		start := time.Now()
		if _, err := file.Write(line); err != nil {
			return nil, err
		}
		if err := file.Sync(); err != nil {
			return nil, err
		}
		samples = append(samples, time.Since(start))
	}
	slices.Sort(samples)
	return samples, nil
}

// median is the middle of the values, or the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// ratios is a ÷ b, turn by turn of the same round.
func ratios(a, b []float64) []float64 {
	out := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}
