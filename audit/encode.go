package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxString = 4096    // bytes of a string that are kept
	maxItem   = 512     // bytes of a string in a list that are kept
	maxList   = 256     // entries of a list that are kept
	maxRecord = 1 << 20 // bytes of a record; a longer one is refused
	maxLine   = 4 << 20 // bytes of a line, for opening records that name many streams; the verifier reads no longer one
)

const timeLayout = "2006-01-02T15:04:05.000000Z" // fixed width: a reader finds the fields behind it at known places

// appendHead appends what every record begins with, in this order, after its seq.
func appendHead(b []byte, wall time.Time, mono time.Duration, kind string) []byte {
	b = append(b, `"time":"`...)
	wall = wall.UTC()
	if y := wall.Year(); y < 0 || y > 9999 {
		wall = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // a clock set there must not break the format
	}
	b = wall.AppendFormat(b, timeLayout)
	b = append(b, `","mono":`...)
	b = strconv.AppendInt(b, mono.Microseconds(), 10)
	return appendText(b, "type", kind)
}

// appendRecord appends the record without braces and without seq.
func appendRecord(b []byte, wall time.Time, mono time.Duration, r *Record) []byte {
	b = appendHead(b, wall, mono, r.Type)
	b = appendText(b, "session", r.Session)
	b = appendText(b, "profile", r.Profile)
	b = appendText(b, "isolation", r.Isolation)
	if r.Process != (Process{}) {
		b = appendProcess(b, &r.Process)
	}
	b = appendText(b, "host", r.Host)
	b = appendNumber(b, "port", int64(r.Port))
	b = appendText(b, "scheme", r.Scheme)
	b = appendText(b, "method", r.Method)
	b = appendText(b, "path", r.Path)
	b = appendText(b, "rule", r.Rule)
	b = appendUses(b, r.Uses)
	b = appendText(b, "id", r.ID)
	b = appendText(b, "code", r.Code)
	b = appendNumber(b, "status", int64(r.Status))
	b = appendNumber(b, "bytes_in", r.BytesIn)
	b = appendNumber(b, "bytes_out", r.BytesOut)
	b = appendNumber(b, "duration_us", r.Duration.Microseconds())
	b = appendText(b, "command", r.Command)
	b = appendText(b, "rules_hash", r.RulesHash)
	b = appendText(b, "reason", r.Reason)
	b = appendList(b, "secrets", r.Secrets)
	b = appendList(b, "variables", r.Variables)
	b = appendNumber(b, "count", int64(r.Count))
	b = appendText(b, "scrub", r.Scrub)
	b = appendNumber(b, "scrubbed", int64(r.Scrubbed))
	b = appendList(b, "credentials", r.Credentials)
	return appendList(b, "stripped", r.Stripped)
}

func appendProcess(b []byte, p *Process) []byte {
	b = append(b, `,"process":{"pid":`...)
	b = strconv.AppendInt(b, int64(p.PID), 10)
	b = append(b, `,"start":`...)
	b = strconv.AppendUint(b, p.Start, 10)
	b = append(b, `,"exe":`...)
	b = appendString(b, p.Exe, maxString)
	b = append(b, `,"uid":`...)
	b = strconv.AppendInt(b, int64(p.UID), 10)
	b = append(b, `,"depth":`...)
	b = strconv.AppendInt(b, int64(p.Depth), 10)
	return append(b, '}')
}

func appendUses(b []byte, uses []Use) []byte {
	if len(uses) == 0 {
		return b
	}
	b = append(b, `,"uses":[`...)
	for i := range uses {
		if i > 0 {
			b = append(b, ',')
		}
		u := &uses[i]
		b = append(b, `{"secret":`...)
		b = appendString(b, u.Secret, maxItem)
		if u.Version != "" {
			b = append(b, `,"version":`...)
			b = appendString(b, u.Version, maxItem)
		}
		if u.Fingerprint != "" {
			b = append(b, `,"fingerprint":`...)
			b = appendString(b, u.Fingerprint, maxItem)
		}
		if u.Surface != "" {
			b = append(b, `,"surface":`...)
			b = appendString(b, u.Surface, maxItem)
		}
		b = appendNumber(b, "count", int64(u.Count))
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendText(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(appendKey(b, key), value, maxString)
}

func appendNumber(b []byte, key string, value int64) []byte {
	if value == 0 {
		return b
	}
	return strconv.AppendInt(appendKey(b, key), value, 10)
}

func appendList(b []byte, key string, values []string) []byte {
	if len(values) == 0 {
		return b
	}
	b = append(appendKey(b, key), '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		if i == maxList {
			b = appendString(b, fmt.Sprintf("…(+%d more)", len(values)-i), maxItem)
			break
		}
		b = appendString(b, v, maxItem)
	}
	return append(b, ']')
}

func appendKey(b []byte, key string) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

// plain holds the bytes that stand for themselves. Everything else is escaped, so that a line is printable ASCII: no
// terminal, editor or grep is moved by what a client chose to send.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendString appends s as a JSON string, cut visibly where it is longer than limit bytes.
func appendString(b []byte, s string, limit int) []byte {
	cut := 0
	if len(s) > limit {
		cut = len(s) - limit
		for cut < len(s) && !utf8.RuneStart(s[len(s)-cut]) {
			cut++
		}
		s = s[:len(s)-cut]
	}
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		if plain[s[i]] {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		r, size := utf8.DecodeRuneInString(s[i:])
		b = appendEscaped(b, r)
		i += size
		from = i
	}
	b = append(b, s[from:]...)
	if cut > 0 {
		b = append(b, `\u2026(+`...)
		b = strconv.AppendInt(b, int64(cut), 10)
		b = append(b, ` bytes)`...)
	}
	return append(b, '"')
}

func appendEscaped(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r == '\n':
		return append(b, '\\', 'n')
	case r == '\t':
		return append(b, '\\', 't')
	case r > 0xffff:
		high, low := utf16.EncodeRune(r)
		return appendEscaped(appendEscaped(b, high), low)
	}
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// decode reads a line. What appendRecord makes, which is all but a few lines of a log, is read without reflection: a search
// through a long log does little else.
func decode(text []byte, e *Entry) error {
	*e = Entry{}
	d := decoder{text: text}
	if d.entry(e) {
		return nil
	}
	*e = Entry{}
	wire := struct {
		*Entry
		Mono     int64 `json:"mono"`
		Duration int64 `json:"duration_us"`
	}{Entry: e}
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	e.Mono, e.Duration = time.Duration(wire.Mono)*time.Microsecond, time.Duration(wire.Duration)*time.Microsecond
	return nil
}

// A decoder reads what appendRecord writes. At anything else it fails, and a general one is asked.
type decoder struct {
	text   []byte
	failed bool
}

// take removes what the text must begin with.
func (d *decoder) take(begin string) bool {
	if len(d.text) < len(begin) || string(d.text[:len(begin)]) != begin {
		return false
	}
	d.text = d.text[len(begin):]
	return true
}

func (d *decoder) must(begin string) {
	if !d.take(begin) {
		d.failed = true
	}
}

// string reads a string without escapes that is not empty.
func (d *decoder) string() string {
	d.must(`"`)
	end := bytes.IndexByte(d.text, '"')
	if d.failed || end < 1 || bytes.IndexByte(d.text[:end], '\\') >= 0 {
		d.failed = true
		return ""
	}
	s := string(d.text[:end])
	d.text = d.text[end+1:]
	return s
}

func (d *decoder) number() (n int64) {
	digits := 0
	for ; digits < len(d.text) && digits < 18 && d.text[digits] >= '0' && d.text[digits] <= '9'; digits++ {
		n = 10*n + int64(d.text[digits]-'0')
	}
	d.failed = d.failed || digits == 0 || digits == 18 || digits > 1 && d.text[0] == '0'
	d.text = d.text[digits:]
	return n
}

func (d *decoder) entry(e *Entry) bool {
	d.must(`{"seq":`)
	e.Seq = uint64(d.number())
	for !d.failed && d.take(`,"`) {
		end := bytes.IndexByte(d.text, '"')
		if end < 0 {
			return false
		}
		key := d.text[:end]
		d.text = d.text[end+1:]
		d.must(":")
		d.field(string(key), e)
	}
	d.must("}\n")
	return !d.failed && len(d.text) == 0
}

func (d *decoder) field(key string, e *Entry) {
	switch key {
	case "time":
		at, err := time.Parse(timeLayout, d.string())
		d.failed = d.failed || err != nil
		e.Time = at
	case "mono":
		e.Mono = time.Duration(d.number()) * time.Microsecond
	case "duration_us":
		e.Duration = time.Duration(d.number()) * time.Microsecond
	case "process":
		d.process(&e.Process)
	case "uses":
		d.uses(e)
	case "secrets":
		e.Secrets = d.list()
	case "variables":
		e.Variables = d.list()
	default:
		if at := e.stringField(key); at != nil {
			*at = d.string()
		} else {
			d.numberField(key, e)
		}
	}
}

func (e *Entry) stringField(key string) *string {
	for _, f := range [...]struct {
		key string
		at  *string
	}{
		{"type", &e.Type}, {"session", &e.Session}, {"profile", &e.Profile}, {"isolation", &e.Isolation}, {"host", &e.Host}, {"scheme", &e.Scheme},
		{"method", &e.Method}, {"path", &e.Path}, {"rule", &e.Rule}, {"id", &e.ID}, {"code", &e.Code}, {"command", &e.Command},
		{"rules_hash", &e.RulesHash}, {"reason", &e.Reason}, {"h", &e.H}, {"mac", &e.MAC},
	} {
		if f.key == key {
			return f.at
		}
	}
	return nil
}

func (d *decoder) numberField(key string, e *Entry) {
	n := d.number()
	switch key {
	case "port":
		e.Port = int(n)
	case "status":
		e.Status = int(n)
	case "bytes_in":
		e.BytesIn = n
	case "bytes_out":
		e.BytesOut = n
	case "count":
		e.Count = int(n)
	default:
		d.failed = true
	}
}

func (d *decoder) process(p *Process) {
	d.must(`{"pid":`)
	p.PID = int(d.number())
	d.must(`,"start":`)
	p.Start = uint64(d.number())
	d.must(`,"exe":`)
	if !d.take(`""`) {
		p.Exe = d.string()
	}
	d.must(`,"uid":`)
	p.UID = int(d.number())
	d.must(`,"depth":`)
	p.Depth = int(d.number())
	d.must(`}`)
}

func (d *decoder) uses(e *Entry) {
	e.Uses = nil
	for begin := `[{"secret":`; d.take(begin); begin = `,{"secret":` {
		u := Use{Secret: d.string()}
		for _, f := range []struct {
			key string
			at  *string
		}{{`,"version":`, &u.Version}, {`,"fingerprint":`, &u.Fingerprint}, {`,"surface":`, &u.Surface}} {
			if d.take(f.key) {
				*f.at = d.string()
			}
		}
		if d.take(`,"count":`) {
			u.Count = int(d.number())
		}
		d.must("}")
		e.Uses = append(e.Uses, u)
	}
	d.must("]")
}

func (d *decoder) list() (list []string) {
	d.must("[")
	for list = append(list, d.string()); d.take(","); {
		list = append(list, d.string())
	}
	d.must("]")
	return list
}
