// Package answer passes the body of an answer on: without its content coding,
// without values, without the credentials that a rule strips, and in its coding
// again, as a stream.
//
// It opens no connection and decides nothing: what is done with a body stands in
// a How. It does not look at headers or trailers.
//
// Invariant: a byte that may belong to a value is passed on only when what
// follows has shown that it does not, when its message has ended, or when nothing
// followed for a moment; then what completes the value is overwritten. No message
// waits for a later one.
package answer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"standin/grant/coding"
	"standin/grant/scrub"
)

// How says what is done with a body.
type How struct {
	Scrubber *scrub.Scrubber
	Coding   string        // as package coding names it
	Length   int64         // of what comes, or -1
	Type     string        // Content-Type
	Messages string        // the coding of the messages of a stream of them (grpc-encoding)
	Strip    bool          // new credentials are taken out
	Idle     time.Duration // how long nothing may come; 0: for ever
}

// Scrubs says whether the body is looked into. Otherwise it passes as it is.
func (h *How) Scrubs() bool { return h.Scrubber != nil || h.Strip }

// Sink takes what can go to the client. Last is true for the call with the last
// of it, which may be empty, and the only one. An empty piece that is not the
// last says that nothing has come for a moment.
type Sink interface {
	Pass(p []byte, last bool) error
}

// Seen is what was found in a body.
type Seen struct {
	Received int64    // bytes, as they came
	Scrubbed int      // values that were replaced
	Tokens   []string // names of the new credentials, each once
}

// Errors of Copy, besides those of the source and of the sink.
var (
	ErrUnsafe = errors.New("the body cannot be scrubbed")
	ErrIdle   = errors.New("nothing came for too long")
)

const (
	// moment is how long a source may pause before what is held back is let go, and
	// longMoment how long when it is so much of a value that chance is out of the
	// question: networks lose packets, and take a second to notice.
	moment     = 500 * time.Millisecond
	longMoment = 1500 * time.Millisecond
	certain    = 8
	// opening is how long the first bytes of a coded body are waited for before the
	// answer begins: until then, one that is not what it says can be refused.
	opening = 3 * time.Second
)

// stage is where the pieces of a body are looked into. *scrub.Body is one.
type stage interface {
	Room() []byte
	Take(n int, last bool) []byte
	Release() []byte
	Waits() bool
	Free()
}

// copier is one Copy. While the source is read, the clock may let go of what is
// held back, under the lock.
type copier struct {
	how    How
	src    *counted
	sink   Sink
	body   scrub.Body
	stage  stage
	frames *frames // the stage, for messages
	tokens *tokens // nil where no JSON or form can stand
	encode *coding.Writer
	out    bytes.Buffer // what encode has written
	seen   Seen

	mu    sync.Mutex
	begun bool // the sink was called
	ended bool
	clock *time.Timer
	due   time.Time // when what is held back is let go, or zero
	limit time.Time // when the source has been idle for too long, or zero
	rings time.Time // when the clock does
	fault error     // what the clock met
}

// Copy passes src on to sink. It closes src when nothing has come for too long,
// and otherwise leaves that to the caller.
func Copy(sink Sink, src io.ReadCloser, how How) (Seen, error) {
	c := &copier{how: how, sink: sink, src: &counted{ReadCloser: src}}
	c.body.Scrubber = how.Scrubber
	c.stage = &c.body
	if how.Scrubs() {
		switch kindOf(how.Type) {
		case fixed:
			c.body.Fixed = true
		case messages:
			c.frames = &frames{body: &c.body, coding: how.Messages}
			c.stage = c.frames
		default:
			c.tokens = &tokens{strip: how.Strip, form: mediaType(how.Type) == "application/x-www-form-urlencoded"}
		}
	}
	err := c.run()
	c.end()
	c.seen.Received = c.src.n
	c.seen.Scrubbed = c.body.Replaced
	if c.tokens != nil {
		c.seen.Tokens = c.tokens.found
	}
	return c.seen, err
}

func (c *copier) run() error {
	in := io.Reader(c.src)
	c.src.timed = c.coded()
	c.wait()
	if c.coded() {
		whole, err := coding.Weigh(c.how.Coding, c.src)
		if err != nil {
			return c.why(err)
		}
		decoder, err := coding.Decode(c.how.Coding, whole)
		if err != nil {
			return c.why(err)
		}
		defer decoder.Close()
		in, c.encode = decoder, decoder.Writer(&c.out)
	}
	for {
		c.mu.Lock()
		room := c.stage.Room()
		c.mu.Unlock()
		n, err := in.Read(room)
		for err == nil && n < len(room) && c.src.n == c.how.Length {
			// All of it has come: then its end is known as well.
			var more int
			more, err = in.Read(room[n:])
			n += more
		}
		why := c.why(err)
		if errors.Is(why, ErrUnsafe) {
			return why // if it did not begin, it can be refused
		}
		if failed := c.pass(n, err == io.EOF); failed != nil {
			return failed
		}
		if err != nil {
			return why
		}
	}
}

// coded says whether the body is decoded, and coded again.
func (c *copier) coded() bool { return c.how.Scrubs() && c.how.Coding != "" }

// why tells what the body is from what befell the connection.
func (c *copier) why(err error) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == io.EOF:
		return nil
	case c.fault != nil:
		return c.fault
	case errors.Is(err, coding.ErrMalformed), errors.Is(err, coding.ErrTooLarge), errors.Is(err, coding.ErrUnknown):
		return errors.Join(ErrUnsafe, err)
	}
	return err
}

// pass looks at the next n bytes and hands on what is settled.
func (c *copier) pass(n int, last bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return c.fault
	}
	out := c.stage.Take(n, last)
	if c.frames != nil && c.frames.err != nil {
		return errors.Join(ErrUnsafe, c.frames.err)
	}
	err := c.hand(out, last)
	if err == nil && !last && c.body.Waits() && kindOf(c.how.Type) == events && c.body.Ended() {
		err = c.hand(c.stage.Release(), false)
	}
	if !last {
		c.wait()
	}
	return err
}

// hand gives a piece to the client, in its coding.
func (c *copier) hand(p []byte, last bool) error {
	if c.tokens != nil {
		p = c.tokens.pass(p)
	}
	if len(p) == 0 && !last {
		return nil
	}
	if c.encode != nil {
		c.out.Reset()
		if err := c.encode.Put(p, last); err != nil {
			return err
		}
		p = c.out.Bytes()
	}
	c.begun = true
	return c.sink.Pass(p, last)
}

// wait sets the clock before the source is read.
func (c *copier) wait() {
	c.due = time.Time{}
	waits := c.stage.Waits() || !c.begun && c.coded()
	if !waits && c.how.Idle == 0 {
		return
	}
	now := time.Now()
	if waits {
		c.due = now.Add(moment)
		if c.body.Held() >= certain {
			c.due = now.Add(longMoment)
		}
	}
	if c.how.Idle > 0 {
		c.limit = now.Add(c.how.Idle)
	}
	c.set(now)
}

// set makes the clock ring in time. It is not set anew for every piece: one that
// rings early is set again.
func (c *copier) set(now time.Time) {
	next := c.limit
	if next.IsZero() || !c.due.IsZero() && c.due.Before(next) {
		next = c.due
	}
	switch {
	case next.IsZero():
	case c.clock == nil:
		c.clock = time.AfterFunc(next.Sub(now), c.ring)
		c.rings = next
	case c.rings.IsZero() || next.Before(c.rings):
		c.clock.Reset(next.Sub(now))
		c.rings = next
	}
}

// ring lets go of what has been held back for a moment, and gives up a source
// that has been idle for too long.
func (c *copier) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.fault != nil {
		return
	}
	defer func() {
		if recover() != nil {
			c.fault = errPanic
		}
	}()
	now := time.Now()
	c.rings = time.Time{}
	switch {
	case !c.limit.IsZero() && !now.Before(c.limit):
		c.fault = ErrIdle
		c.src.Close() // ends the read
		return
	case !c.due.IsZero() && !now.Before(c.due) && !c.begun && now.Sub(c.src.asked()) < opening:
		c.due = now.Add(moment) // it is not the source that takes long
	case !c.due.IsZero() && !now.Before(c.due):
		c.due = time.Time{}
		if !c.begun {
			c.begun = true
			c.fault = c.sink.Pass(nil, false)
		}
		if c.fault == nil && c.stage.Waits() {
			c.fault = c.hand(c.stage.Release(), false)
		}
	}
	c.set(now)
}

var errPanic = errors.New("panic while a body was passed on")

// end stops the clock: nothing is handed on after it.
func (c *copier) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.clock != nil {
		c.clock.Stop()
	}
	c.stage.Free()
}

// counted counts what came, and knows since when more is waited for.
type counted struct {
	io.ReadCloser
	n     int64
	timed bool
	since atomic.Int64 // 0 while nothing is
}

func (c *counted) Read(p []byte) (int, error) {
	if c.timed {
		c.since.Store(time.Now().UnixNano())
		defer c.since.Store(0)
	}
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	return n, err
}

// asked is when the read under way began, or now.
func (c *counted) asked() time.Time {
	if since := c.since.Load(); since != 0 {
		return time.Unix(0, since)
	}
	return time.Now()
}

// kind is how the bytes of a body belong together.
type kind uint8

const (
	plain    kind = iota
	events        // server-sent events
	messages      // messages behind their length, as gRPC and Connect stream them
	fixed         // one message that counts its bytes within
)

func kindOf(contentType string) kind {
	media := mediaType(contentType)
	switch {
	case media == "text/event-stream":
		return events
	case strings.HasPrefix(media, "application/grpc-web-text"):
		return plain // base64 of the whole
	case strings.HasPrefix(media, "application/grpc"), strings.HasPrefix(media, "application/connect+"):
		return messages
	case media == "application/proto", media == "application/protobuf", media == "application/x-protobuf":
		return fixed
	}
	return plain
}

// Endless says whether bodies of this type may pause for as long as they like.
func Endless(contentType string) bool {
	k := kindOf(contentType)
	return k == events || k == messages
}

func mediaType(contentType string) string {
	media, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(media))
}
