package ca

import (
	"context"
	"sync"
	"time"
)

// issueRate bounds the leaves a second, and how many may come at once: a
// command that asks for 100,000 names under a wildcard must not take the
// gateway's processors from other sessions. It is far above what any client
// reaches through a whole handshake.
const issueRate = 1000

// A limiter is a bucket of issueRate tokens that fills in a second.
type limiter struct {
	mu   sync.Mutex
	next time.Time // when the bucket would be full again
}

// wait takes a token, or waits until there is one.
func (l *limiter) wait(ctx context.Context) error {
	delay := l.take(time.Now())
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		l.giveBack()
		return context.Cause(ctx)
	}
}

// giveBack returns the token of somebody who left, or connections that are
// opened and dropped would push everybody else into the future.
func (l *limiter) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = l.next.Add(-time.Second / issueRate)
}

// take books a token and says how far in the future it lies.
func (l *limiter) take(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next.Before(now) {
		l.next = now
	}
	l.next = l.next.Add(time.Second / issueRate)
	return l.next.Sub(now) - time.Second
}
