package main

import (
	"context"
	"fmt"
	"time"

	"standin/bench/load"
	"standin/bench/reference"
	"standin/bench/upstream"
)

// scenario is one kind of work, and what is asked of Standin in it.
type scenario struct {
	id, work string
	measure  func(ctx context.Context, l *lab, s scenario) (*result, error)
	job      load.Job
	bearer   bool // the client shows the placeholder in Authorization
	scrubbed bool // the answer holds the secret, and must not when it comes from Standin
	later    bool // Standin may not serve it yet
	rules    ruleset
	base     string   // the reference that ratios are to
	others   []string // programs besides tunnel, relay, minimal and standin
	rounds   int
	round    load.Round // a round
	short    load.Round // a round with --short
	warm     load.Round // before the rounds
	checks   []check
}

// hostCount is how many hosts a rules file with many hosts has.
const hostCount = 2000

const mebibyte = 1 << 20

func scenarios() []scenario {
	list := []scenario{
		keepAlive(1), keepAlive(16), keepAlive(64),
		{
			id: "B", work: "a new tunnel for every request, leaf cached", bearer: true,
			job:    load.Job{Kind: load.Fresh, Workers: 8, Path: upstream.Small},
			checks: []check{cpuRatio(1.25, reference.Minimal)},
		},
		{
			id: "C", work: "a new host for every request, leaf issued", bearer: true, rules: rulesHosts,
			job:    load.Job{Kind: load.Hosts, Workers: 4, Path: upstream.Small},
			round:  load.Round{Limit: 200},
			short:  load.Round{Limit: 100},
			warm:   load.Round{Limit: 20},
			checks: []check{cpuRatio(1.1, reference.Minimal)},
		},
		{
			id: "D1", work: "POST 1 MiB of JSON, placeholder near its end",
			job: load.Job{
				Kind: load.Keep, Workers: 4, Method: "POST", Path: upstream.JSON, Body: load.Body{Size: mebibyte},
			},
			checks: []check{cpuRatio(1.6, reference.Minimal)},
		},
		{
			id: "D64", work: "POST a stream of 64 MiB, placeholder in the body", rules: rulesBody,
			job: load.Job{
				Kind: load.Keep, Workers: 1, Method: "POST", Path: upstream.Body, Body: load.Body{Size: 64 * mebibyte, Chunked: true},
			},
			round:  load.Round{Limit: 3},
			short:  load.Round{Limit: 1},
			warm:   load.Round{Limit: 1},
			checks: []check{cpuRatio(1.3, reference.Minimal), memoryGrowth(16)},
		},
		{
			id: "E64", work: "GET 64 MiB, scrubbed", bearer: true, scrubbed: true,
			job:    load.Job{Kind: load.Keep, Workers: 1, Path: fmt.Sprintf("%s?n=%d", upstream.Big, 64*mebibyte)},
			round:  load.Round{Limit: 3},
			short:  load.Round{Limit: 1},
			warm:   load.Round{Limit: 1},
			checks: []check{cpuRatio(1.3, reference.Minimal), memoryGrowth(16)},
		},
		{
			id: "F", work: "server-sent events every 2 ms, scrubbed: latency of an event", bearer: true,
			job:    load.Job{Kind: load.Events, Workers: 1, Path: upstream.Events + "?every=2ms"},
			checks: []check{latencyRatio(1.15, reference.Minimal)},
		},
		{id: "G", work: "idle memory, 1,000 idle tunnels, start to first answer", bearer: true, measure: atRest,
			job: load.Job{Kind: load.Keep, Workers: 1000, Path: upstream.Small}},
		{
			id: "I", work: "100 streams of HTTP/2 in one tunnel", bearer: true,
			base: reference.MinimalH2, others: []string{reference.MinimalH2},
			job:    load.Job{Kind: load.Streams, Workers: 100, Path: upstream.Small},
			checks: []check{cpuRatio(1.25, reference.MinimalH2)},
		},
		{id: "J", work: "standin run -- true: wall time besides true and unlocking", measure: commands},
	}
	for i := range list {
		list[i].fill()
	}
	return list
}

func keepAlive(connections int) scenario {
	s := scenario{
		id: fmt.Sprintf("A%d", connections), work: fmt.Sprintf("keep-alive GET, %d connections", connections), bearer: true,
		job:    load.Job{Kind: load.Keep, Workers: connections, Path: upstream.Small},
		checks: []check{cpuRatio(1.25, reference.Minimal), tailWithWrite(1.5)},
	}
	if connections == 16 {
		s.others = []string{reference.MinimalH2} // shows what the protocol towards the upstream costs
	}
	return s
}

func (s *scenario) fill() {
	if s.measure == nil {
		s.measure = rounds
	}
	if s.rules == "" {
		s.rules = rulesPlain
	}
	if s.base == "" {
		s.base = reference.Minimal
	}
	if s.rounds == 0 {
		s.rounds = 7
	}
	if s.round == (load.Round{}) {
		s.round, s.short, s.warm = load.Round{Duration: 1500 * time.Millisecond},
			load.Round{Duration: 400 * time.Millisecond}, load.Round{Duration: 200 * time.Millisecond}
	}
}

// programs are what takes turns in a scenario.
func (l *lab) programs(s scenario) []string {
	names := append([]string{reference.Tunnel, reference.Relay, reference.Minimal}, s.others...)
	names = append(names, standinName)
	if l.peers {
		names = append(names, peers...)
	}
	return names
}
