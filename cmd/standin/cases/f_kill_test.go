//go:build linux

package cases

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// full says whether the long forms of these tests are asked for: STANDIN_FULL=1.
func full() bool { return os.Getenv("STANDIN_FULL") == "1" }

// theGatewayIsKilled ends gateways at random moments, while 64 connections ask.
func theGatewayIsKilled(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	c.torn = true
	kills, connections := 12, 64
	if full() {
		kills = 500
	}
	within, torn := 0, 0
	for i := range kills {
		s := c.Start(Start{Name: "killed"})
		// Mostly in the middle of the traffic, sometimes before anything was answered.
		answers, then := max(0, rand.IntN(300)-30), time.Duration(rand.IntN(3000))*time.Microsecond
		if s.traffic(fmt.Sprintf("kill%d", i), connections, answers, then) > 0 {
			within++
		}
		c.order = c.order[:0] // its log says nothing that the next one does not
		if kills > 50 && i%25 != 0 {
			continue
		}
		r, rep := c.verify()
		if r.Code != 0 && r.Code != 12 && r.Code != 13 || len(rep.Problems) > 0 {
			c.Fatalf("after kill %d: %s", i, r.description)
		}
	}
	r, rep := c.verify()
	if r.Code != 12 && r.Code != 13 || len(rep.Problems) > 0 || len(rep.Streams) != kills {
		c.Errorf("after %d kills: %s", kills, r.description)
	}
	for _, path := range c.segments() {
		lines := bytes.Split(bytes.TrimRight(c.bytesOf(path), "\x00"), []byte("\n"))
		if len(lines[len(lines)-1]) > 0 {
			torn++
		}
		for n, line := range lines[:len(lines)-1] {
			if !bytes.HasPrefix(line, fmt.Appendf(nil, `{"seq":%d,`, n+1)) {
				c.Errorf("%s: line %d is %q", path, n+1, clip(string(line)))
			}
		}
	}
	sent := c.everyValueIsRecorded()
	c.Logf("%d kills, %d of them with requests under way, %d torn last lines; %d values left, each on record", kills, within, torn, sent)
	if within < kills/5 || sent == 0 {
		c.Errorf("only %d of %d kills met a request, %d values left", within, kills, sent)
	}
	// The next gateway opens its stream behind all of them, and commits to them.
	receipt := filepath.Join(c.Dir, "receipt")
	last := c.Start(Start{Name: "last", Flags: []string{"--receipt", receipt}})
	c.Status(last.Do(api, get("/last", api, bearer(c.P))), 200)
	c.Equal(last.End(), 0)
	if r, rep := c.verify("--receipt", receipt); len(rep.Problems) > 0 || rep.Unproven > 0 {
		c.Errorf("the last receipt proves what was killed: %s", r.description)
	}
}

func aBurst(c *Case) {
	s := c.S1()
	c.U1.HTTP1()
	const connections, each = 64, 100
	began := time.Now()
	inParallel(connections, connections, func(i int) {
		t := s.Tunnel(api)
		for n := range each {
			t.Send(get(fmt.Sprintf("/burst/%d/%d", i, n), api, bearer(c.P)))
			if r := t.Response("GET"); r.Status != 200 {
				c.Errorf("%s", r)
				return
			}
		}
		_ = t.Close()
	})
	took := time.Since(began)
	c.Equal(bytes.Count([]byte(c.U1.Raw()), []byte(R)), connections*each)
	c.Recorded(connections*each, Want{"type": "result"})
	paths := map[any]int{}
	for _, r := range c.Recorded(connections*each, Want{"type": "substitute"}) {
		paths[r["path"]]++
	}
	c.Equal(len(paths), connections*each)
	c.Logf("%d requests in %v, %.0f a second", connections*each, took.Round(time.Millisecond), connections*each/took.Seconds())
}

// aLongLog is longer than what verify may take of memory. It is the log of a
// session that was killed, and goes on as its key allows.
func aLongLog(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	s := c.S1()
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.Recorded(1, Want{"type": "result"})
	s.kill()
	path := c.segments()[0]
	whole := c.bytesOf(path)
	whole = whole[:bytes.LastIndexByte(whole, '\n')+1]
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines = lines[:len(lines)-1]
	own := ratchet{key: c.firstKey(path)}
	var used []byte
	for _, line := range lines {
		own.line(bodyOf(line))
		if bytes.Contains(line, []byte(`"type":"substitute"`)) {
			used = bodyOf(line)
		}
	}
	size := int64(96 << 20)
	if full() {
		size = 1 << 30
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		c.Fatal(err)
	}
	defer file.Close()
	rest := used[bytes.IndexByte(used, ','):]
	block, n := bytes.Clone(whole), len(lines)
	for written := int64(0); written < size; {
		for len(block) < 1<<20 {
			n++
			block = append(block, own.line(fmt.Appendf(nil, `{"seq":%d%s`, n, rest))...)
		}
		if _, err := file.Write(block); err != nil {
			c.Fatal(err)
		}
		written += int64(len(block))
		block = block[:0]
	}
	r, took, peak := c.measured("audit", "verify", "--recovery-key-file", ground.recovery)
	c.ErrorAndHint(r, 12, fmt.Sprintf("%d records are whole", n))
	c.within(fmt.Sprintf("verify of %d MiB, %d records, in %v", size>>20, n, took.Round(time.Millisecond)), peak, 64<<10)
	for _, args := range [][]string{{"--secret", "github", "--since", "1h", "--until", "30m"}, {"--host", "nowhere.test"}, {"--summary"}} {
		r, took, peak := c.measured(append([]string{"audit", "show"}, args...)...)
		c.Exit(r, 0)
		c.within(fmt.Sprintf("show %q of the same, in %v", args, took.Round(time.Millisecond)), peak, 64<<10)
		if args[0] == "--summary" && !strings.Contains(r.Out, fmt.Sprint(n-len(lines)+1)) {
			c.Errorf("the summary does not count %d uses: %s", n-len(lines)+1, r.description)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		c.Fatal(err)
	}
	c.arrivedOf(1)
}

// measured runs a command and returns how long it took, and the most memory that
// it held, in KiB.
func (c *Case) measured(args ...string) (Result, time.Duration, int) {
	c.Helper()
	cmd := c.Command(nil, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	for peak := 0; ; {
		select {
		case err := <-ended:
			r := Result{Code: cmd.ProcessState.ExitCode(), Out: out.String(), Err: errs.String()}
			r.description = fmt.Sprintf("%q: %v\nstdout: %s\nstderr: %s", args, err, clip(r.Out), clip(r.Err))
			return r, time.Since(began), peak
		case <-time.After(5 * time.Millisecond):
			status, _ := os.ReadFile(procFile(cmd.Process.Pid, "status"))
			_, rest, _ := strings.Cut(string(status), "VmHWM:")
			kib, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
			peak = max(peak, kib)
		}
	}
}
