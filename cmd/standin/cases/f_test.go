//go:build linux

package cases

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The record: what was changed in it, cut off it, or could not be written.

func sectionF() []entry {
	return []entry{
		{"F01", aBitInARecord},
		{"F03", theTailCutOff},
		{"F05", anOlderCopyOfTheLog},
		{"F07", aStolenKey},
		{"F08", aLogWithoutKeys},
		{"F09", theDiskIsFull},
		{"F10", theSyncFails},
		{"F11", theLogIsTakenAway},
		{"F13", theGatewayIsKilled},
		{"F14", theDiskForgets},
		{"F15", twoGatewaysInOneHome},
		{"F16", theClockJumps},
		{"F18", whereASecretStood},
		{"F19", aBurst},
		{"F20", aLongLog},
		{"F21", theVectors},
		{"F22", whatCannotBeVerified},
		{"F23", whatIsNoFile},
		{"F24", aFloodOfRefusals},
	}
}

// report is what "audit verify --json" says.
type report struct {
	Code     int
	Records  int
	Unproven int
	Streams  []struct {
		Stream  string
		Records int
		Sealed  bool
		Running bool
	}
	Problems []struct {
		Stream string
		Record int
		What   string
	}
}

// verify runs "audit verify" with the recovery key, and more flags.
func (c *Case) verify(flags ...string) (Result, report) {
	c.Helper()
	return c.verifyWith(append([]string{"--recovery-key-file", ground.recovery}, flags...)...)
}

func (c *Case) verifyWith(flags ...string) (Result, report) {
	c.Helper()
	r := c.Standin(append([]string{"audit", "verify", "--json"}, flags...)...)
	var rep report
	if err := json.Unmarshal([]byte(r.Out), &rep); err != nil {
		c.Fatalf("audit verify --json: %v: %s", err, r.description)
	}
	if rep.Code != r.Code {
		c.Errorf("the report says %d: %s", rep.Code, r.description)
	}
	if (r.Code == 0) != (r.Err == "") {
		c.Errorf("verify ends with %d and says %q", r.Code, r.Err)
	}
	return r, rep
}

// segments are the files of the log, by name.
func (c *Case) segments() []string {
	c.Helper()
	list, err := filepath.Glob(filepath.Join(c.Home, "audit", "*.jsonl"))
	if err != nil || len(list) == 0 {
		c.Fatalf("the log has no file: %v", err)
	}
	slices.Sort(list)
	return list
}

// oneLog makes a log of several substitutions, with a receipt, and returns its
// file and its lines.
func (c *Case) oneLog(name string) (path string, lines [][]byte, receipt string) {
	c.Helper()
	c.NoGateway()
	receipt = filepath.Join(c.Dir, name+".receipt")
	s := c.Start(Start{Name: name, Flags: []string{"--receipt", receipt}})
	before := len(c.U1.Received())
	t := s.Tunnel(api)
	for i := range 6 {
		t.Send(get(fmt.Sprintf("/user/%d", i), api, bearer(c.P)))
		c.Status(t.Response("GET"), 200)
	}
	c.U1.Requests(before + 6)
	c.Equal(s.End(), 0)
	all := c.segments()
	path = all[len(all)-1]
	return path, readLines(c, path), receipt
}

func readLines(c *Case, path string) [][]byte {
	c.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		c.Fatal(err)
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		c.Fatalf("%s does not end in a line", path)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return lines[:len(lines)-1]
}

func (c *Case) rewrite(path string, lines [][]byte) {
	c.Helper()
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		c.Fatal(err)
	}
}

func aBitInARecord(c *Case) {
	path, lines, receipt := c.oneLog("S1")
	if r, _ := c.verify("--receipt", receipt); r.Code != 0 {
		c.Fatalf("the log is not whole to begin with: %s", r.description)
	}
	middle := slices.IndexFunc(lines, func(l []byte) bool { return bytes.Contains(l, []byte(`"/user/3"`)) })
	if middle < 0 {
		c.Fatalf("no record of /user/3:\n%s", bytes.Join(lines, nil))
	}
	line := lines[middle]
	seq := middle + 1
	places := map[string]int{
		"the first byte": 0, "the seq": bytes.Index(line, []byte(`"seq":`)) + 6, "the path": bytes.Index(line, []byte("/user/3")) + 6,
		"the h": bytes.LastIndex(line, []byte(`"h":"`)) + 9, "the mac": bytes.LastIndex(line, []byte(`"mac":"`)) + 9,
		"the last brace": bytes.LastIndexByte(line, '}'),
	}
	if at := bytes.Index(line, []byte("fingerprint")); at > 0 {
		places["a fingerprint"] = at + 14
	}
	for what, at := range places {
		for _, bit := range []byte{1, 4, 0x20} {
			changed := slices.Clone(lines)
			changed[middle] = bytes.Clone(line)
			changed[middle][at] ^= bit
			if changed[middle][at] == '\n' {
				continue
			}
			c.rewrite(path, changed)
			for _, flags := range [][]string{nil, {"--receipt", receipt}} {
				r, rep := c.verify(flags...)
				if r.Code != 10 || len(rep.Problems) == 0 || rep.Problems[0].Record != seq {
					c.Errorf("bit %#x of %s of record %d is flipped: %s", bit, what, seq, r.description)
				}
				c.ErrorAndHint(r, 10, fmt.Sprintf("record %d", seq), fmt.Sprintf("records 1 to %d are whole", seq-1))
			}
			if r, _ := c.verifyWith(); r.Code != 10 && what != "the mac" {
				c.Errorf("without the recovery key, bit %#x of %s: %s", bit, what, r.description)
			}
		}
	}
	// A record that is gone, doubled, or in another place.
	for what, changed := range map[string][][]byte{
		"gone":    slices.Delete(slices.Clone(lines), middle, middle+1),
		"doubled": slices.Insert(slices.Clone(lines), middle, line),
		"swapped": append(append(slices.Clone(lines[:middle]), lines[middle+1], line), lines[middle+2:]...),
	} {
		c.rewrite(path, changed)
		if r, rep := c.verify(); r.Code != 10 || len(rep.Problems) == 0 {
			c.Errorf("a record is %s: %s", what, r.description)
		}
	}
	c.rewrite(path, lines)
	c.Equal(first(c.verify("--receipt", receipt)).Code, 0)
}

func first[A, B any](a A, _ B) A { return a }

func theTailCutOff(c *Case) {
	path, lines, receipt := c.oneLog("S1")
	whole := len(lines)
	r, rep := c.verify("--receipt", receipt)
	c.Exit(r, 0)
	c.Equal(rep.Records, whole)
	for _, k := range []int{1, 2, 5, whole - 1} {
		c.rewrite(path, lines[:whole-k])
		// The receipt knows how far the log had come.
		r, rep := c.verify("--receipt", receipt)
		if r.Code != 10 || len(rep.Problems) == 0 {
			c.Errorf("%d records are cut off, and the receipt knows: %s", k, r.description)
		}
		// Without an anchor nothing can know; it is never called whole.
		r, rep = c.verify()
		if r.Code != 12 || rep.Unproven != whole-k {
			c.Errorf("%d records are cut off, and nobody knows: %s", k, r.description)
		}
		plain := c.Standin("audit", "verify", "--recovery-key-file", ground.recovery)
		c.ErrorAndHint(plain, 12, fmt.Sprintf("%d of them are unproven", whole-k), "after the newest anchor")
		if strings.Contains(plain.Out, "whole: ") {
			c.Errorf("it is called whole: %s", plain.description)
		}
	}
	c.aFakeGateway(path, lines)
	// Cut within a record: torn, as a crash leaves it, and with the receipt cut.
	c.rewrite(path, lines)
	last := lines[whole-1]
	if err := os.Truncate(path, int64(len(bytes.Join(lines, nil))-len(last)/2)); err != nil {
		c.Fatal(err)
	}
	c.Equal(first(c.verify()).Code, 13)
	plain := c.Standin("audit", "verify", "--recovery-key-file", ground.recovery)
	c.ErrorAndHint(plain, 13, fmt.Sprintf("%d of them are unproven: they lie after the newest anchor", whole-1), "--receipt FILE")
	c.Equal(first(c.verify("--receipt", receipt)).Code, 10)
	c.rewrite(path, lines)

	// A later stream knows of those before it: neither can this one be cut now,
	// nor can it vanish.
	_, _, second := c.oneLog("later")
	c.Equal(first(c.verify("--receipt", receipt, "--receipt", second)).Code, 0)
	for _, flags := range [][]string{nil, {"--receipt", second}} {
		c.rewrite(path, lines[:whole-2])
		c.Equal(first(c.verify(flags...)).Code, 10)
		// Nor can it be retired, and the cut with it.
		if r := c.Standin("audit", "prune", "--larger-than", "1KiB"); r.Code != 1 || !strings.Contains(r.Err, "tampered with") || len(readLines(c, path)) != whole-2 {
			c.Errorf("a log that was cut is pruned: %s", r.description)
		}
		if err := os.Rename(path, path+".away"); err != nil {
			c.Fatal(err)
		}
		c.Equal(first(c.verify(flags...)).Code, 10)
		if err := os.Rename(path+".away", path); err != nil {
			c.Fatal(err)
		}
	}
	c.rewrite(path, lines)
	c.Equal(first(c.verify("--receipt", receipt, "--receipt", second)).Code, 0)

	c.aLiveGateway(receipt, second)
}

func twoGatewaysInOneHome(c *Case) {
	s1 := c.S1()
	two := c.Start(Start{Name: "two"})
	if s1.Gateway == two.Gateway {
		c.Fatal("there is one gateway")
	}
	// Both write at once.
	const each = 20
	h1, h2 := s1.H2(api), two.H2(api)
	for range each {
		a := h1.Open(h2fields("GET", api, "/one", "authorization: Bearer "+c.P), true)
		b := h2.Open(h2fields("GET", api, "/two", "authorization: Bearer "+c.P), true)
		c.Status(h1.Await(a), 200)
		c.Status(h2.Await(b), 200)
	}
	c.arrived(c.U1, 2*each)
	c.Recorded(each, Want{"type": "substitute", "session": s1.ID()})
	c.Recorded(each, Want{"type": "substitute", "session": two.ID()})
	files := c.segments()
	r, rep := c.verify()
	if len(files) != 2 || len(rep.Streams) != 2 || len(rep.Problems) > 0 || r.Code != 0 && r.Code != 12 {
		c.Errorf("two gateways wrote %d files: %s", len(files), r.description)
	}
	// The second knows of the first.
	if text := readLines(c, files[1]); !bytes.Contains(text[0], []byte(rep.Streams[0].Stream)) {
		c.Errorf("the second stream does not commit to the first: %s", text[0])
	}
	for i, stream := range rep.Streams {
		if !stream.Running {
			c.Errorf("stream %d is not seen to be written: %s", i, r.description)
		}
		file, err := os.OpenFile(files[i], os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			c.Fatal(err)
		}
		// A second writer gets no lock, whichever way it asks.
		for _, how := range []int{syscall.LOCK_EX, syscall.LOCK_SH} {
			if err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
				c.Errorf("a second writer of stream %d has the lock: %v", i, err)
			}
		}
		_ = file.Close()
	}
	// One that writes without asking is noticed, by the gateway and by verify:
	// nothing is sent on until the file is again what it was.
	before, err := os.Stat(files[0])
	if err != nil {
		c.Fatal(err)
	}
	lines := readLines(c, files[0])
	file, err := os.OpenFile(files[0], os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = file.Write(lines[len(lines)-1])
	}
	if err != nil {
		c.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the gateway looks four times a second
	arrived := len(c.U1.Received())
	c.Refused(s1.Do(api, get("/one", api, bearer(c.P))), 503, "audit_unavailable")
	c.Status(two.Do(api, get("/two", api, bearer(c.P))), 200)
	c.Equal(len(c.U1.Received()), arrived+1)
	if r, _ := c.verify(); r.Code != 10 {
		c.Errorf("a strange line stands in the first stream: %s", r.description)
	}
	if err := file.Truncate(before.Size()); err != nil {
		c.Fatal(err)
	}
	_ = file.Close()
	c.Eventually("the first gateway goes on", func() bool { return s1.attempt(api, get("/one", api, bearer(c.P))) == 200 })
	if r, _ := c.verify(); r.Code != 0 && r.Code != 12 {
		c.Errorf("both streams are as they were: %s", r.description)
	}
}

func theClockJumps(c *Case) {
	k := c.newClock()
	s := k.Start(Start{Name: "S1"})
	t := s.Tunnel(api)
	began := time.Now()
	ask := func(path string, fields ...string) *Response {
		t.Send(get(path, api, fields...))
		return t.Response("GET")
	}
	jumps := []struct {
		by     time.Duration
		path   string
		record bool
	}{
		{0, "/now", false},
		{-50 * time.Minute, "/back", true}, // the certificates of this test begin an hour ago
		{-49*time.Minute - 59*time.Second, "/ntp", false},
		{10 * time.Minute, "/ahead", true},
		{0, "/again", true},
	}
	for _, j := range jumps {
		k.Move(j.by)
		c.Status(ask(j.path, bearer(c.P)), 200)
	}
	// Years in which no certificate is valid: refusals are recorded all the same.
	far := []time.Time{time.Date(1970, 1, 1, 0, 30, 0, 0, time.UTC), time.Date(2106, 2, 8, 0, 0, 0, 0, time.UTC)}
	for i, year := range far {
		k.Move(time.Until(year))
		// The end of the session may cut the answer off, but not the record.
		if r := ask("/x?y=" + c.P); r.Err == nil && r.Status != 403 {
			c.Errorf("in %d: %s", year.Year(), r)
		}
		c.Recorded(i+1, Want{"type": "deny"})
	}
	k.Move(0)
	c.arrived(c.U1, len(jumps))
	c.Equal(s.End(), 0)
	c.NoGateway()

	all := c.Records()
	var seq, mono float64
	var jumped []float64
	for i, r := range all {
		if i == 0 && r["type"] == "stream" {
			seq, mono = r["seq"].(float64), r["mono"].(float64)
			continue
		}
		if n := r["seq"].(float64); n != seq+1 {
			c.Errorf("record %v follows record %v", n, seq)
		}
		if m := r["mono"].(float64); m < mono {
			c.Errorf("record %v: the monotonic clock goes back", r["seq"])
		} else if mono = m; m > float64(time.Since(began).Microseconds())+10e6 {
			c.Errorf("record %v: the monotonic clock jumps to %v", r["seq"], m)
		}
		seq = r["seq"].(float64)
		if r["type"] == "clock_jump" {
			jumped = append(jumped, r["jump_ms"].(float64))
		}
	}
	wants := []float64{-3e6, 3.6e6, -0.6e6, float64(far[0].Sub(began).Milliseconds()), float64(far[1].Sub(far[0]).Milliseconds())}
	if len(jumped) < len(wants) {
		c.Fatalf("the clock jumped by %v, recorded is %v:\n%s", wants, jumped, lines(all))
	}
	for i, want := range wants {
		if d := jumped[i] - want; d > 30e3 || d < -30e3 { // the small steps before it add up
			c.Errorf("jump %d is %v ms, not %v", i, jumped[i], want)
		}
	}
	// The time of each record is what the clock said.
	for _, j := range jumps {
		for _, r := range c.Recorded(1, Want{"type": "substitute", "path": j.path}) {
			at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r["time"]))
			if d := at.Sub(began.Add(j.by)); err != nil || d < -30*time.Second || d > 30*time.Second {
				c.Errorf("%s is recorded at %v, the clock stood at %v (%v)", j.path, at, began.Add(j.by), err)
			}
		}
	}
	for i, year := range []string{"1970-01-01T00:", "2106-02-0"} {
		if !slices.ContainsFunc(all, func(r map[string]any) bool {
			return r["type"] == "deny" && strings.HasPrefix(fmt.Sprint(r["time"]), year)
		}) {
			c.Errorf("no refusal is recorded in %d:\n%s", far[i].Year(), lines(all))
		}
	}
	if r, _ := c.verify(); r.Code != 12 {
		c.Errorf("a log with a jumping clock: %s", r.description)
	}
}
