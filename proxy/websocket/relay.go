package websocket

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// linger is how long an end that is told goodbye may take to hear it.
const linger = time.Second

// goodbyes is how long the other end may take to answer a Close.
const goodbyes = 10 * time.Second

// Payloads decides what becomes of the payloads of one direction. It is called in
// one goroutine. An error ends the connection.
type Payloads interface {
	// Begin is called before the first byte of each message.
	Begin(op Op) error
	// Next takes the next bytes of the message and returns what may go on, which
	// is valid until the next call. When last, they end the message, and nothing
	// may be held back. It may change b.
	Next(b []byte, last bool) ([]byte, error)
	// Control returns what goes on in place of the payload of a control frame, at
	// most 125 bytes; of a Close it is the reason only, which is left out when it
	// has become longer.
	Control(b []byte) ([]byte, error)
}

// End is one end of a connection: In gives what was read from Conn already, and
// then Conn.
type End struct {
	Conn net.Conn
	In   io.Reader
}

// Config describes a relay. All fields are required.
type Config struct {
	Client, Upstream End
	Up, Down         Payloads      // from the client, from the upstream
	Idle             time.Duration // without a frame from either end
	Stall            time.Duration // for an end that does not read
	// Goodbye says with which code and reason the ends are told that an error of
	// Payloads, or of Stop, ends the connection.
	Goodbye func(error) (code uint16, reason string)
}

// Relay passes messages between the two ends of a connection, each way in a
// goroutine of its own. Between Run and its return both ends are its own.
type Relay struct {
	cfg      Config
	client   writer
	upstream writer
	idle     *time.Timer
	sent     atomic.Int64
	received atomic.Int64

	mu   sync.Mutex
	err  error // why it ends
	over bool
	said int // ends that have said goodbye
}

// NewRelay makes a relay, which Run runs.
func NewRelay(cfg Config) *Relay {
	return &Relay{cfg: cfg, client: writer{conn: cfg.Client.Conn}, upstream: writer{conn: cfg.Upstream.Conn, mask: true}}
}

// Run passes messages on until both ends have said goodbye, one has broken off or
// broken the protocol, or Payloads or Stop ended it. Then it closes both. It
// returns nil, a *Violation, an error of this package, or what Payloads or Stop
// gave. Contain runs in each goroutine that this starts, when it ends.
func (r *Relay) Run(contain func()) error {
	r.idle = time.AfterFunc(r.cfg.Idle, func() { r.Stop(ErrIdle) })
	defer r.idle.Stop()
	var down sync.WaitGroup
	down.Go(func() {
		defer contain()
		defer r.done(ErrUpstreamGone) // of a panic
		r.done(r.pass(&r.client, &reader{in: r.cfg.Upstream.In}, r.cfg.Down, &r.received))
	})
	defer down.Wait()
	defer r.cfg.Client.Conn.Close()
	defer r.cfg.Upstream.Conn.Close()
	defer r.done(ErrClientGone)
	r.done(r.pass(&r.upstream, &reader{in: r.cfg.Client.In, client: true}, r.cfg.Up, &r.sent))
	r.hearOut()
	down.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Counts are the bytes of payload that came from the client and from the upstream.
func (r *Relay) Counts() (sent, received int64) { return r.sent.Load(), r.received.Load() }

// Stop ends the relay, soon, with that error.
func (r *Relay) Stop(err error) { r.done(err) }

// done notes that one direction is done. The first error is the relay's; it tells
// both ends, and what they say from then on is not passed on.
func (r *Relay) done(err error) {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	if err == nil {
		if r.said++; r.said < 2 {
			r.idle.Reset(goodbyes)
			r.mu.Unlock()
			return
		}
	}
	switch {
	case r.said == 0:
	case errors.Is(err, ErrIdle):
		err = ErrNoGoodbye
	case errors.Is(err, ErrClientGone), errors.Is(err, ErrUpstreamGone):
		err = nil // that is an answer, too
	}
	r.over, r.err = true, err
	r.mu.Unlock()
	r.upstream.end()
	r.client.end()
	if code, reason := r.parting(err); code != 0 {
		r.upstream.goodbye(code, "")
		r.client.goodbye(code, reason)
	}
	r.cfg.Upstream.Conn.Close()
	r.cfg.Client.Conn.SetReadDeadline(time.Now().Add(linger))
}

// parting is what the ends are told. Where one of them broke off, the other is
// cut off as well: it must not look like an end in order.
func (r *Relay) parting(err error) (code uint16, reason string) {
	var broken *Violation
	switch {
	case err == nil, errors.Is(err, ErrClientGone), errors.Is(err, ErrUpstreamGone), errors.Is(err, ErrNoGoodbye):
		return 0, ""
	case errors.Is(err, ErrIdle):
		return GoingAway, "idle"
	case errors.As(err, &broken):
		return broken.Code, broken.Reason
	}
	return r.cfg.Goodbye(err)
}

// hearOut reads what a client still sends for a moment: to close a socket with
// bytes unread would take back what was just written to it.
func (r *Relay) hearOut() {
	r.mu.Lock()
	told := r.over && r.err != nil && !errors.Is(r.err, ErrClientGone)
	r.mu.Unlock()
	if told {
		io.Copy(io.Discard, r.cfg.Client.In)
	}
}

// windows are buffers for payloads under way.
var windows = sync.Pool{New: func() any { b := make([]byte, window); return &b }}

// pass passes frames on until a Close, which ends a direction.
func (r *Relay) pass(to *writer, from *reader, payloads Payloads, n *atomic.Int64) error {
	d := direction{r: r, to: to, from: from, payloads: payloads, n: n}
	for {
		h, err := from.next()
		if err != nil {
			return d.gone(err)
		}
		r.alive()
		if h.op.control() {
			if err = d.control(h); h.op == Close && err == nil {
				return nil
			}
		} else {
			err = d.data(h)
		}
		if err != nil {
			return err
		}
	}
}

// alive puts the end for want of frames off, unless a goodbye is waited for.
func (r *Relay) alive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said == 0 && !r.over {
		r.idle.Reset(r.cfg.Idle)
	}
}

// direction is what one goroutine of a relay works with.
type direction struct {
	r        *Relay
	to       *writer
	from     *reader
	payloads Payloads
	n        *atomic.Int64

	op    Op // of the message under way
	text  text
	begun bool // a frame of it has left
}

// gone gives an error of reading its name.
func (d *direction) gone(err error) error {
	var broken *Violation
	switch {
	case errors.As(err, &broken):
		return err
	case d.from.client:
		return ErrClientGone
	}
	return ErrUpstreamGone
}

// write writes one frame to the other end.
func (d *direction) write(fin bool, op Op, payload []byte) error {
	if d.to.frame(fin, op, payload, d.r.cfg.Stall) == nil {
		return nil
	}
	if d.from.client {
		return ErrUpstreamGone
	}
	return ErrClientGone
}

func (d *direction) control(h header) error {
	var room [MaxControl]byte
	b := room[:h.length]
	if err := d.from.payload(h, b, 0); err != nil {
		return d.gone(err)
	}
	d.n.Add(int64(len(b)))
	code := 0
	if h.op == Close {
		if err := d.from.checkClose(b); err != nil {
			return err
		}
		code = min(len(b), 2)
	}
	said, err := d.payloads.Control(b[code:])
	if err != nil {
		return err
	}
	if h.op == Close && code+len(said) > MaxControl {
		said = nil // a reason is for people; the code is what counts
	}
	return d.write(true, h.op, append(b[:code:code], said...))
}

// data passes one frame of a message on, in pieces of at most a window.
func (d *direction) data(h header) error {
	if h.op != Continuation {
		d.op, d.begun, d.text = h.op, false, text{}
		if err := d.payloads.Begin(h.op); err != nil {
			return err
		}
	}
	b := windows.Get().(*[]byte)
	defer func() {
		clear((*b)[:min(h.length, window)])
		windows.Put(b)
	}()
	for offset := uint64(0); ; {
		piece := (*b)[:min(h.length-offset, window)]
		if err := d.from.payload(h, piece, offset); err != nil {
			return d.gone(err)
		}
		offset += uint64(len(piece))
		if err := d.piece(piece, h.fin && offset == h.length); err != nil {
			return err
		}
		if offset == h.length {
			return nil
		}
		d.r.alive()
	}
}

func (d *direction) piece(b []byte, last bool) error {
	d.n.Add(int64(len(b)))
	if d.op == Text && !(d.text.add(b) && (!last || d.text.ends())) {
		return &Violation{Code: InvalidText, Reason: "text that is not UTF-8", Client: d.from.client}
	}
	out, err := d.payloads.Next(b, last)
	if err != nil {
		return err
	}
	for len(out) > window {
		if err := d.fragment(out[:window], false); err != nil {
			return err
		}
		out = out[window:]
	}
	if len(out) == 0 && !last {
		return nil
	}
	return d.fragment(out, last)
}

func (d *direction) fragment(b []byte, last bool) error {
	op := d.op
	if d.begun {
		op = Continuation
	}
	d.begun = true
	return d.write(last, op, b)
}
