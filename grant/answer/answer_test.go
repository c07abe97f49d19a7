package answer

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"standin/grant/coding"
	"standin/grant/scrub"
)

const (
	value       = "ghp_REALrealREALreal0123456789"
	placeholder = "ghp_zstandin_abcdefghijklmnopqrstuvwxyz"
)

var scrubber = scrub.New([]scrub.Value{{Text: value, Placeholder: placeholder}})

var codings = []string{"", "gzip", "deflate", "br", "zstd"}

// client is what the answer arrives at, piece by piece.
type client struct {
	pieces []string
	ended  bool
	came   chan string // nil, or where each piece goes
}

func (c *client) Pass(p []byte, then Then) error {
	c.pieces = append(c.pieces, string(p))
	c.ended = then == Last
	if c.came != nil {
		c.came <- string(p)
	}
	return nil
}

func (c *client) text() string { return strings.Join(c.pieces, "") }

// coded is text in a coding.
func coded(t testing.TB, name, text string) string {
	t.Helper()
	if name == "" {
		return text
	}
	e, err := coding.Encode(name, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func decoded(t testing.TB, name, text string) string {
	t.Helper()
	if name == "" || text == "" {
		return text
	}
	d, err := coding.Decode(name, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := io.ReadAll(d)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(b)
}

func copied(t testing.TB, src io.Reader, how How) (*client, Seen, error) {
	t.Helper()
	c := &client{}
	how.Scrubber = scrubber
	seen, err := Copy(c, io.NopCloser(src), how)
	return c, seen, err
}

func TestABodyIsScrubbedInEveryCodingHoweverItIsCut(t *testing.T) {
	text := strings.Repeat("before "+value+" after ", 1000) + value[:20]
	want := strings.ReplaceAll(text, value, placeholder)
	for _, name := range codings {
		in := coded(t, name, text)
		for what, cut := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
		} {
			c, seen, err := copied(t, cut(strings.NewReader(in)), How{Coding: name, Length: -1})
			if err != nil || !c.ended || decoded(t, name, c.text()) != want {
				t.Errorf("%q, %s: %d bytes, %v", name, what, len(c.text()), err)
			}
			if seen.Received != int64(len(in)) || seen.Scrubbed != 1000 {
				t.Errorf("%q, %s: %+v", name, what, seen)
			}
		}
	}
}

func TestASmallBodyOfKnownLengthGoesOutInOnePiece(t *testing.T) {
	for _, name := range codings {
		in := coded(t, name, "<"+value+">")
		c, _, err := copied(t, strings.NewReader(in), How{Coding: name, Length: int64(len(in))})
		if err != nil || len(c.pieces) != 1 || !c.ended || decoded(t, name, c.text()) != "<"+placeholder+">" {
			t.Errorf("%q: %q, %v", name, c.pieces, err)
		}
		in = coded(t, name, "")
		if name == "gzip" {
			in = string(rawGzip)
		}
		c, _, err = copied(t, strings.NewReader(in), How{Coding: name, Length: int64(len(in))})
		if err != nil || len(c.pieces) != 1 || (c.text() == "") != (in == "") || decoded(t, name, c.text()) != "" {
			t.Errorf("%q, nothing in its coding: %q, %v", name, c.pieces, err)
		}
		c, _, err = copied(t, strings.NewReader(""), How{Coding: name, Length: 0})
		if err != nil || len(c.pieces) != 1 || !c.ended || c.text() != "" {
			t.Errorf("%q, empty: %q, %v", name, c.pieces, err)
		}
	}
}

func TestWhatIsNotInItsCodingIsRefusedBeforeItBegins(t *testing.T) {
	for _, name := range codings[1:] {
		good := coded(t, name, "hello, world")
		for what, in := range map[string]string{"text": "{\"a\": \"no coding at all, whatever it says\"}", "another": coded(t, codings[1+slices.Index(codings, name)%4], "hello"), "cut": good[:len(good)-3]} {
			c, _, err := copied(t, strings.NewReader(in), How{Coding: name, Length: int64(len(in))})
			if !errors.Is(err, ErrUnsafe) || len(c.pieces) > 0 {
				t.Errorf("%s, %s: %q, %v", name, what, c.pieces, err)
			}
		}
	}
}

// rawGzip is nothing, in gzip.
var rawGzip = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}

func TestBombsAreRefusedBeforeTheyBeginAndLateOnesAreCut(t *testing.T) {
	random := make([]byte, 40_000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	noise := base64.StdEncoding.EncodeToString(random)
	zeros := string(make([]byte, 2<<20))
	for _, name := range []string{"gzip", "zstd"} { // whose bodies may follow one another
		member := coded(t, name, zeros)
		bomb := strings.Repeat(member, 50)
		c, _, err := copied(t, strings.NewReader(bomb), How{Coding: name, Length: -1})
		if !errors.Is(err, coding.ErrTooLarge) || len(c.pieces) > 0 {
			t.Errorf("%s: %d pieces, %v", name, len(c.pieces), err)
		}
		count := &counter{}
		late := io.NopCloser(strings.NewReader(coded(t, name, noise) + bomb))
		if _, err := Copy(count, late, How{Scrubber: scrubber, Coding: name, Length: -1}); !errors.Is(err, ErrUnsafe) || count.ended || count.n == 0 {
			t.Errorf("%s, late: %d bytes, %v", name, count.n, err)
		}
	}
	for _, name := range codings[1:] {
		c, _, err := copied(t, strings.NewReader(coded(t, name, zeros)), How{Coding: name, Length: -1})
		if err != nil || decoded(t, name, c.text()) != zeros {
			t.Errorf("%s: an honest body of little: %v", name, err)
		}
	}
}

// counter is a client that forgets.
type counter struct {
	n     int
	ended bool
}

func (c *counter) Pass(p []byte, then Then) error {
	c.n += len(p)
	c.ended = then == Last
	return nil
}

func TestEachEventArrivesBeforeTheNextIsSent(t *testing.T) {
	events := []string{"data: one\n\n", "data: " + value + "\n\n", "data: " + value[:29] + "\n\n", ": ping\r\n\r\n", "data: x\n\n"}
	for _, name := range codings {
		synctest.Test(t, func(t *testing.T) {
			in, out := io.Pipe()
			var src io.ReadCloser = in
			if name != "" {
				e, _ := coding.Encode(name, in)
				src = io.NopCloser(e)
			}
			c := &client{came: make(chan string, 10)}
			done := make(chan error, 1)
			go func() {
				_, err := Copy(c, src, How{Scrubber: scrubber, Coding: name, Length: -1, Type: "text/event-stream; charset=utf-8"})
				done <- err
			}()
			began := time.Now()
			for i, event := range events {
				io.WriteString(out, event)
				synctest.Wait()
				if len(c.came) != i+1 {
					t.Fatalf("%q: event %d waits for the next", name, i)
				}
			}
			if time.Since(began) != 0 {
				t.Errorf("%q: events waited for %v", name, time.Since(began))
			}
			out.Close()
			if err := <-done; err != nil || decoded(t, name, c.text()) != strings.ReplaceAll(strings.Join(events, ""), value, placeholder) {
				t.Errorf("%q: %q, %v", name, c.text(), err)
			}
		})
	}
}

func TestWhatIsHeldBackIsLetGoAfterAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		c := &client{came: make(chan string, 10)}
		done := make(chan error, 1)
		go func() {
			_, err := Copy(c, in, How{Scrubber: scrubber, Length: -1})
			done <- err
		}()
		io.WriteString(out, "so long "+value[:3])
		synctest.Wait()
		if got := <-c.came; got != "so long " {
			t.Errorf("first came %q", got)
		}
		began := time.Now()
		if got := <-c.came; got != value[:3] || time.Since(began) != moment {
			t.Errorf("after %v came %q", time.Since(began), got)
		}
		io.WriteString(out, value[3:20])
		began = time.Now()
		if got := <-c.came; got != value[3:20] || time.Since(began) != longMoment {
			t.Errorf("after %v came %q", time.Since(began), got)
		}
		time.Sleep(time.Hour)
		io.WriteString(out, value[20:]+" and "+value)
		out.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := c.text(); got != "so long "+value[:20]+"xxxxxxxxxx and "+placeholder {
			t.Errorf("%q", got)
		}
	})
}

func TestABodyOfKnownLengthGoesOnInLargePiecesAndIsNotKept(t *testing.T) {
	for _, name := range codings {
		synctest.Test(t, func(t *testing.T) {
			in, out := io.Pipe()
			c := &client{came: make(chan string, 100)}
			first, rest := value[:5], strings.Repeat(value+" ", 20000)
			body := coded(t, name, first+rest)
			cut := 5
			if name != "" {
				cut = len(body) / 2
			}
			done := make(chan error, 1)
			go func() {
				_, err := Copy(c, in, How{Scrubber: scrubber, Coding: name, Length: int64(len(body))})
				done <- err
			}()
			began := time.Now()
			io.WriteString(out, body[:cut])
			synctest.Wait()
			time.Sleep(2 * moment)
			synctest.Wait()
			if name == "" && len(c.pieces) == 0 { // half of a coded body may be no text yet
				t.Errorf("%q: nothing came after %v", name, time.Since(began))
			}
			for rest := body[cut:]; len(rest) > 0; {
				n := min(len(rest), 1000)
				io.WriteString(out, rest[:n])
				rest = rest[n:]
			}
			out.Close()
			if err := <-done; err != nil || !c.ended || !strings.HasSuffix(decoded(t, name, c.text()), strings.Repeat(placeholder+" ", 19990)) {
				t.Errorf("%q: %v", name, err)
			}
			if name == "" && len(c.pieces) > 40 {
				t.Errorf("%d pieces", len(c.pieces))
			}
		})
	}
}

// A stream in a coding begins without its first byte, but waits for it longer.
func TestTheAnswerBeginsWhenNothingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		c := &client{came: make(chan string, 10)}
		done := make(chan error, 1)
		go func() {
			_, err := Copy(c, in, How{Scrubber: scrubber, Coding: "gzip", Length: -1})
			done <- err
		}()
		began := time.Now()
		if got := <-c.came; got != "" || time.Since(began) < opening || time.Since(began) > opening+moment {
			t.Errorf("%q after %v", got, time.Since(began))
		}
		io.WriteString(out, "this is no gzip")
		if err := <-done; !errors.Is(err, ErrUnsafe) {
			t.Error(err)
		}
	})
}

func TestASourceThatSaysNothingForTooLongIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		began := time.Now()
		go func() {
			for range 10 {
				io.WriteString(out, "x")
				time.Sleep(59 * time.Second)
			}
		}()
		c := &client{}
		_, err := Copy(c, in, How{Scrubber: scrubber, Length: -1, Idle: time.Minute})
		if err != ErrIdle || c.text() != strings.Repeat("x", 10) || time.Since(began) != 9*59*time.Second+time.Minute {
			t.Errorf("%q, %v after %v", c.text(), err, time.Since(began))
		}
	})
	if Endless("text/html") || !Endless("text/event-stream") || !Endless("application/grpc+proto") {
		t.Error("the types of endless bodies")
	}
}

func TestAnErrorOfTheSourceIsPassedOnAndTheBodyHasNoEnd(t *testing.T) {
	broken := errors.New("broken")
	for _, name := range codings {
		in := coded(t, name, strings.Repeat(value, 100))
		src := io.MultiReader(strings.NewReader(in[:len(in)-1]), iotest.ErrReader(broken))
		c, _, err := copied(t, src, How{Coding: name, Length: int64(len(in))})
		if err != broken || c.ended {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// framed is messages behind their length.
func framed(flags byte, messages ...string) string {
	var b []byte
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint32(append(b, flags), uint32(len(m))), m...)
	}
	return string(b)
}

// proto is one field of Protocol Buffers with a text, or a message, in it.
func proto(number int, text string) string {
	b := binary.AppendUvarint(nil, uint64(number)<<3|2)
	return string(append(binary.AppendUvarint(b, uint64(len(text))), text...))
}

func TestMessagesHaveTheirLengthsMadeRight(t *testing.T) {
	long := strings.Repeat("text ", 40)
	of := func(v string) []string {
		return []string{
			"raw " + v, "", "nothing here",
			proto(1, "Bearer "+v) + "\x10\x07",
			proto(3, proto(1, long+v)+proto(2, v+v)) + proto(4, long),
			"\x08\x96\x01" + proto(200, proto(2, proto(1, `{"token":"`+v+`"}`))) + "\x15abcd\x19abcdefgh",
		}
	}
	for _, cut := range []func(io.Reader) io.Reader{iotest.OneByteReader, func(r io.Reader) io.Reader { return r }} {
		c, seen, err := copied(t, cut(strings.NewReader(framed(0, of(value)...))), How{Length: -1, Type: "application/grpc"})
		if want := framed(0, of(placeholder)...); err != nil || c.text() != want || seen.Scrubbed == 0 {
			t.Errorf("%q, %v; want %q", c.text(), err, want)
		}
	}
	// A message that is compressed by itself.
	for _, name := range codings[1:] {
		in := framed(1, coded(t, name, proto(1, value)))
		c, _, err := copied(t, strings.NewReader(in), How{Length: -1, Type: "application/grpc+proto", Messages: name})
		if err != nil || c.text()[0] != 1 || decoded(t, name, c.text()[5:]) != proto(1, placeholder) {
			t.Errorf("%s: %q, %v", name, c.text(), err)
		}
	}
	for what, how := range map[string]How{"unknown": {Messages: ""}, "another": {Messages: "gzip"}} {
		how.Length, how.Type = -1, "application/grpc"
		c, _, err := copied(t, strings.NewReader(framed(1, coded(t, "zstd", value))), how)
		if !errors.Is(err, ErrUnsafe) || c.text() != "" {
			t.Errorf("%s: %q, %v", what, c.text(), err)
		}
	}
}

func TestNoMessageWaitsForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		c := &client{came: make(chan string, 10)}
		go Copy(c, in, How{Scrubber: scrubber, Length: -1, Type: "application/grpc"})
		for i, m := range []string{"one", value, value[:29], "g", ""} {
			io.WriteString(out, framed(0, m))
			synctest.Wait()
			if want := framed(0, strings.ReplaceAll(m, value, placeholder)); len(c.came) != 1 || c.pieces[i] != want {
				t.Fatalf("message %d: %q", i, c.pieces)
			}
			<-c.came
		}
		out.Close()
	})
}

// What is too large to be held, or no message, is scrubbed at equal length.
func TestLargeAndBrokenMessagesAreScrubbedAtEqualLength(t *testing.T) {
	filler := strings.Repeat("0123456789abcdef", maxMessage/16)
	mark := strings.Repeat("x", len(value))
	for what, in := range map[string]string{
		"large":     framed(0, filler+value+filler, value) + "",
		"no frames": "\xff" + filler + value + "text",
		"cut":       framed(0, value+filler[:100])[:60],
		"short":     "\x00\x00",
		"no length": "\x00" + value + filler[:100],
		"a length":  "\x00\x00\x00\x00" + value + filler[:300],
	} {
		c, _, err := copied(t, strings.NewReader(in), How{Length: -1, Type: "application/grpc"})
		want := strings.ReplaceAll(in, value, mark)
		if what == "large" {
			want = framed(0, filler+mark+filler, placeholder)
		}
		if err != nil || c.text() != want {
			t.Errorf("%s: %d bytes, want %d; %v", what, len(c.text()), len(want), err)
		}
	}
	in := proto(1, value)
	c, _, err := copied(t, strings.NewReader(in), How{Length: int64(len(in)), Type: "application/proto"})
	if err != nil || c.text() != proto(1, mark) {
		t.Errorf("one message: %q, %v", c.text(), err)
	}
}

// A host that echoes puts the edges of messages where it is told to.
func TestAnEdgeOfAMessageInAValueHidesNothing(t *testing.T) {
	filler := strings.Repeat("0123456789abcdef", maxMessage/16+1)
	for cut := 1; cut < len(value); cut++ {
		rest := strings.Repeat("x", len(value)-cut)
		for what, before := range map[string]string{
			"small": framed(0, "one", value[:cut]),
			"last":  framed(2, value[:cut]),
			"large": framed(0, filler+value[:cut]),
		} {
			if what == "large" && cut%9 != 1 {
				continue
			}
			c, _, err := copied(t, &pieces{before + value[cut:] + "end", 4000}, How{Length: -1, Type: "application/grpc"})
			if want := before + rest + "end"; err != nil || c.text() != want {
				t.Fatalf("%s, %d bytes before the edge: %d bytes, want %d; %v", what, cut, len(c.text()), len(want), err)
			}
		}
		// Beyond the end of ASCII a value can hold what reads as the head of a message.
		wide := value[:cut] + "\x80\x00\x00\x00\x01" + value[cut:]
		c := &client{}
		how := How{Scrubber: scrub.New([]scrub.Value{{Text: wide, Placeholder: placeholder}}), Length: -1, Type: "application/grpc"}
		in := framed(0, wide[:cut]) + wide[cut:]
		_, err := Copy(c, io.NopCloser(strings.NewReader(in)), how)
		if err != nil || strings.Contains(c.text(), wide) || len(c.text()) != len(in) {
			t.Fatalf("%q, %v", c.text(), err)
		}
	}
	// What stands beside a text that is compressed.
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Name = value
	io.WriteString(w, "text")
	w.Close()
	c, _, err := copied(t, strings.NewReader(framed(1, zipped.String())), How{Length: -1, Type: "application/grpc", Messages: "gzip"})
	if err != nil || strings.Contains(c.text(), value) || decoded(t, "gzip", c.text()[5:]) != "text" {
		t.Errorf("%q, %v", c.text(), err)
	}
}

func TestNewCredentialsAreFoundAndStrippedHoweverTheyAreCut(t *testing.T) {
	for _, c := range []struct{ kind, in, want, names string }{
		{"application/json", `{"access_token": "abc\"d\\", "token_type":"Bearer","refresh_token":"x","id_token" :` + "\n" + `"y.z" }`,
			`{"access_token": "", "token_type":"Bearer","refresh_token":"","id_token" :` + "\n" + `"" }`, "access_token refresh_token id_token"},
		{"application/json", `{"a":"\"access_token\":\"kept\"","b":"access_token","access_token":null,"my_access_token":"kept"}`,
			`{"a":"\"access_token\":\"kept\"","b":"access_token","access_token":null,"my_access_token":"kept"}`, ""},
		{"text/event-stream", "data: {\"access_token\":\"abc\"}\n\n", "data: {\"access_token\":\"\"}\n\n", "access_token"},
		{"application/x-www-form-urlencoded", "access_token=abc&scope=repo&refresh_token=&id_token=d", "access_token=&scope=repo&refresh_token=&id_token=", "access_token id_token"},
		{"application/x-www-form-urlencoded", "my_access_token=kept&x=access_token", "my_access_token=kept&x=access_token", ""},
	} {
		for size := 1; size <= len(c.in)+1; size++ {
			for _, strip := range []bool{true, false} {
				got, seen, err := copied(t, &pieces{c.in, size}, How{Length: -1, Type: c.kind, Strip: strip})
				want := c.in
				if strip {
					want = c.want
				}
				if err != nil || got.text() != want || strings.Join(seen.Tokens, " ") != c.names {
					t.Fatalf("in pieces of %d, strip %t: %q, %q, %v", size, strip, got.text(), seen.Tokens, err)
				}
			}
		}
	}
}

// pieces gives text in pieces of one size.
type pieces struct {
	text string
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := copy(b[:min(p.size, len(b))], p.text)
	p.text = p.text[n:]
	return n, nil
}

// What is not looked into stays as it is, whatever it says about itself.
func TestABodyThatIsNotLookedIntoStaysAsItIs(t *testing.T) {
	for _, how := range []How{{Length: -1, Coding: "gzip"}, {Length: -1, Type: "application/grpc"}} {
		c := &client{}
		in := "\x01\x02 no coding, no frames; " + value
		if _, err := Copy(c, io.NopCloser(strings.NewReader(in)), how); err != nil || c.text() != in || !c.ended {
			t.Errorf("%q, %v", c.text(), err)
		}
	}
}

// In every kind of body, and however it is cut, no value comes out, the cut
// changes nothing, and there is an end.
func FuzzCopy(f *testing.F) {
	for i := range uint8(5) {
		f.Add([]byte("x"+value+"y"+value[:9]), i, uint8(3))
		f.Add([]byte(framed(0, value, proto(1, value))), i, uint8(1))
		f.Add([]byte("\x00"+value), i, uint8(1))
		f.Add([]byte("\x00\x00\x00\x00"+value+strings.Repeat("x", 200)), i, uint8(5))
		f.Add([]byte(framed(0, value[:7])+value[7:]), i, uint8(9))
		f.Add([]byte(`{"access_token":"`+value+`"}`), i, uint8(7))
	}
	kinds := []string{"", "text/event-stream", "application/grpc", "application/proto", "application/x-www-form-urlencoded"}
	f.Fuzz(func(t *testing.T, text []byte, kind, size uint8) {
		how := How{Length: -1, Type: kinds[int(kind)%len(kinds)], Strip: kind&128 != 0}
		whole, _, err := copied(t, bytes.NewReader(text), how)
		cut, _, cutErr := copied(t, &pieces{string(text), int(size)%40 + 1}, how)
		if (err == nil) != (cutErr == nil) || err == nil && (whole.text() != cut.text() || !whole.ended || !cut.ended) {
			t.Fatalf("whole %q, %v; cut %q, %v", whole.text(), err, cut.text(), cutErr)
		}
		if strings.Contains(whole.text(), value) {
			t.Fatalf("the value remains in %q", whole.text())
		}
	})
}
