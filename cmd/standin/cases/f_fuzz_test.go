//go:build linux

package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tampered is a log as somebody left it: its files by name.
type tampered map[string][]byte

// A hand changes the log at random places. It says what it did.
type hand struct {
	*rand.Rand
	log   tampered
	older []tampered // the log as it was before each further stream
}

func (h *hand) name() string { return pick(h.Rand, slices.Sorted(maps.Keys(h.log))) }

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// line picks a line of a file, and says where it begins and ends.
func (h *hand) line(text []byte) (from, to int) {
	at := h.IntN(len(text))
	from = bytes.LastIndexByte(text[:at], '\n') + 1
	if to = bytes.IndexByte(text[at:], '\n'); to < 0 {
		return from, len(text)
	}
	return from, at + to + 1
}

func splice(text []byte, from, to int, put ...[]byte) []byte {
	return slices.Concat(append([][]byte{text[:from]}, append(put, text[to:])...)...)
}

var fileName = regexp.MustCompile(`^(\d+)-([a-z2-7]{8})-(\d+)\.jsonl$`)

// hands are the ways to lay hands on a log.
var hands = map[string]func(h *hand, name string, text []byte) string{
	"flip": func(h *hand, name string, text []byte) string {
		at, bit := h.IntN(len(text)), byte(1)<<h.IntN(8)
		h.log[name] = splice(text, at, at+1, []byte{text[at] ^ bit})
		return fmt.Sprintf("bit %#x of byte %d", bit, at)
	},
	"cut": func(h *hand, name string, text []byte) string {
		at := h.IntN(len(text))
		h.log[name] = text[:at]
		return fmt.Sprint("at byte ", at)
	},
	"cut lines": func(h *hand, name string, text []byte) string {
		from, _ := h.line(text)
		h.log[name] = text[:from]
		return fmt.Sprint("at line that begins with byte ", from)
	},
	"cut the last line": func(h *hand, name string, text []byte) string {
		from := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
		h.log[name] = text[:from]
		return ""
	},
	"insert": func(h *hand, name string, text []byte) string {
		at, put := h.IntN(len(text)+1), pick(h.Rand, []string{"x", "\n", " ", "\x00", "\r\n", "}", `"`, "{}\n", strings.Repeat("\x00", 4096), "\xff\xfe", ",\"h\":\""})
		h.log[name] = splice(text, at, at, []byte(put))
		return fmt.Sprintf("%.10q at byte %d", put, at)
	},
	"append": func(h *hand, name string, text []byte) string {
		from, to := h.line(text)
		put := pick(h.Rand, [][]byte{[]byte("x"), []byte("\n"), []byte("{\"seq\":"), text[from:to], text[from : to-1], []byte("\x00"), make([]byte, 5000)})
		h.log[name] = splice(text, len(text), len(text), put)
		return fmt.Sprintf("%.20q", put)
	},
	"delete bytes": func(h *hand, name string, text []byte) string {
		from := h.IntN(len(text))
		to := from + 1 + h.IntN(min(200, len(text)-from))
		h.log[name] = splice(text, from, to)
		return fmt.Sprintf("%d to %d", from, to)
	},
	"delete a line": func(h *hand, name string, text []byte) string {
		from, to := h.line(text)
		h.log[name] = splice(text, from, to)
		return fmt.Sprint("at byte ", from)
	},
	"double a line": func(h *hand, name string, text []byte) string {
		from, to := h.line(text)
		h.log[name] = splice(text, to, to, text[from:to])
		return fmt.Sprint("at byte ", from)
	},
	"swap lines": func(h *hand, name string, text []byte) string {
		from, to := h.line(text)
		end := to + bytes.IndexByte(text[to:], '\n') + 1
		h.log[name] = splice(text, from, end, text[to:end], text[from:to])
		return fmt.Sprint("at byte ", from)
	},
	"a line of another file": func(h *hand, name string, text []byte) string {
		from, to := h.line(text)
		other := h.log[h.name()]
		a, b := h.line(other)
		h.log[name] = splice(text, from, to, other[a:b])
		return fmt.Sprintf("at byte %d", from)
	},
	"remove": func(h *hand, name string, _ []byte) string {
		delete(h.log, name)
		return ""
	},
	"remove a stream": func(h *hand, name string, _ []byte) string {
		id := name[:strings.LastIndexByte(name, '-')]
		maps.DeleteFunc(h.log, func(n string, _ []byte) bool { return strings.HasPrefix(n, id) })
		return ""
	},
	"empty": func(h *hand, name string, _ []byte) string {
		h.log[name] = nil
		return ""
	},
	"rename": func(h *hand, name string, text []byte) string {
		m := fileName.FindStringSubmatch(name)
		number, _ := strconv.Atoi(m[1])
		segment, _ := strconv.Atoi(m[3])
		to := pick(h.Rand, []string{
			fmt.Sprintf("%06d-%s-%06d.jsonl", number+1, m[2], segment), fmt.Sprintf("%06d-%s-%06d.jsonl", number+7, m[2], segment),
			fmt.Sprintf("%06d-%s-%06d.jsonl", number, m[2], segment+1), fmt.Sprintf("%06d-%s-%06d.jsonl", number, "aaaaaaaa", segment),
			name + ".bak", strings.ToUpper(name), "0" + name,
		})
		delete(h.log, name)
		h.log[to] = text
		return "to " + to
	},
	"copy": func(h *hand, name string, text []byte) string {
		m := fileName.FindStringSubmatch(name)
		number, _ := strconv.Atoi(m[1])
		segment, _ := strconv.Atoi(m[3])
		to := pick(h.Rand, []string{fmt.Sprintf("%06d-%s-%06d.jsonl", number, m[2], segment+1), fmt.Sprintf("%06d-%s-%06d.jsonl", number+9, m[2], 1),
			fmt.Sprintf("%06d-%s-%06d.jsonl", number, "bbbbbbbb", 1)})
		if _, there := h.log[to]; there {
			to = fmt.Sprintf("%06d-%s-%06d.jsonl", number, m[2], segment+5)
		}
		h.log[to] = text
		return "to " + to
	},
	"exchange files": func(h *hand, name string, text []byte) string {
		other := h.name()
		h.log[name], h.log[other] = h.log[other], text
		return "with " + other
	},
	"bring back": func(h *hand, _ string, _ []byte) string {
		n := h.IntN(len(h.older))
		h.log = maps.Clone(h.older[n])
		return fmt.Sprint("state ", n)
	},
	"bring a file back": func(h *hand, _ string, _ []byte) string {
		n := h.IntN(len(h.older))
		name := pick(h.Rand, slices.Sorted(maps.Keys(h.older[n])))
		h.log[name] = h.older[n][name]
		return fmt.Sprintf("%s of state %d", name, n)
	},
}

func (c *Case) readLog() tampered {
	c.Helper()
	log := tampered{}
	for _, path := range c.segments() {
		log[filepath.Base(path)] = c.bytesOf(path)
	}
	return log
}

// streamsOf joins the segments of each stream.
func (t tampered) streamsOf() map[string][]byte {
	whole := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if m := fileName.FindStringSubmatch(name); m != nil {
			id := m[1] + "-" + m[2]
			whole[id] = append(whole[id], t[name]...)
		}
	}
	return whole
}

// tamperGround makes a log of four streams, one of them cut short by a kill and
// then of two segments, and a receipt of the third.
func (c *Case) tamperGround() (log tampered, older []tampered, receipt string) {
	c.Helper()
	c.NoGateway()
	c.U1.HTTP1()
	asks := 0
	session := func(name string, n int, flags ...string) *Session {
		s := c.Start(Start{Name: name, Flags: flags})
		for range n {
			asks++
			c.Status(s.Do(api, get(fmt.Sprintf("/user/%d", asks), api, bearer(c.P))), 200)
		}
		c.Recorded(asks, Want{"type": "result"})
		return s
	}
	c.Equal(session("first", 2).End(), 0)
	older = append(older, c.readLog())
	s := session("second", 2)
	s.kill()
	s.End()
	c.secondSegment(c.segments()[1])
	older = append(older, c.readLog())
	receipt = filepath.Join(c.Dir, "receipt")
	c.Equal(session("third", 2, "--receipt", receipt).End(), 0)
	older = append(older, c.readLog())
	c.Equal(session("fourth", 3).End(), 0)
	return c.readLog(), older, receipt
}

// secondSegment continues a stream as its writer would when a segment is full.
func (c *Case) secondSegment(path string) {
	c.Helper()
	text := bytes.TrimRight(c.bytesOf(path), "\x00")
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	c.put(path, text)
	lines := bytes.SplitAfter(text, []byte("\n"))
	lines = lines[:len(lines)-1]
	own := ratchet{key: c.firstKey(path)}
	for _, line := range lines {
		own.line(bodyOf(line))
	}
	n := len(lines)
	stream := strings.TrimSuffix(filepath.Base(path), "-000001.jsonl")
	head := fmt.Appendf(nil, `{"seq":%d,"time":"2026-01-02T03:04:05.000006Z","mono":7,"type":"segment","stream":"%s","segment":2,"after":{"segment":1,"seq":%d,"h":"%x"},"ended":"full"`, n+1, stream, n, own.h)
	next := own.line(head)
	for i := range 4 {
		next = append(next, own.line(fmt.Appendf(nil, `{"seq":%d,"time":"2026-01-02T03:04:05.000006Z","mono":7,"type":"mark"`, n+2+i))...)
	}
	c.put(strings.TrimSuffix(path, "-000001.jsonl")+"-000002.jsonl", next)
}

// TestTampering: whatever is changed in the log is found, or lies in the tail
// that verify announces as unproven; and a second verifier, written from the
// format alone, says the same. STANDIN_TAMPER is a number of further changes.
func TestTampering(t *testing.T) {
	t.Parallel()
	c := newCase(t, "tamper")
	python := c.secondVerifier()
	log, older, receipt := c.tamperGround()
	c.U1.Requests(9)
	home := filepath.Join(c.Dir, "t")
	dir, keys := filepath.Join(home, "audit"), filepath.Join(c.Dir, "keys")
	c.put(keys, []byte(c.Standin("audit", "verify", "--print-keys", "--recovery-key-file", ground.recovery).Out))
	original := log.streamsOf()
	rounds := len(hands) + 1
	if n, err := strconv.Atoi(os.Getenv("STANDIN_TAMPER")); err == nil {
		rounds += n
	}
	verdicts := map[int]int{}
	for i := range rounds {
		h := &hand{rand.New(rand.NewPCG(1, uint64(i))), maps.Clone(log), older}
		var did []string
		if i > 0 { // the first round is the log as it is
			for range 1 + h.IntN(5)/4 {
				kind := slices.Sorted(maps.Keys(hands))[i%len(hands)]
				name := h.name()
				for !fileName.MatchString(name) || len(h.log[name]) == 0 {
					name = h.name()
				}
				did = append(did, fmt.Sprintf("%s %s %s", kind, name, hands[kind](h, name, h.log[name])))
			}
		}
		if err := os.RemoveAll(home); err != nil {
			c.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			c.Fatal(err)
		}
		for name, text := range h.log {
			c.put(filepath.Join(dir, name), text)
		}
		var receipts, flags []string
		if i%3 != 1 {
			receipts, flags = []string{receipt}, []string{"--receipt", receipt}
		}
		r := c.At(home, "", append([]string{"audit", "verify", "--json", "--recovery-key-file", ground.recovery}, flags...)...)
		code, out := python(dir, keys, receipts...)
		verdicts[r.Code]++
		if code != r.Code {
			c.Errorf("round %d (%q, receipts %q): the verdict is %d, that of the second verifier %d: %s\n%s", i, did, receipts, r.Code, code, r.description, out)
		}
		c.nothingIsHidden(fmt.Sprintf("round %d: %q", i, did), r, original, h.log, len(receipts) > 0)
	}
	c.Logf("%d rounds, by verdict: %v", rounds, verdicts)
	if verdicts[10] < rounds/2 || verdicts[12] == 0 {
		c.Errorf("the verdicts are %v", verdicts)
	}
}

// nothingIsHidden asserts that what verify calls whole is what was written, and
// that no record is lost which the receipt, or a later stream, knows of.
func (c *Case) nothingIsHidden(what string, r Result, original map[string][]byte, log tampered, anchored bool) {
	c.Helper()
	var rep struct {
		Streams []struct {
			Stream            string
			Records, Unproven int
		}
	}
	if r.Code == 10 {
		return
	}
	if err := json.Unmarshal([]byte(r.Out), &rep); err != nil || r.Code != 12 && r.Code != 13 {
		c.Errorf("%s: %v: %s", what, err, r.description)
		return
	}
	now := log.streamsOf()
	for _, s := range rep.Streams {
		if was := firstLines(original[s.Stream], s.Records); !bytes.Equal(was, firstLines(now[s.Stream], s.Records)) || bytes.Count(was, []byte("\n")) != s.Records {
			c.Errorf("%s: %d records of stream %s are called whole, and were changed: %s", what, s.Records, s.Stream, r.description)
		}
	}
	if !anchored {
		return
	}
	// The receipt is of the third stream, which knows of those before it.
	for _, id := range slices.Sorted(maps.Keys(original))[:3] {
		proven := 0
		for _, s := range rep.Streams {
			if s.Stream == id {
				proven = s.Records - s.Unproven
			}
		}
		if all := bytes.Count(original[id], []byte("\n")); proven != all {
			c.Errorf("%s: %d of %d records of stream %s are proven, and nothing is said of the rest: %s", what, proven, all, id, r.description)
		}
	}
}

func firstLines(text []byte, n int) []byte {
	end := 0
	for range n {
		at := bytes.IndexByte(text[end:], '\n')
		if at < 0 {
			return text
		}
		end += at + 1
	}
	return text[:end]
}
