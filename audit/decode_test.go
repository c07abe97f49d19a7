package audit

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// slowly decodes as the standard library does.
func slowly(text []byte) (e Entry, err error) {
	wire := struct {
		*Entry
		Mono     int64 `json:"mono"`
		Duration int64 `json:"duration_us"`
	}{Entry: &e}
	err = json.Unmarshal(text, &wire)
	e.Mono, e.Duration = time.Duration(wire.Mono)*time.Microsecond, time.Duration(wire.Duration)*time.Microsecond
	return e, err
}

func full() *Record {
	return &Record{Type: TypeResult, Session: "s", Profile: "p", Isolation: "tree", Process: Process{1, 2, "/x", 3, 4}, Host: "h", Port: 5, Scheme: "https",
		Method: "GET", Path: "/", Rule: "r", Uses: []Use{{"a", "1", "ff", "header X", 2}, {Secret: "b"}, {Secret: "c", Surface: "body"}}, ID: "i", Code: "c", Status: 200,
		BytesIn: 6, BytesOut: 7, Duration: time.Second, Command: "c", RulesHash: "h", Reason: "why", Secrets: []string{"a", "b"}, Variables: []string{"V"}, Count: 9}
}

// FuzzDecode: what the quick decoder reads is what the standard library reads.
func FuzzDecode(f *testing.F) {
	h := newHouse(f)
	l := h.open(f, Config{})
	odd := full()
	odd.Host, odd.Path, odd.Process.Exe = "b\u00fccher\u202e", "/a\"b\\c\n", ""
	for _, r := range []*Record{substitution(1), full(), odd, {Type: TypeMark}, {Type: TypeGrant, Secrets: []string{"x"}}} {
		if err := l.Note(r); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	quick := 0
	if err := Query(h.dir, Filter{}, func(e *Entry) error {
		var got Entry
		d := decoder{text: e.Line}
		if d.entry(&got) {
			quick++
		}
		f.Add(append([]byte(nil), e.Line...))
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	if quick < 5 {
		f.Fatalf("only %d lines are decoded quickly", quick)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got Entry
		d := decoder{text: text}
		if !d.entry(&got) {
			return
		}
		if want, err := slowly(text); err == nil && parsed(text) && !reflect.DeepEqual(got, want) {
			t.Errorf("%q\nquickly %+v\nslowly  %+v", text, got, want)
		}
	})
}

// parsed says whether the line is one that a log can hold.
func parsed(text []byte) bool {
	_, err := parseLine(text)
	return err == nil
}
