package dial

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Gathered connection sends with one system call what several goroutines write at about the same time: requests
// that waited for the same record leave together. It is for connections that many share, as those of HTTP/2 are.
//
// Once Gather was called, a short Write returns before its bytes are sent. Bytes leave in the order in which they were
// written. An error of the network closes the connection, so that its reader learns of it, and is returned by every
// later Write.
type Gathered struct {
	net.Conn

	bounded atomic.Bool // there is a deadline for writes

	mu      sync.Mutex
	idle    sync.Cond // signalled when sending ends
	gathers bool
	sending bool   // send runs
	waiting []byte // written, not yet taken by send
	spare   []byte // the other buffer
	err     error
}

const (
	gatherShort = 4 << 10  // a longer Write is worth a system call of its own
	gatherMost  = 64 << 10 // when as many bytes wait, Write does, too
)

// NewGathered wraps a connection, which writes at once until Gather is called.
func NewGathered(conn net.Conn) *Gathered {
	g := &Gathered{Conn: conn}
	g.idle.L = &g.mu
	return g
}

// Gather begins to gather.
func (g *Gathered) Gather() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gathers = true
}

func (g *Gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gathers || g.bounded.Load() || len(p) > gatherShort || len(g.waiting) > gatherMost {
		g.settle()
		if g.err != nil {
			return 0, g.err
		}
		return g.Conn.Write(p)
	}
	if g.err != nil {
		return 0, g.err
	}
	g.waiting = append(g.waiting, p...)
	if !g.sending {
		g.sending = true
		go g.send()
	}
	return len(p), nil
}

// send sends until nothing waits. First it lets everybody have a turn who could run already.
func (g *Gathered) send() {
	runtime.Gosched()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 && g.err == nil {
		out := g.waiting
		g.waiting = g.spare[:0]
		g.mu.Unlock()
		_, err := g.Conn.Write(out)
		g.mu.Lock()
		g.spare = out
		if err != nil {
			g.err = err
			g.Conn.Close()
		}
	}
	g.sending = false
	g.idle.Broadcast()
}

// settle waits until everything that was written is sent. It is called with mu held.
func (g *Gathered) settle() {
	for g.sending {
		g.idle.Wait()
	}
}

// SetWriteDeadline bounds what is being sent, too. While there is a deadline nothing is gathered: its setter wants to
// know how a Write ends, as TLS does with its last alert.
func (g *Gathered) SetWriteDeadline(t time.Time) error {
	g.bounded.Store(!t.IsZero())
	return g.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (g *Gathered) SetDeadline(t time.Time) error {
	g.bounded.Store(!t.IsZero())
	return g.Conn.SetDeadline(t)
}
