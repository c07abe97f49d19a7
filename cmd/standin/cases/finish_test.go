//go:build linux

package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// finish checks what holds after every case, and ends what the case started.
func (c *Case) finish() {
	c.Helper()
	c.checkWire()
	if !c.Failed() {
		c.checkAlive()
	}
	c.scan()
	for _, s := range c.order {
		c.endSession(s)
	}
	for _, g := range c.servings {
		ended := g.gone
		if code := g.End(); !ended && code != 0 {
			c.Errorf("serve ended with %d: %s", code, clip(g.errs.String()))
		}
	}
	for _, u := range c.upstreams {
		u.stop()
		u.tasks.Wait()
	}
	c.scan()
	if len(c.order)+len(c.servings) > 0 {
		c.checkAudit()
	}
	if c.Failed() {
		for _, s := range c.order {
			c.Logf("log of %s: %s", s.Name, c.tail(s))
		}
	}
}

func (c *Case) checkWire() {
	c.Helper()
	if !c.wired && !c.Failed() && !c.Skipped() {
		c.Error("WIRE: the case asserted nothing about what an upstream received")
	}
	for _, check := range c.silent {
		if problem := check(); problem != "" {
			c.Errorf("WIRE, at the end: %s", problem)
		}
	}
	for _, u := range c.upstreams {
		if found := leaks([]byte(u.text()), c.Values); u.forbidden() && len(found) > 0 {
			c.Errorf("WIRE: %s received a secret (%v): %s", u.Name, found, clip(u.text()))
		}
	}
}

// checkAlive asserts, for each session that has not ended, that the same
// process serves a plain request and has nothing left of what the case did.
func (c *Case) checkAlive() {
	c.Helper()
	alive := 0
	for _, s := range c.order {
		if !s.Running() || s.Served != nil && !s.Served.Running() {
			continue
		}
		alive++
		if s.Name == "S1" {
			c.servesPlainRequest(s)
		}
		c.backToBaseline(s)
	}
	for _, g := range c.servings {
		if g.Running() {
			alive++
		}
	}
	if alive == 0 && !c.quiet && len(c.order) > 0 {
		c.Error("ALIVE: no gateway lives at the end of the case")
	}
}

func (c *Case) servesPlainRequest(s *Session) {
	c.Helper()
	c.U1.Handle(okHandler)
	began := time.Now()
	r := s.Do(api, get("/alive", api))
	if r.Status != 200 || string(r.Body) != "ok\n" {
		c.Errorf("ALIVE: a plain request on %s: %s", s.Name, r)
	}
	if took := time.Since(began); took > 3*time.Second {
		c.Errorf("ALIVE: a plain request on %s took %v", s.Name, took)
	}
}

// slack is for what a gateway starts once, on first use, and keeps: a writer,
// a poller, a pool.
const slack = 3

// pipes are the descriptors by which the kernel copies a tunnel that passes
// unopened, both ways. The runtime keeps them for the next.
const pipes = 4

func (c *Case) backToBaseline(s *Session) {
	c.Helper()
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	for _, n := range open {
		_ = n.Close()
	}
	var now Status
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(25 * time.Millisecond) {
		for _, u := range c.upstreams {
			u.closeConns()
		}
		status, out, err := s.control("GET", "/v1/status", "")
		// At a serving gateway others have sessions, too.
		if err == nil && status == 200 && json.Unmarshal(out, &now) == nil && s.Served != nil && now.Tunnels == 0 {
			break
		}
		if err == nil && status == 200 && json.Unmarshal(out, &now) == nil &&
			now.Goroutines <= s.Before.Goroutines+slack && now.Descriptors <= s.Before.Descriptors+slack+pipes && now.Tunnels == 0 {
			break
		}
		if time.Now().After(end) {
			c.Errorf("ALIVE: %s is not back where it was: before %+v, now %+v (%v)", s.Name, s.Before, now, err)
			break
		}
	}
	if now.PID != s.Before.PID {
		c.Errorf("ALIVE: %s had pid %d and has %d", s.Name, s.Before.PID, now.PID)
	}
}

func (c *Case) endSession(s *Session) {
	c.Helper()
	ended := !s.Running()
	code := s.End()
	if !ended && code != 0 {
		c.Errorf("%s ended with %d, its command with 0\nstderr: %s", s.Name, code, clip(s.Stderr()))
	}
	c.noCrash(s.Name, s.Stderr())
	if log, err := os.ReadFile(s.Log); err == nil {
		c.noCrash("log of "+s.Name, string(log))
	}
}

// Want are fields that a record must have. The keys "secret", "surface",
// "version" and "fingerprint" are looked for in its uses.
type Want map[string]any

// Records are the records of this case's home, as "audit show --json" prints
// them, oldest first.
func (c *Case) Records() []map[string]any {
	c.Helper()
	r := c.Standin("audit", "show", "--json")
	if r.Code != 0 {
		c.Fatalf("audit show: %s", r.description)
	}
	list, err := jsonRecords([]byte(r.Out))
	if err != nil {
		c.Fatalf("audit show --json: %v: %s", err, r.description)
	}
	return list
}

func jsonRecords(out []byte) ([]map[string]any, error) {
	var list []map[string]any
	if bytes.HasPrefix(bytes.TrimSpace(out), []byte("[")) {
		return list, json.Unmarshal(out, &list)
	}
	for line := range bytes.Lines(out) {
		var one map[string]any
		if err := json.Unmarshal(line, &one); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// Recorded asserts that exactly n records have all the wanted fields, and
// returns them. Records that need not be durable at once are waited for.
func (c *Case) Recorded(n int, want Want) []map[string]any {
	c.Helper()
	var match, all []map[string]any
	for end := time.Now().Add(4 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		all, match = c.Records(), nil
		for _, r := range all {
			if has(r, want) {
				match = append(match, r)
			}
		}
		if len(match) == n || len(match) > n || time.Now().After(end) {
			break
		}
	}
	if len(match) != n {
		c.Errorf("AUDIT: %d records have %v, not %d; all:\n%s", len(match), want, n, lines(all))
	}
	return match
}

func has(record map[string]any, want Want) bool {
	for key, value := range want {
		if !hasField(record, key, fmt.Sprint(value)) {
			return false
		}
	}
	return true
}

func hasField(record map[string]any, key, value string) bool {
	if slices.Contains([]string{"secret", "surface", "version", "fingerprint"}, key) {
		uses, _ := record["uses"].([]any)
		return slices.ContainsFunc(uses, func(u any) bool {
			m, _ := u.(map[string]any)
			return fmt.Sprint(m[key]) == value
		})
	}
	return fmt.Sprint(record[key]) == value
}

func lines(all []map[string]any) string {
	var b strings.Builder
	for _, r := range all {
		short := maps.Clone(r)
		for _, key := range []string{"h", "mac", "key", "vault_mac", "stream", "segment", "mono", "time", "format", "isolation", "profile", "session", "scheme"} {
			delete(short, key)
		}
		text, _ := json.Marshal(short)
		fmt.Fprintf(&b, "  %s\n", text)
	}
	return b.String()
}

// checkAudit asserts that the record is whole, and that every request with a
// secret that an upstream received has its substitution in it.
func (c *Case) checkAudit() {
	c.Helper()
	r := c.Standin("audit", "verify", "--recovery-key-file", ground.recovery)
	if r.Code != 0 && r.Code != 12 && !(c.torn && r.Code == 13) {
		c.Errorf("AUDIT: verify ends with %d: %s", r.Code, r.description)
	}
	if c.Failed() {
		return
	}
	sent := 0
	for _, u := range c.upstreams {
		for _, q := range u.received() {
			if len(leaks([]byte(q.text()), c.Values)) > 0 {
				sent++
			}
		}
	}
	recorded := 0
	for _, r := range c.Records() {
		if has(r, Want{"type": "substitute"}) {
			recorded++
		}
	}
	if sent > recorded {
		c.Errorf("AUDIT: upstreams received a secret in %d requests, %d substitutions are recorded", sent, recorded)
	}
}

// tail is the end of a session's log.
func (c *Case) tail(s *Session) string {
	log, err := os.ReadFile(s.Log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-2000):])
}
