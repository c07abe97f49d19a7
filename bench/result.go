package main

import (
	"fmt"
	"slices"
	"strings"

	"standin/bench/load"
	"standin/bench/process"
)

// result is what came of a scenario.
type result struct {
	scenario
	figures  []figures // of each program that could be measured
	writes   []sample  // durable writes, in each round
	verdicts []verdict
	absent   []string // other programs that are missing, and why
	failed   string   // why Standin could not be measured
	unserved string   // or that it does not serve this yet
}

// figures are one program's.
type figures struct {
	program    string
	samples    []sample
	idle, peak process.Memory
}

// verdict is one check, done.
type verdict struct {
	what, measured, target string
	ratio                  float64 // to the reference, 0 if there is none
	met                    bool
	unserved               bool
}

func newResult(s scenario) *result { return &result{scenario: s} }

// without notes that a program cannot be measured. Without a reference nothing
// can be said, which is an error.
func (r *result) without(name string, err error) error {
	switch {
	case name == standinName && r.later && unserved(err):
		r.unserved = "not served yet"
		r.absent = append(r.absent, "standin: "+err.Error())
	case name == standinName:
		r.failed = err.Error()
	case slices.Contains(peers, name):
		r.absent = append(r.absent, fmt.Sprintf("%s: %s", name, err))
	default:
		return err
	}
	return nil
}

// unserved says whether the product itself says that it does not do this, or
// let the placeholder through.
func unserved(err error) bool {
	text := err.Error()
	return strings.Contains(text, "not served yet") || strings.Contains(text, `saw "placeholder", not "secret"`)
}

// write measures durable writes, if a check needs them.
func (r *result) write(l *lab) error {
	if !slices.ContainsFunc(r.checks, func(c check) bool { return c.writes }) {
		return nil
	}
	samples, err := durable(l.dir, 200)
	if err != nil {
		return err
	}
	r.writes = append(r.writes, sample{p50: micros(load.Percentile(samples, 50)), p99: micros(load.Percentile(samples, 99))})
	return nil
}

func (r *result) add(t *turn) {
	r.figures = append(r.figures, figures{program: t.program.name, samples: t.samples, idle: t.idle, peak: t.peak})
}

// judge does the checks.
func (r *result) judge() {
	for _, c := range r.checks {
		v := verdict{what: c.what, target: c.target}
		switch {
		case r.unserved != "":
			v.measured, v.unserved = r.unserved, true
		case r.failed != "":
			v.measured = "could not be measured"
		case c.served != nil && !c.served():
			v.measured, v.unserved = "not to be had here", true
		default:
			value, ratio := c.value(r)
			v.measured, v.ratio, v.met = fmt.Sprintf(c.format, value), ratio, value <= c.limit
		}
		r.verdicts = append(r.verdicts, v)
	}
}

// of are the figures of a program.
func (r *result) of(program string) figures {
	for _, f := range r.figures {
		if f.program == program {
			return f
		}
	}
	return figures{}
}

// each is one value of each sample.
func (f figures) each(value func(sample) float64) []float64 { return pick(f.samples, value) }

func (f figures) middle(value func(sample) float64) float64 { return median(f.each(value)) }

func cpuOf(s sample) float64  { return s.cpu }
func p50Of(s sample) float64  { return s.p50 }
func p99Of(s sample) float64  { return s.p99 }
func rateOf(s sample) float64 { return s.rate }

// against is the median of the ratios to the reference, round by round.
func (r *result) against(program string, value func(sample) float64) float64 {
	return median(ratios(r.of(program).each(value), r.of(r.base).each(value)))
}

// check is one thing that is asked of Standin.
type check struct {
	what, target string
	format       string
	limit        float64
	writes       bool
	served       func() bool // nil: it is
	value        func(*result) (value, ratio float64)
}

// cpuTime is what the first figure is called.
const cpuTime = "CPU time"

func cpuRatio(limit float64, base string) check {
	return check{
		what: cpuTime, target: fmt.Sprintf("≤ %g × %s", limit, base), format: "%.3f × " + base, limit: limit,
		value: func(r *result) (float64, float64) {
			ratio := r.against(standinName, cpuOf)
			return ratio, ratio
		},
	}
}

func latencyRatio(limit float64, base string) check {
	return check{
		what: "p50", target: fmt.Sprintf("≤ %g × %s", limit, base), format: "%.3f × " + base, limit: limit,
		value: func(r *result) (float64, float64) {
			ratio := r.against(standinName, p50Of)
			return ratio, ratio
		},
	}
}

// tailWithWrite compares p99 with that of the reference and that of one durable
// write, the least that a record before each request can cost: a tail with
// tails, so that a disk that others keep busy does not decide.
func tailWithWrite(limit float64) check {
	return check{
		what: "p99", target: fmt.Sprintf("≤ %g × (minimal + one durable write)", limit), format: "%.3f × (minimal + write)",
		limit: limit, writes: true,
		value: func(r *result) (float64, float64) {
			base := r.of(r.base).each(p99Of)
			for i := range min(len(base), len(r.writes)) {
				base[i] += r.writes[i].p99
			}
			return median(ratios(r.of(standinName).each(p99Of), base)), r.against(standinName, p99Of)
		},
	}
}

func memoryGrowth(limit float64) check {
	return check{
		what: "peak memory", target: fmt.Sprintf("≤ idle + %g MiB", limit), format: "idle + %.1f MiB", limit: limit,
		value: func(r *result) (float64, float64) {
			f := r.of(standinName)
			return mib(f.peak.Peak - f.idle.Now), 0
		},
	}
}

func mib(bytes int64) float64 { return float64(bytes) / mebibyte }
