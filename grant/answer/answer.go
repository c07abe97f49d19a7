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

// Sink takes what can go to the client. An empty piece before a Pause says that
// nothing has come for a while; the Last may be empty, and the only one.
type Sink interface {
	Pass(p []byte, then Then) error
}

// Then is what follows a piece.
type Then uint8

const (
	Pause Then = iota // nobody knows: what was passed must not wait for it
	More              // more, at once or soon: it can go out together with that
	Last              // nothing
)

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
	events bool
	encode *coding.Writer
	out    bytes.Buffer // what encode has written
	seen   Seen

	mu    sync.Mutex
	came  int  // bytes in the room that were not taken
	soon  bool // something waits for more to go out with
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
		c.events = kindOf(how.Type) == events
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
	c.mu.Lock()
	c.wait()
	c.mu.Unlock()
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
		err := c.fill(in, room)
		why := c.why(err)
		if errors.Is(why, ErrUnsafe) {
			return why // if it did not begin, it can be refused
		}
		if failed := c.pass(err == io.EOF); failed != nil {
			return failed
		}
		if err != nil {
			return why
		}
	}
}

// fill reads once, or, when the length is known, until the room is full or the
// body at its end: then the clock passes on what has come, if it takes long.
func (c *copier) fill(in io.Reader, room []byte) error {
	bulk := c.how.Length >= 0 && c.frames == nil
	for at := 0; ; {
		n, err := in.Read(room[at:])
		at += n
		more := bulk && err == nil && at < min(len(room), enough) || err == nil && c.src.n == c.how.Length && at < len(room)
		c.mu.Lock()
		c.came += n
		if more && n > 0 && c.src.n < c.how.Length && !c.soon {
			now := time.Now()
			c.soon, c.due = true, now.Add(soon)
			c.set(now)
		}
		c.mu.Unlock()
		if !more {
			return err
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

// pass hands on what is settled of what came.
func (c *copier) pass(last bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return c.fault
	}
	then := Pause
	switch {
	case last:
		then = Last
	case c.how.Length >= 0:
		then = More
	}
	err := c.take(then)
	if err == nil && !last && c.events && c.body.Waits() && c.body.Ended() {
		err = c.hand(c.stage.Release(), Pause)
	}
	if !last {
		c.wait()
	}
	return err
}

// take looks at what came.
func (c *copier) take(then Then) error {
	out := c.stage.Take(c.came, then == Last)
	c.came = 0
	if c.frames != nil && c.frames.err != nil {
		return errors.Join(ErrUnsafe, c.frames.err)
	}
	return c.hand(out, then)
}

// hand gives a piece to the client, in its coding.
func (c *copier) hand(p []byte, then Then) error {
	if c.tokens != nil {
		p = c.tokens.pass(p)
	}
	if len(p) == 0 && then != Last && !(then == Pause && c.soon) {
		return nil
	}
	if c.encode != nil {
		c.out.Reset()
		if err := c.encode.Put(p, then == Last); err != nil {
			return err
		}
		p = c.out.Bytes()
	}
	c.begun, c.soon = true, then == More
	return c.sink.Pass(p, then)
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
