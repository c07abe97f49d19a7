package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"standin/bench/load"
	"standin/bench/process"
	"standin/bench/reference"
)

// rest is what one program costs that does nothing.
type rest struct {
	start []float64 // ms from the start of the process to the first answer
	cpu   []float64 // µs of CPU time until then
	idle  []float64 // MiB before any request
	full  []float64 // MiB at most, with 1,000 tunnels that had one request each
}

// atRest measures memory and start-up: every time with a new process.
func atRest(ctx context.Context, l *lab, s scenario) (*result, error) {
	r := newResult(s)
	names := slices.DeleteFunc(l.programs(s), func(name string) bool { return slices.Contains(peers, name) })
	starts, fills := 9, 3
	if l.short {
		starts, fills = 5, 1
	}
	all := map[string]*rest{}
	for i := range starts {
		for j := range names {
			name := names[(i+j)%len(names)]
			if r.failed != "" && name == standinName {
				continue
			}
			if all[name] == nil {
				all[name] = &rest{}
			}
			if err := all[name].once(ctx, l, s, name, i < fills); err != nil {
				if err := r.without(name, err); err != nil {
					return nil, err
				}
			}
		}
	}
	if r.failed != "" {
		names = slices.DeleteFunc(names, func(name string) bool { return name == standinName })
	}
	for _, name := range names {
		r.figures = append(r.figures, all[name].figures(name)...)
	}
	r.judgeRest(all[standinName], all[reference.Minimal])
	return r, nil
}

// once starts a program, has it answer once, and if full opens 1,000 tunnels.
func (m *rest) once(ctx context.Context, l *lab, s scenario, name string, full bool) error {
	began := time.Now()
	p, err := l.start(ctx, name, s)
	if err != nil {
		return err
	}
	defer p.stop()
	before, err := process.ReadMemory(p.pid)
	if err != nil {
		return err
	}
	if err := load.Once(ctx, p.job(s)); err != nil {
		return err
	}
	m.start = append(m.start, time.Since(began).Seconds()*1000)
	m.idle = append(m.idle, mib(before.Now))
	used, err := process.CPU(p.pid)
	if err != nil {
		return err
	}
	m.cpu = append(m.cpu, micros(used))
	if !full {
		return nil
	}
	client, err := process.Start(exec.Command(l.self, roleWord, "load"))
	if err != nil {
		return err
	}
	t := &turn{program: &program{name: name, pid: p.pid}, client: client}
	defer t.stop()
	if err := client.Tell(p.job(s)); err != nil {
		return err
	}
	// Each connection asks once when it is opened; the round itself is not needed.
	var ready load.Result
	if err := t.ask(load.Round{Limit: 1}, &ready); err != nil {
		return err
	}
	after, err := process.ReadMemory(p.pid)
	m.full = append(m.full, mib(after.Peak))
	return err
}

func (m *rest) figures(name string) []figures {
	memory := process.Memory{Now: int64(median(m.idle) * mebibyte), Peak: int64(median(m.full) * mebibyte)}
	start := sample{cpu: median(m.cpu), p50: median(m.start) * 1000, p99: slices.Max(m.start) * 1000}
	return []figures{{program: name, samples: []sample{start}, idle: memory, peak: memory}}
}

// judgeRest compares with fixed bounds, and shows the ratio.
func (r *result) judgeRest(product, base *rest) {
	add := func(what string, of func(*rest) []float64, limit float64, unit string) {
		r.checks = append(r.checks, check{
			what: what, target: fmt.Sprintf("≤ %g %s", limit, unit), format: "%.1f " + unit, limit: limit,
			value: func(*result) (float64, float64) {
				value := median(of(product))
				return value, value / median(of(base))
			},
		})
	}
	add("1,000 idle tunnels, peak memory", func(m *rest) []float64 { return m.full }, 55, "MiB")
	add("idle memory", func(m *rest) []float64 { return m.idle }, 25, "MiB")
	add("start to first answer", func(m *rest) []float64 { return m.start }, 60, "ms")
}
