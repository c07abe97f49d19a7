//go:build linux

package cases

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// trace attaches strace to the gateway, with more flags, and returns how to end
// it; nil where there is no strace, or none that may.
func (c *Case) trace(s *Session, flags ...string) (stop func()) {
	c.Helper()
	tool, err := exec.LookPath("strace")
	if err != nil || os.Geteuid() != 0 {
		c.Log("strace is not there, or may not trace the gateway: what needs it is left out")
		return nil
	}
	cmd := exec.Command(tool, append([]string{"-f", "-qq", "-e", "signal=none", "-p", strconv.Itoa(s.Gateway)}, flags...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	ended := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_, _ = cmd.Process.Wait()
	})
	c.Cleanup(ended)
	if !c.Eventually("strace is attached to every thread", func() bool {
		tasks, _ := filepath.Glob(procFile(s.Gateway, "task/*/status"))
		for _, task := range tasks {
			if status, err := os.ReadFile(task); err == nil && !bytes.Contains(status, fmt.Appendf(nil, "TracerPid:\t%d", cmd.Process.Pid)) {
				return false
			}
		}
		return len(tasks) > 0
	}) {
		c.Log(errs.String())
	}
	return ended
}

// syncs are the system calls after which something is on the disk.
const syncs = "fdatasync,fsync,pwritev2"

func theSyncFails(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	s := c.S1()
	t := s.Tunnel(api)
	asked, served := 0, 0
	ask := func() *Response {
		asked++
		t.Send(get(fmt.Sprintf("/user/%d", asked), api, bearer(c.P)))
		r := t.Response("GET")
		if r.Status == 200 {
			served++
		}
		return r
	}
	c.Status(ask(), 200)
	c.Recorded(1, Want{"type": "result"})
	path := c.segments()[0]
	before := c.bytesOf(path)
	// Every sync fails: nothing leaves, however often one asks, and no other file
	// is trusted either.
	stop := c.trace(s, "-o", os.DevNull, "-e", "trace="+syncs, "-e", "inject="+syncs+":error=EIO")
	if stop == nil {
		c.arrivedOf(served)
		return
	}
	for range 5 {
		c.Refused(ask(), 503, "audit_unavailable")
		time.Sleep(120 * time.Millisecond) // it tries again after 100 ms
	}
	c.arrivedOf(served)
	stop()
	c.Eventually("the gateway goes on", func() bool { return ask().Status == 200 })
	c.arrivedOf(served)
	c.Equal(served, 2)
	// The file whose sync failed was not written again: the kernel may have
	// dropped the pages and will not say so twice.
	c.Recorded(2, Want{"type": "result"})
	after := bytes.TrimRight(c.bytesOf(path), "\x00")
	if !bytes.Equal(after, before[:len(bytes.TrimRight(before, "\x00"))]) {
		c.Errorf("the file of the failed sync has grown by %d bytes", len(after)-len(before))
	}
	for _, r := range c.Recorded(1, Want{"type": "segment", "ended": "failed"}) {
		c.Equal(fmt.Sprint(r["after"].(map[string]any)["segment"]), "1")
	}
	// One sync fails, once: that is enough for the file.
	newest := c.segments()[len(c.segments())-1]
	if stop = c.trace(s, "-o", os.DevNull, "-P", newest, "-e", "trace="+syncs, "-e", "inject="+syncs+":error=EIO:when=1"); stop == nil {
		return
	}
	size := len(bytes.TrimRight(c.bytesOf(newest), "\x00"))
	c.Refused(ask(), 503, "audit_unavailable")
	c.Eventually("the gateway goes on once more", func() bool { return ask().Status == 200 })
	stop()
	c.arrivedOf(served)
	c.Recorded(served, Want{"type": "substitute"})
	if now := len(bytes.TrimRight(c.bytesOf(newest), "\x00")); now > size {
		c.Errorf("a file was written again after its sync had failed: %d bytes, %d before", now, size)
	}
	c.failingOnce(s, ask, &served)
	c.Equal(s.End(), 0)
	if r, rep := c.verify(); r.Code != 12 || len(rep.Problems) > 0 {
		c.Errorf("a log of which two syncs failed: %s", r.description)
	}
}

// failingOnce lets one write to the log bring nothing, or fail, again and again.
// (A disk that fills up in the middle of a write makes the short ones: F09.)
func (c *Case) failingOnce(s *Session, ask func() *Response, served *int) {
	c.Helper()
	refused := 0
	for _, fault := range []string{"retval=0", "error=EIO", "error=EROFS", "error=EDQUOT"} {
		list := c.segments()
		const writes = "write,pwrite64,pwritev2"
		stop := c.trace(s, "-o", os.DevNull, "-P", list[len(list)-1], "-e", "trace="+writes, "-e", "inject="+writes+":"+fault+":when=1")
		if stop == nil {
			return
		}
		switch r := ask(); r.Status {
		case 503:
			refused++
			c.Refused(r, 503, "audit_unavailable")
		case 200: // what failed was not needed for this record
		default:
			c.Errorf("%s: %s", fault, r)
		}
		c.Eventually("the gateway goes on after "+fault, func() bool { return ask().Status == 200 })
		stop()
		c.arrivedOf(*served)
	}
	if refused == 0 {
		c.Error("no failing write was noticed")
	}
	c.Recorded(*served, Want{"type": "substitute"})
}

func theLogIsTakenAway(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	s := c.S1()
	served := 0
	ask := func() *Response {
		r := s.Do(api, get("/user", api, bearer(c.P)))
		if r.Status == 200 {
			served++
		}
		return r
	}
	c.Status(ask(), 200)
	path := c.segments()[0]
	folder := filepath.Dir(path)
	move := func(from, to string) error { return os.Rename(from, to) }
	for _, taken := range []struct {
		what       string
		take, back func() error
	}{
		{"the file is gone", func() error { return move(path, path+".x") }, func() error { return move(path+".x", path) }},
		{"the folder is gone", func() error { return move(folder, folder+".x") }, func() error { return move(folder+".x", folder) }},
		{"an empty folder is in its place", func() error {
			if err := move(folder, folder+".x"); err != nil {
				return err
			}
			return os.Mkdir(folder, 0o700)
		}, func() error {
			if err := os.Remove(folder); err != nil {
				return err
			}
			return move(folder+".x", folder)
		}},
		{"the file is read-only", func() error { return os.Chmod(path, 0o400) }, func() error { return os.Chmod(path, 0o600) }},
		{"others may read the file", func() error { return os.Chmod(path, 0o644) }, func() error { return os.Chmod(path, 0o600) }},
		{"the file has a second name", func() error { return os.Link(path, path+".x") }, func() error { return os.Remove(path + ".x") }},
		{"a copy is in its place", func() error {
			if err := move(path, path+".x"); err != nil {
				return err
			}
			return os.WriteFile(path, c.bytesOf(path+".x"), 0o600)
		}, func() error { return move(path+".x", path) }},
	} {
		if err := taken.take(); err != nil {
			c.Fatal(err)
		}
		began := time.Now()
		c.Eventually("refused: "+taken.what, func() bool { return ask().Status == 503 })
		// A second is what is promised; the requests themselves take their time.
		if took := time.Since(began); took > 3*time.Second {
			c.Errorf("%s: noticed after %v", taken.what, took)
		}
		for range 3 {
			c.Refused(ask(), 503, "audit_unavailable")
		}
		if err := taken.back(); err != nil {
			c.Fatal(err)
		}
		c.Eventually("served again: "+taken.what, func() bool { return ask().Status == 200 })
		c.arrivedOf(served)
	}
	c.Equal(s.End(), 0)
	c.Recorded(served, Want{"type": "substitute"})
	if r, rep := c.verify(); r.Code != 12 || len(rep.Problems) > 0 {
		c.Errorf("a log that was taken away and put back: %s", r.description)
	}
}

// traffic sends requests over several connections, each with a path of its own,
// kills the gateway when so many were answered and a while has passed, and
// returns how many were under way.
func (s *Session) traffic(name string, connections, answers int, then time.Duration) (underWay int) {
	s.c.Helper()
	tunnels := make([]*Conn, connections)
	inParallel(min(connections, 16), connections, func(i int) { tunnels[i-1] = s.Tunnel(api) })
	var all sync.WaitGroup
	var answered, unanswered atomic.Int64
	for i, t := range tunnels {
		all.Go(func() {
			for n := 0; ; n++ {
				t.Send(get(fmt.Sprintf("/%s/%d/%d", name, i, n), api, bearer(s.c.P)))
				if r := t.Response("GET"); r.Status == 0 || r.Err != nil {
					unanswered.Add(1)
					return
				}
				answered.Add(1)
			}
		})
	}
	for end := time.Now().Add(10 * time.Second); answered.Load() < int64(answers) && time.Now().Before(end); {
		time.Sleep(50 * time.Microsecond)
	}
	time.Sleep(then)
	_ = syscall.Kill(s.Gateway, syscall.SIGKILL)
	<-s.exited
	all.Wait()
	for _, t := range tunnels {
		_ = t.Close()
	}
	s.End()
	return int(unanswered.Load())
}

// everyValueIsRecorded asserts that each request with a value that U1 received
// has its record, and returns how many there were.
func (c *Case) everyValueIsRecorded() int {
	c.Helper()
	recorded := map[string]bool{}
	for _, r := range c.Records() {
		if r["type"] == "substitute" {
			recorded[fmt.Sprint(r["path"])] = true
		}
	}
	sent := c.U1.Received()
	n := 0
	for _, q := range sent {
		if strings.Contains(q.text(), R) {
			if n++; !recorded[q.Target] {
				c.Errorf("the value left in %q, which is not on record", q.Target)
			}
		}
	}
	return n
}

var traced = regexp.MustCompile(`(write|pwrite64|pwritev2|fdatasync|fsync)(?:\(| resumed>)(?:[^"]*"[^"]*"(?:\.\.\.)?, (\d+)(?:, (\d+))?)?.*\) += (-?\d+)`)

// theDiskForgets is a power cut: what was written since the last sync is gone.
func theDiskForgets(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	c.torn = true
	for i := range 4 {
		s := c.Start(Start{Name: fmt.Sprintf("S%d", i)})
		path := c.segments()[len(c.segments())-1]
		calls := filepath.Join(c.Dir, "calls")
		size := int64(len(bytes.TrimRight(c.bytesOf(path), "\x00")))
		if c.trace(s, "-o", calls, "-s", "0", "-P", path, "-e", "trace=write,pwrite64,"+syncs) == nil {
			c.arrivedOf(0)
			return
		}
		s.traffic(fmt.Sprintf("cut%d", i), 16, 1+rand.IntN(200), time.Duration(rand.IntN(5000))*time.Microsecond)
		c.forget(path, calls, size)
		if r, rep := c.verify(); r.Code != 12 && r.Code != 13 || len(rep.Problems) > 0 {
			c.Errorf("after a power cut: %s", r.description)
		}
		if n := c.everyValueIsRecorded(); n == 0 {
			c.Error("nothing was under way")
		}
	}
}

// forget takes out of the file what the gateway wrote after its last sync.
func (c *Case) forget(path, calls string, size int64) {
	c.Helper()
	log, err := os.Open(calls)
	if err != nil {
		c.Fatal(err)
	}
	defer log.Close()
	type extent struct{ from, to int64 }
	var loose []extent // written and not synced
	synced, count := size, 0
	for lines := bufio.NewScanner(log); lines.Scan(); {
		m := traced.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		n, _ := strconv.ParseInt(m[4], 10, 64)
		count++
		switch {
		case n < 0:
		case m[1] == "fdatasync" || m[1] == "fsync":
			for _, e := range loose {
				synced = max(synced, e.to)
			}
			loose = nil
		case m[3] != "":
			from, _ := strconv.ParseInt(m[3], 10, 64)
			loose = append(loose, extent{from, from + n})
		default:
			loose = append(loose, extent{size, size + n})
		}
		if n > 0 && m[1] != "fdatasync" && m[1] != "fsync" {
			size = max(size, loose[len(loose)-1].to)
		}
	}
	if count < 2 {
		c.Fatalf("strace saw %d calls", count)
	}
	data := c.bytesOf(path)
	for _, e := range loose {
		clear(data[min(e.from, int64(len(data))):min(e.to, int64(len(data)))])
	}
	c.put(path, data[:min(synced, int64(len(data)))])
}

func aFloodOfRefusals(c *Case) {
	c.NoGateway()
	c.U1.HTTP1()
	s, folder, inside := c.onASmallDisk()
	// Each of these records is longer than half a kilobyte: one by one they would
	// fill the disk several times over.
	const connections, each = 8, 750
	began := time.Now()
	inParallel(connections, connections, func(int) {
		t := s.Tunnel(api)
		for range each {
			t.Send(get("/"+c.P+"/x", api))
			if r := t.Response("GET"); r.Status != 403 {
				c.Errorf("a misplaced placeholder: %s", r)
				return
			}
		}
	})
	took := time.Since(began)
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrivedOf(1)
	c.Equal(s.End(), 0)
	if c.copyOut(inside, folder) == 0 {
		c.Fatal("the log has no file")
	}
	lines, told := 0, 0
	for _, r := range c.Records() {
		if r["type"] == "deny" {
			lines++
			n := 1.0
			if count, ok := r["count"].(float64); ok {
				n = count
			}
			told += int(n)
		}
	}
	c.Equal(told, connections*each)
	if limit := 200 + 12*int(took.Seconds()+3); lines > limit {
		c.Errorf("%d refusals within %v made %d records, more than %d", told, took, lines, limit)
	}
	c.Recorded(1, Want{"type": "substitute"})
	if r, rep := c.verify(); r.Code != 12 || len(rep.Problems) > 0 {
		c.Errorf("after a flood: %s", r.description)
	}
}
