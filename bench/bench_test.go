package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"standin/bench/authority"
	"standin/bench/load"
	"standin/bench/process"
	"standin/bench/reference"
	"standin/bench/upstream"
)

func TestPercentilesAndMediansAreThoseOfTheSamples(t *testing.T) {
	t.Parallel()
	samples := make([]time.Duration, 0, 200)
	for i := 200; i > 0; i-- {
		samples = append(samples, time.Duration(i))
	}
	if s := load.Summary(samples); s.Count != 200 || s.P50 != 100 || s.P99 != 198 {
		t.Errorf("1 to 200: %d samples, p50 %d, p99 %d", s.Count, s.P50, s.P99)
	}
	if s := load.Summary([]time.Duration{7}); s.P50 != 7 || s.P99 != 7 {
		t.Errorf("one sample: p50 %d, p99 %d", s.P50, s.P99)
	}
	if s := load.Summary(nil); s != (load.Result{}) {
		t.Errorf("no sample: %+v", s)
	}
	if odd, even := median([]float64{9, 1, 4}), median([]float64{8, 2, 4, 1}); odd != 4 || even != 3 {
		t.Errorf("medians %g and %g, not 4 and 3", odd, even)
	}
	if got := ratios([]float64{2, 9, 5}, []float64{1, 3}); !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("ratios %v", got)
	}
}

func TestAVerdictIsMissedAboveItsLimitAndNotServedIsNeverMet(t *testing.T) {
	t.Parallel()
	turnOf := func(name string, cpu ...float64) figures {
		f := figures{program: name}
		for _, c := range cpu {
			f.samples = append(f.samples, sample{cpu: c})
		}
		return f
	}
	for _, c := range []struct {
		standin  float64
		unserved string
		failed   string
		want     string
	}{
		{125, "", "", "met"}, {126, "", "", "MISSED"},
		{100, "not served yet", "", "not served yet"}, {100, "", "it broke", "MISSED"},
	} {
		r := newResult(scenario{id: "X", base: reference.Minimal, checks: []check{cpuRatio(1.25, reference.Minimal)}})
		r.figures = []figures{turnOf(reference.Minimal, 100, 50, 200), turnOf(standinName, c.standin, 1, 2*c.standin)}
		r.unserved, r.failed = c.unserved, c.failed
		r.judge()
		if got := r.verdicts[0].status(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// bed is an upstream and a reference inside this process.
type bed struct {
	up  *upstream.Server
	job load.Job
}

func newBed(t *testing.T, name string) *bed {
	t.Helper()
	dir := t.TempDir()
	ca, err := authority.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	up, err := upstream.Start(ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Close() })
	proxy, err := reference.Start(name, reference.Config{Authority: ca, Upstream: up.Addr, Bearer: upstream.Secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	return &bed{up, load.Job{
		Proxy: "http://" + proxy.Addr, Roots: []string{filepath.Join(dir, authority.RootFile)},
		Kind: load.Keep, Workers: 2, Path: upstream.Small, Bearer: example, Expect: upstream.SawSecret,
	}}
}

// round does one round and returns how many requests reached the upstream in it.
func (b *bed) round(t *testing.T, job load.Job, limit int) (load.Result, int64) {
	t.Helper()
	client, err := load.New(job)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Ready(); err != nil {
		return load.Result{Error: err.Error()}, 0
	}
	before := b.up.Served.Load()
	result := client.Run(load.Round{Limit: limit})
	return result, b.up.Served.Load() - before
}

func TestTheLoadClientCountsWhatTheUpstreamServed(t *testing.T) {
	t.Parallel()
	b := newBed(t, reference.Minimal)
	for _, kind := range []load.Kind{load.Keep, load.Fresh, load.Hosts, load.Streams} {
		job := b.job
		job.Kind = kind
		got, served := b.round(t, job, 7)
		if got.Error != "" || got.Count != 7 || served != 7 {
			t.Errorf("%s: counted %d of 7, the upstream served %d: %s", kind, got.Count, served, got.Error)
		}
		if got.P50 <= 0 || got.P99 < got.P50 || got.Elapsed < got.P99 {
			t.Errorf("%s: p50 %v, p99 %v in %v", kind, got.P50, got.P99, got.Elapsed)
		}
	}
}

func TestBodiesArriveWholeAndEventsAreTimedFromTheirSending(t *testing.T) {
	t.Parallel()
	b := newBed(t, reference.Minimal)
	for _, chunked := range []bool{false, true} {
		job := b.job
		job.Bearer, job.Method, job.Path, job.Expect = "", "POST", upstream.JSON, upstream.SawMarker
		job.Body = load.Body{Size: 3*mebibyte + 17, Token: example, Chunked: chunked}
		if got, served := b.round(t, job, 3); got.Error != "" || got.Count != 3 || served != 3 {
			t.Errorf("chunked %t: counted %d, served %d: %s", chunked, got.Count, served, got.Error)
		}
	}
	job := b.job
	job.Kind, job.Workers, job.Path = load.Events, 1, upstream.Events+"?every=1ms"
	if got, _ := b.round(t, job, 20); got.Error != "" || got.Count != 20 || got.Elapsed < 15*time.Millisecond || got.P50 > got.Elapsed {
		t.Errorf("events: counted %d in %v, p50 %v: %s", got.Count, got.Elapsed, got.P50, got.Error)
	}
}

func TestWorkThatWasNotDoneIsNotCounted(t *testing.T) {
	t.Parallel()
	b := newBed(t, reference.Relay)
	unreplaced := b.job
	unscrubbed := b.job
	unscrubbed.Expect, unscrubbed.Scrubs, unscrubbed.Path = upstream.SawMarker, example, upstream.Big+"?n=100000"
	missing := b.job
	missing.Expect, missing.Path = upstream.SawMarker, "/nothing"
	for want, job := range map[string]load.Job{
		`saw "placeholder", not "secret"`: unreplaced,
		"was not scrubbed":                unscrubbed,
		"answer 404":                      missing,
	} {
		if got, _ := b.round(t, job, 3); got.Count != 0 || !strings.Contains(got.Error, want) {
			t.Errorf("counted %d, error %q; want %q", got.Count, got.Error, want)
		}
	}
}

func TestEveryReferenceServesWhatItIsMeasuredWith(t *testing.T) {
	t.Parallel()
	for name, saw := range map[string]string{
		reference.Tunnel: upstream.SawMarker, reference.Relay: upstream.SawMarker,
		reference.Minimal: upstream.SawSecret, reference.MinimalH2: upstream.SawSecret, reference.Goproxy: upstream.SawSecret,
	} {
		b := newBed(t, name)
		for _, kind := range []load.Kind{load.Keep, load.Fresh, load.Streams} {
			if kind == load.Streams && name == reference.Goproxy {
				continue // its interception is set up for HTTP/1.1
			}
			job := b.job
			job.Expect, job.Kind = saw, kind
			if got, _ := b.round(t, job, 5); got.Error != "" || got.Count != 5 {
				t.Errorf("%s, %s: counted %d: %s", name, kind, got.Count, got.Error)
			}
		}
	}
}

func TestCPUTimeIsThatOfStatWithoutRounding(t *testing.T) {
	pid := os.Getpid()
	first, err := process.CPU(pid)
	if err != nil {
		t.Skip(err)
	}
	for begin := time.Now(); time.Since(begin) < 60*time.Millisecond; {
		_ = upstream.Text(1 << 10)
	}
	ticks, err := process.Ticks(pid)
	if err != nil {
		t.Fatal(err)
	}
	second, err := process.CPU(pid)
	if err != nil {
		t.Fatal(err)
	}
	if second <= first || ticks < first-20*time.Millisecond || ticks > second+20*time.Millisecond {
		t.Errorf("CPU time was %v, then %v; stat said %v between", first, second, ticks)
	}
	if m, err := process.ReadMemory(pid); err != nil || m.Now <= 0 || m.Peak < m.Now {
		t.Errorf("memory %+v: %v", m, err)
	}
}
