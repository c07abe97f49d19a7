package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func standardMAC(key, message []byte) (sum [32]byte) {
	m := hmac.New(sha256.New, key)
	m.Write(message)
	m.Sum(sum[:0])
	return sum
}

// tell lists the paths of the entries that a filter selects.
func (h house) tell(t testing.TB, f Filter) string {
	t.Helper()
	var paths []string
	if err := Query(h.dir, f, func(e *Entry) error {
		if e.Type != typeStream && e.Type != typeSeal {
			paths = append(paths, strings.TrimPrefix(e.Path, "/"))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(paths, " ")
}

func TestAFilterSelectsExactlyWhatItSays(t *testing.T) {
	h := newHouse(t)
	c := &clock{}
	l := h.open(t, Config{Now: c.now})
	print := l.Fingerprint([]byte("the value"))
	curl, git := Process{PID: 7, Exe: "/usr/bin/curl"}, Process{PID: 8, Exe: "/usr/bin/git"}
	add := func(r *Record) {
		appendTo(t, l, r)
		c.jump(time.Minute)
	}
	start := c.now()
	add(&Record{Type: TypeSubstitute, Session: "s1", ID: "1", Path: "/a", Host: "one.test", Process: curl, Uses: []Use{{Secret: "github", Fingerprint: print}}})
	add(&Record{Type: TypeResult, Session: "s1", ID: "1", Path: "/a-result", Status: 200})
	add(&Record{Type: TypeSubstitute, Session: "s2", ID: "1", Path: "/b", Host: "two.test", Process: git, Uses: []Use{{Secret: "github-two", Fingerprint: "0"}}})
	add(&Record{Type: TypeResult, Session: "s2", ID: "1", Path: "/b-result", Status: 502, Code: "upstream_tls"})
	add(&Record{Type: TypeDeny, Session: "s1", Path: "/d", Host: "one.test", Code: "no_grant", Process: curl})
	add(&Record{Type: TypeOpen, Session: "s3", Path: "/o", Secrets: []string{"github"}, Command: "github"})
	add(&Record{Type: TypeDeny, Session: "github", Path: "/e", Host: "github", Reason: "github"})
	l.Close()
	for name, is := range map[string]struct {
		f    Filter
		want string
	}{
		"secret":                {Filter{Secret: "github"}, "a a-result o"},
		"secret, whole name":    {Filter{Secret: "git"}, ""},
		"session":               {Filter{Session: "s2"}, "b b-result"},
		"host":                  {Filter{Host: "one.test"}, "a a-result d"},
		"type":                  {Filter{Types: []string{TypeDeny, TypeOpen}}, "d o e"},
		"type and session":      {Filter{Types: []string{TypeDeny}, Session: "s1"}, "d"},
		"pid":                   {Filter{PID: 8}, "b b-result"},
		"name of an executable": {Filter{Exe: "curl"}, "a a-result d"},
		"path of an executable": {Filter{Exe: "/usr/bin/git"}, "b b-result"},
		"part of a name":        {Filter{Exe: "it"}, ""},
		"fingerprint":           {Filter{Fingerprint: print}, "a a-result"},
		"value, other secret":   {Filter{Fingerprint: print, Secret: "github-two"}, ""},
		"refused":               {Filter{Outcome: "refused"}, "d e"},
		"failed":                {Filter{Outcome: "failed"}, "b-result"},
		"ok":                    {Filter{Outcome: "ok"}, "a-result"},
		"code":                  {Filter{Outcome: "no_grant"}, "d"},
		"status":                {Filter{Outcome: "502"}, "b-result"},
		"time":                  {Filter{Since: start.Add(90 * time.Second), Until: start.Add(260 * time.Second)}, "b b-result d"},
		"secret and time":       {Filter{Secret: "github", Since: start.Add(time.Hour)}, ""},
		"with a result later":   {Filter{Secret: "github", Until: start.Add(30 * time.Second)}, "a a-result"},
	} {
		f := is.f
		f.Since, f.Until = f.Since.Truncate(time.Microsecond), f.Until.Truncate(time.Microsecond)
		got := h.tell(t, f)
		got = strings.Join(strings.Fields(strings.ReplaceAll(got, typeClockJump, "")), " ")
		if got != is.want {
			t.Errorf("%s: %q, want %q", name, got, is.want)
		}
	}
}

func TestParallelStreamsAreShownInTheOrderOfTime(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 2, Config{})
	a, b := h.open(t, Config{SegmentBytes: 1500}), h.open(t, Config{})
	for i := range 12 {
		l := a
		if i%3 == 0 {
			l = b
		}
		appendTo(t, l, &Record{Type: TypeMark, Path: fmt.Sprint("/", i)})
	}
	if got := h.tell(t, Filter{Outcome: ""}); !strings.HasSuffix(strings.Join(strings.Fields(got), " "), "0 1 2 3 4 5 6 7 8 9 10 11") {
		t.Errorf("order %s", got)
	}
}

func TestResumeGoesOnWhereItEnded(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{SegmentBytes: 3000})
	at, seen, next := Position{}, 0, 0
	follow := func() {
		t.Helper()
		if err := Resume(h.dir, Filter{}, at, func(e *Entry) error {
			if e.Type == TypeMark {
				if e.Path != fmt.Sprint("/", seen) {
					t.Errorf("%s, want /%d", e.Path, seen)
				}
				seen++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		for range 3 {
			appendTo(t, l, &Record{Type: TypeMark, Path: fmt.Sprint("/", next)})
			next++
		}
		follow()
		follow()
		if seen != next {
			t.Fatalf("%d of %d seen", seen, next)
		}
	}
}

func TestMalformedLinesArePassedOverAndCounted(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 3, Config{})
	path := h.files(t)[0]
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	write(t, path, bytes.Join([][]byte{lines[0], []byte("nonsense\n"), lines[1], []byte("\x1b[2J\n"), lines[3]}, nil))
	n := 0
	var malformed *MalformedError
	if err := Query(h.dir, Filter{}, func(*Entry) error { n++; return nil }); !errors.As(err, &malformed) || malformed.Lines != 2 || n != 3 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func TestJunkBehindAnExportIsFound(t *testing.T) {
	h, last := newLog(t)
	var out bytes.Buffer
	if err := Export(h.dir, "", time.Time{}, time.Time{}, &out); err != nil {
		t.Fatal(err)
	}
	o := VerifyOptions{RecoveryKey: h.recovery, VaultKey: h.keys.Vault, Anchors: []Anchor{last}}
	for junk, code := range map[string]int{"": Whole, "\n": Tampered, "junk": Tampered, "{}\n": Tampered, "\x00": Tampered} {
		r, err := VerifyExport(strings.NewReader(out.String()+junk), o)
		if err != nil || r.Code != code {
			t.Errorf("%q behind the end: %+v, %v", junk, r, err)
		}
	}
	if r, err := VerifyExport(strings.NewReader("junk\n"+out.String()), o); err == nil {
		t.Errorf("what is no export at all is judged: %+v", r)
	}
}

func TestAnExportVerifiesByItself(t *testing.T) {
	h := newHouse(t)
	c := &clock{}
	var ends []Anchor
	for range 2 {
		l := h.open(t, Config{Now: c.now, SegmentBytes: 2500})
		for i := range 10 {
			appendTo(t, l, substitution(i))
			c.jump(time.Second)
		}
		l.Close()
		ends = append(ends, l.Anchor())
	}
	var times []time.Time
	Query(h.dir, Filter{}, func(e *Entry) error { times = append(times, e.Time); return nil })
	check := func(name string, text []byte, recovery string) int {
		t.Helper()
		o := VerifyOptions{RecoveryKey: recovery}
		if recovery != "" {
			o.VaultKey = h.keys.Vault
		}
		r, err := VerifyExport(bytes.NewReader(text), o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return r.Code
	}
	for from := 0; from < len(times); from += 3 {
		for to := from + 1; to <= len(times); to += 5 {
			var until time.Time
			if to < len(times) {
				until = times[to]
			}
			if to < len(times) && !until.After(times[from]) {
				continue // the clock did not move between the two: nothing lies in between
			}
			var out bytes.Buffer
			if err := Export(h.dir, "", times[from], until, &out); err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("records %d to %d", from, to)
			if code := check(name, out.Bytes(), h.recovery); code != Unproven {
				t.Errorf("%s: code %d\n%s", name, code, out.Bytes())
			}
			if code := check(name, out.Bytes(), ""); code != OrderOnly {
				t.Errorf("%s without a key: code %d", name, code)
			}
		}
	}
	var out bytes.Buffer
	if err := Export(h.dir, "", time.Time{}, time.Time{}, &out); err != nil {
		t.Fatal(err)
	}
	verify := func(text []byte) (*Report, error) {
		return VerifyExport(bytes.NewReader(text), VerifyOptions{RecoveryKey: h.recovery, VaultKey: h.keys.Vault, Anchors: []Anchor{ends[1]}})
	}
	if r, err := verify(out.Bytes()); err != nil || r.Code != Whole || r.Unproven != 0 {
		t.Fatalf("an export of everything, with the newest anchor: %+v, %v", r, err)
	}
	for name, anchor := range map[string]Anchor{"the older": ends[0], "none": {}} {
		if r, err := VerifyExport(bytes.NewReader(out.Bytes()), VerifyOptions{RecoveryKey: h.recovery, Anchors: []Anchor{anchor}}); err != nil || r.Code != Unproven || r.Unproven == 0 {
			t.Errorf("with %s anchor: %+v, %v", name, r, err)
		}
	}
	// A whole stream that is left out does not hide behind an anchor of the other one.
	for _, id := range []string{ends[0].Stream, ends[1].Stream} {
		var one bytes.Buffer
		if err := Export(h.dir, id, time.Time{}, time.Time{}, &one); err != nil {
			t.Fatal(err)
		}
		if r, err := verify(one.Bytes()); err != nil || r.Code != Unproven {
			t.Errorf("stream %s alone: %+v, %v", id, r, err)
		}
		if r, err := verify(append(bytes.Clone(one.Bytes()), one.Bytes()...)); err == nil && r.Code != Tampered {
			t.Errorf("stream %s twice: %+v", id, r)
		}
	}
	lines := bytes.SplitAfter(out.Bytes(), []byte("\n"))
	found := 0
	for i := range lines[:len(lines)-1] {
		without := bytes.Join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...), nil)
		r, err := verify(without)
		if err == nil && r.Code == Whole {
			t.Errorf("without line %d: %s", i, lines[i])
		}
		found++
	}
	for at := 0; at < out.Len(); at += 1 + at%97 {
		changed := bytes.Clone(out.Bytes())
		changed[at] ^= 1
		r, err := verify(changed)
		if err == nil && r.Code == Whole {
			t.Errorf("byte %d changed: %q", at, changed[max(0, at-60):min(len(changed), at+60)])
		}
		found++
	}
	if found < 50 {
		t.Errorf("only %d changes were tried", found)
	}
}

func TestReceiptsAreReadStrictly(t *testing.T) {
	h := newHouse(t)
	a := h.fill(t, 1, Config{})
	good := fmt.Sprintf(`{"stream":%q,"seq":%d,"h":%q,"mac":%q}`, a.Stream, a.Seq, a.H, a.MAC)
	for text, want := range map[string]int{
		good: 1, `{"version":1,"anchor":` + good + `}`: 1, `{"anchors":[` + good + `,` + good + `]}`: 2,
		``: 0, `{}`: 0, `[]`: 0, `{"anchor":{"stream":"../../x","seq":1,"h":"00"}}`: 0, strings.Replace(good, a.H, "00", 1): 0,
	} {
		got, err := ParseReceipt([]byte(text))
		if len(got) != want || (err == nil) != (want > 0) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestAResultIsOkOnlyIfItIsThatOfAWholeExchange(t *testing.T) {
	for _, is := range []struct {
		r    Record
		want string
	}{
		{Record{Type: TypeResult, Method: "GET", Status: 200}, "ok"},
		{Record{Type: TypeResult, Method: "GET", Status: 404}, "ok"},
		{Record{Type: TypeResult, Method: "GET", Status: 200, Reason: "client aborted"}, "ok"},
		{Record{Type: TypeResult, Method: "GET", Status: 200, Reason: "upstream aborted"}, "failed"},
		{Record{Type: TypeResult, Method: "GET", Status: 101, Reason: "cut"}, "failed"},
		{Record{Type: TypeResult, Method: "GET", Status: 200, Code: "unsafe_response"}, "failed"},
		{Record{Type: TypeResult, Method: "GET", Status: 502}, "failed"},
		{Record{Type: TypeResult, Method: "GET", Reason: "client aborted"}, "failed"},
		{Record{Type: TypeResult, Method: "GET"}, "failed"},
		{Record{Type: TypeResult, Host: "passed.test", BytesIn: 7}, "ok"}, // of a connection that was passed through
		{Record{Type: TypeResult, Host: "passed.test", Reason: "upstream aborted"}, "failed"},
		{Record{Type: TypeResult, Host: "passed.test", Code: "session_closed"}, "failed"},
		{Record{Type: TypeMisplaced, Reason: "body"}, "passed"},
		{Record{Type: TypeMisplaced, Code: "placeholder_misplaced"}, "refused"},
	} {
		if got := (&Entry{Record: is.r}).Outcome(); got != is.want {
			t.Errorf("%+v is %q, want %q", is.r, got, is.want)
		}
	}
}
