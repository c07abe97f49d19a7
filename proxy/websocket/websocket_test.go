package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// plain passes all on.
type plain struct{ err error }

func (plain) Begin(Op) error                          { return nil }
func (p plain) Next(b []byte, _ bool) ([]byte, error) { return b, p.err }
func (plain) Control(b []byte) ([]byte, error)        { return b, nil }

// pair is a relay, and the far sides of its ends.
func pair(t *testing.T, up Payloads) (client, upstream net.Conn, ended <-chan error) {
	t.Helper()
	client, near := net.Pipe()
	far, upstream := net.Pipe()
	r := NewRelay(Config{
		Client: End{near, bufio.NewReader(near)}, Upstream: End{far, bufio.NewReader(far)},
		Up: up, Down: plain{}, Idle: time.Minute, Stall: time.Minute,
		Goodbye: func(error) (uint16, string) { return PolicyBroken, "because" },
	})
	done := make(chan error, 1)
	go func() { done <- r.Run(func() {}) }()
	return client, upstream, done
}

// framed is the bytes of a frame, masked as a client's when asked for.
func framed(first byte, payload string, masked bool) []byte {
	var b bytes.Buffer
	w := writer{conn: sink{&b}, mask: masked}
	w.write(first&0x80 != 0, Op(first&0x7f), []byte(payload))
	return b.Bytes()
}

type sink struct{ *bytes.Buffer }

func (sink) Close() error                     { return nil }
func (sink) LocalAddr() net.Addr              { return nil }
func (sink) RemoteAddr() net.Addr             { return nil }
func (sink) SetDeadline(time.Time) error      { return nil }
func (sink) SetReadDeadline(time.Time) error  { return nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }

func TestSilenceEndsAConnectionAndBothAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, upstream, ended := pair(t, plain{})
		began := time.Now()
		go client.Write(framed(0x81, "still here", true))
		if h, err := (&reader{in: upstream, client: true}).next(); err != nil || h.length != 10 {
			t.Fatal(h, err)
		}
		io.ReadFull(upstream, make([]byte, 10))
		told := make(chan []byte, 2)
		for _, end := range []net.Conn{client, upstream} {
			go func() {
				all, _ := io.ReadAll(end)
				told <- all
			}()
		}
		if err := <-ended; !errors.Is(err, ErrIdle) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+2*linger {
			t.Errorf("it took %v", took)
		}
		for range 2 {
			if all := <-told; len(all) < 4 || all[0] != 0x88 {
				t.Errorf("an end was told %x", all)
			}
		}
	})
}

func TestAGoodbyeIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, upstream, ended := pair(t, plain{})
		go io.Copy(io.Discard, upstream)
		go io.Copy(io.Discard, client)
		began := time.Now()
		client.Write(framed(0x88, "", true))
		if err := <-ended; !errors.Is(err, ErrNoGoodbye) || time.Since(began) > goodbyes+2*linger {
			t.Errorf("ended with %v after %v", err, time.Since(began))
		}
	})
}

// An end that does not read holds nobody: neither a refusal nor the other end.
func TestAnEndThatDoesNotReadIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, ended := pair(t, plain{})
		go io.Copy(io.Discard, client)
		began := time.Now()
		go client.Write(framed(0x82, strings.Repeat("x", 1000), true))
		if err := <-ended; !errors.Is(err, ErrUpstreamGone) && !errors.Is(err, ErrIdle) || time.Since(began) > time.Minute+4*linger {
			t.Errorf("ended with %v after %v", err, time.Since(began))
		}
	})
}

func TestAnErrorOfPayloadsIsToldToBothAndReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		client, upstream, ended := pair(t, plain{broken})
		told := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(upstream)
			told <- all
		}()
		go client.Write(framed(0x81, "x", true))
		got := make([]byte, 11)
		if _, err := io.ReadFull(client, got); err != nil || string(got) != "\x88\x09\x03\xf0because" {
			t.Errorf("the client was told %q, %v", got, err)
		}
		if all := <-told; len(all) != 8 || all[0] != 0x88 {
			t.Errorf("the upstream was told %x", all)
		}
		client.Close()
		if err := <-ended; err != broken {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestMasksAreTakenOffWhereverAPayloadIsCut(t *testing.T) {
	mask := [4]byte{1, 2, 3, 4}
	text := []byte(strings.Repeat("0123456789", 5))
	want := bytes.Clone(text)
	for i := range want {
		want[i] ^= mask[i%4]
	}
	for cut := range text {
		got := bytes.Clone(text)
		maskBytes(got[:cut], mask, 0)
		maskBytes(got[cut:], mask, cut%4)
		if !bytes.Equal(got, want) {
			t.Fatalf("cut at %d: %x", cut, got)
		}
	}
}

// The fragments of a text are UTF-8 if and only if the whole is.
func FuzzText(f *testing.F) {
	f.Add([]byte("a€𝄞"), uint8(1))
	f.Add([]byte("\xf0\x9d\x84\x9e\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80"), uint8(3))
	f.Add([]byte("\xe2\x82"), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var check text
		ok := true
		for rest, n := b, int(step%7)+1; ok && len(rest) > 0; rest = rest[min(n, len(rest)):] {
			ok = check.add(rest[:min(n, len(rest))])
		}
		if ok = ok && check.ends(); ok != utf8.Valid(b) {
			t.Fatalf("%x in steps of %d: %v", b, step%7+1, ok)
		}
	})
}

// Whatever an end sends, what leaves is a row of frames that a strict reader
// takes, with the same messages; and it ends.
func FuzzRelay(f *testing.F) {
	f.Add(append(framed(0x01, "he", true), framed(0x80, "llo", true)...))
	f.Add(append(framed(0x89, "ping", true), framed(0x82, strings.Repeat("x", 70_000), true)...))
	f.Add([]byte("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x05mask"))
	f.Add([]byte("\xc1\x80mask\x83\x80mask"))
	f.Add([]byte("\x88\x82\x00\x00\x00\x00\x03\xe8"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		d := direction{r: quiet(), to: &writer{conn: sink{&out}, mask: true}, payloads: plain{}, n: new(atomic.Int64),
			from: &reader{in: bytes.NewReader(b), client: true}}
		sent, err := messages(bytes.NewReader(b))
		d.drain()
		left, strict := messages(bytes.NewReader(out.Bytes()))
		if strict != io.EOF && strict != io.ErrUnexpectedEOF {
			t.Fatalf("%x became %x: %v", b, out.Bytes(), strict)
		}
		if len(left) > len(sent) {
			t.Fatalf("%x became %x: %q of %q", b, out.Bytes(), left, sent)
		}
		for i := range left {
			if left[i] != sent[i] {
				t.Fatalf("%x became %x: %q of %q (%v)", b, out.Bytes(), left, sent, err)
			}
		}
	})
}

// drain passes frames on until one is none.
func (d *direction) drain() {
	for {
		h, err := d.from.next()
		if err != nil {
			return
		}
		if h.op.control() {
			err = d.control(h)
		} else {
			err = d.data(h)
		}
		if err != nil {
			return
		}
	}
}

// messages reads whole messages, of a client, by the length of their frames.
func messages(in io.Reader) (all []string, err error) {
	r := &reader{in: in, client: true}
	var under strings.Builder
	for {
		h, err := r.next()
		if err != nil {
			return all, err
		}
		if h.length > 1<<20 {
			return all, io.ErrUnexpectedEOF
		}
		b := make([]byte, h.length)
		if err := r.payload(h, b, 0); err != nil {
			return all, err
		}
		if h.op.control() {
			all = append(all, string(rune(h.op))+string(b))
			continue
		}
		if under.Write(b); h.fin {
			all = append(all, under.String())
			under.Reset()
		}
	}
}

func BenchmarkMask(b *testing.B) {
	text := make([]byte, window)
	b.SetBytes(window)
	for b.Loop() {
		maskBytes(text, [4]byte{1, 2, 3, 4}, 0)
	}
}

// quiet is a relay of which only one direction is looked at.
func quiet() *Relay {
	r := NewRelay(Config{Idle: time.Hour, Stall: time.Hour})
	r.idle = time.AfterFunc(time.Hour, func() {})
	r.idle.Stop()
	return r
}
