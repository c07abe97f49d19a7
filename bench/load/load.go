// Package load is the client of the benchmark: it speaks through a proxy by
// CONNECT, TLS and HTTP, in a closed loop, and counts and times what it does.
// It reports no figure for work that was not done: the first answer that is not
// 200, or that says the upstream saw another credential than it should have,
// ends the round with an error. It keeps nothing between connections: no TLS
// resumption, no redirects, no retries.
package load

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Kind says what one unit of work is.
type Kind string

// The kinds of work.
const (
	Keep    Kind = "keep"    // a request on a connection that stays
	Fresh   Kind = "fresh"   // a tunnel, a handshake and a request
	Hosts   Kind = "hosts"   // the same, to a host that no one asked for before
	Streams Kind = "streams" // a request on one of many streams of one HTTP/2 connection
	Events  Kind = "events"  // a server-sent event, timed from its sending
)

// Job is what a client does.
type Job struct {
	Proxy   string   // its URL, with credentials if it wants some
	Roots   []string // PEM files
	Port    string   // of the upstream, 443 if empty
	Kind    Kind
	Workers int
	Method  string // GET if empty
	Path    string
	Bearer  string // shown in Authorization, "": none
	Body    Body   // none if it has no size
	Expect  string // what the upstream must have seen, as in package upstream
	Scrubs  string // "", or what must stand in the answer for the secret, which must not
	Host    int    // number of the first new host
}

// Body is what a request carries: JSON text with Token near its end.
type Body struct {
	Size    int
	Token   string
	Chunked bool // without a length
}

// Round is one run of a job.
type Round struct {
	Duration time.Duration // start no work after this, 0: no bound
	Limit    int           // units of work, 0: no bound
}

// Result is what a round came to.
type Result struct {
	Count    int
	Elapsed  time.Duration
	P50, P99 time.Duration
	Error    string // "", or why the figures are worth nothing
}

// worker does one unit of work after the other.
type worker interface {
	ready() error                 // before a round, not timed
	step() (time.Duration, error) // one unit of work and how long it took
	close()
}

// Client does a job.
type Client struct {
	job     Job
	proxy   *url.URL
	tls     *tls.Config
	host    atomic.Int64
	workers []worker
}

// New makes a client. Connections are opened by Ready.
func New(job Job) (*Client, error) {
	proxy, err := url.Parse(job.Proxy)
	if err != nil || proxy.Host == "" {
		return nil, errors.New("make load client: the proxy is no URL")
	}
	roots := x509.NewCertPool()
	for _, path := range job.Roots {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("make load client: no certificate in %q", path)
		}
	}
	job.Port = cmp.Or(job.Port, "443")
	job.Method = cmp.Or(job.Method, "GET")
	c := &Client{job: job, proxy: proxy, tls: &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}}}
	c.host.Store(int64(job.Host))
	err = c.hire()
	return c, err
}

func (c *Client) hire() error {
	if c.job.Workers < 1 || c.job.Path == "" {
		return errors.New("make load client: no workers or no path")
	}
	var shared *multiplexed
	for range c.job.Workers {
		switch c.job.Kind {
		case Keep:
			c.workers = append(c.workers, &kept{client: c})
		case Fresh, Hosts:
			c.workers = append(c.workers, &fresh{client: c})
		case Streams:
			if shared == nil {
				shared = &multiplexed{client: c}
			}
			c.workers = append(c.workers, shared)
		case Events:
			c.workers = append(c.workers, &events{client: c})
		default:
			return fmt.Errorf("make load client: no kind %q", c.job.Kind)
		}
	}
	return nil
}

// opening is how many connections are opened at a time.
const opening = 16

// Ready opens what has to be open before a round is timed.
func (c *Client) Ready() error {
	var (
		slots = make(chan struct{}, opening)
		all   sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	for _, w := range c.workers {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := w.ready(); err != nil {
				mu.Lock()
				first = cmp.Or(first, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return first
}

// Run does one round. Work that was begun is finished.
func (c *Client) Run(r Round) Result {
	var (
		all     sync.WaitGroup
		begun   atomic.Int64
		failed  atomic.Pointer[error]
		samples = make([][]time.Duration, len(c.workers))
		start   = time.Now()
	)
	for i, w := range c.workers {
		all.Go(func() {
			for failed.Load() == nil && (r.Duration == 0 || time.Since(start) < r.Duration) {
				if r.Limit > 0 && begun.Add(1) > int64(r.Limit) {
					return
				}
				took, err := w.step()
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				samples[i] = append(samples[i], took)
			}
		})
	}
	all.Wait()
	result := Summary(slices.Concat(samples...))
	result.Elapsed = time.Since(start)
	if err := failed.Load(); err != nil {
		result.Error = (*err).Error()
	}
	return result
}

// Summary counts samples and finds their percentiles.
func Summary(samples []time.Duration) Result {
	slices.Sort(samples)
	return Result{Count: len(samples), P50: Percentile(samples, 50), P99: Percentile(samples, 99)}
}

// Percentile is the smallest of the sorted samples that p percent of them do
// not exceed, or 0 if there is none.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Close closes every connection.
func (c *Client) Close() {
	for _, w := range c.workers {
		w.close()
	}
}
