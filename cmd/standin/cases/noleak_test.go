//go:build linux

package cases

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

// form is one way to write a value.
type form struct {
	name string
	text string
	fold bool // letters in either case
}

// forms are the ways of writing a value in which it must not leak.
func forms(value string) []form {
	list := []form{
		{"raw", value, false},
		{"hex", hex.EncodeToString([]byte(value)), true},
		{"percent, every byte", escapeEach(value, "%%%02x"), true},
		{"percent, query", url.QueryEscape(value), true},
		{"percent, path", url.PathEscape(value), true},
		{"JSON", jsonText(value, true), false},
		{"JSON without HTML escapes", jsonText(value, false), false},
		{"JSON, every character", jsonEach(value, func(rune) bool { return true }), true},
		{"JSON, ASCII", jsonEach(value, func(r rune) bool { return r > 0x7e || r < ' ' || r == '"' || r == '\\' }), true},
	}
	for shift := range 3 {
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			list = append(list, form{fmt.Sprintf("%s, shifted by %d", name, shift), base64Core(value, shift, enc), false})
		}
	}
	return list
}

// base64Core is what stands of a value in base64 whatever bytes are before and
// after it: the characters that hold bits of the value only.
func base64Core(value string, shift int, enc *base64.Encoding) string {
	text := enc.EncodeToString([]byte(strings.Repeat("\x00", shift) + value))
	from := (shift*8 + 5) / 6
	to := (shift + len(value)) * 8 / 6
	return text[from:to]
}

func escapeEach(s, format string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, format, s[i])
	}
	return b.String()
}

func jsonText(s string, html bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	if e.Encode(s) != nil {
		return s
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`)
}

func jsonEach(s string, which func(rune) bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case !which(r) || r == utf8.RuneError:
			b.WriteRune(r)
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		default:
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, "\\u%04x", u)
			}
		}
	}
	return b.String()
}

// leaks names the forms of the values that stand in data.
func leaks(data []byte, values []string) []string {
	var found []string
	var lower []byte
	for _, v := range values {
		for _, f := range forms(v) {
			in, text := data, []byte(f.text)
			if f.fold {
				if lower == nil {
					lower = bytes.ToLower(data)
				}
				in, text = lower, bytes.ToLower(text)
			}
			if bytes.Contains(in, text) {
				found = append(found, f.name)
			}
		}
	}
	return found
}

// scan is NOLEAK.
func (c *Case) scan() {
	c.Helper()
	c.mu.Lock()
	all := c.heard
	late := c.late
	c.mu.Unlock()
	for _, f := range late {
		all = append(all, f())
	}
	for _, h := range all {
		c.judge(h.what, h.data)
	}
	for _, s := range c.order {
		if s.Running() {
			c.scanProcesses(s)
		}
	}
	c.scanFolder(c.Dir)
}

func (c *Case) judge(what string, data []byte) {
	c.Helper()
	if found := leaks(data, c.Values); len(found) > 0 {
		c.Errorf("NOLEAK: %s holds a secret (%s): %s", what, strings.Join(found, ", "), clip(string(data)))
	}
}

// scanProcesses looks at the command lines of the gateway and of its
// descendants, and at the environments of the descendants.
func (c *Case) scanProcesses(s *Session) {
	c.Helper()
	token, _ := s.Proxy.User.Password()
	for pid, ppid := range processes() {
		if pid != s.Gateway && !descends(pid, ppid, s.Gateway) {
			continue
		}
		cmdline, err := os.ReadFile(procFile(pid, "cmdline"))
		if err != nil {
			continue
		}
		c.judge(fmt.Sprintf("command line of %d", pid), cmdline)
		if token != "" && bytes.Contains(cmdline, []byte(token)) {
			c.Errorf("NOLEAK: the session's token stands in the command line of %d", pid)
		}
		if environ, err := os.ReadFile(procFile(pid, "environ")); err == nil {
			c.judge(fmt.Sprintf("environment of %d", pid), environ)
		}
	}
}

func (c *Case) scanFolder(dir string) {
	c.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || c.pardoned(path) {
			return nil // files of sessions come and go
		}
		if e.Type()&os.ModeSymlink != 0 || !e.Type().IsRegular() || e.Name() == "vault.age" {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil {
			c.judge(path, data)
		}
		return nil
	})
	if err != nil {
		c.Errorf("NOLEAK: walk %s: %v", dir, err)
	}
}

func (c *Case) pardoned(path string) bool {
	for _, p := range c.pardons {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// processes maps each process to its parent.
func processes() map[int]int {
	all := map[int]int{}
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		all[pid] = parent(pid)
	}
	return all
}

// parent reads the parent of a process, 0 if there is none.
func parent(pid int) int {
	stat, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

func descends(pid, ppid, root int) bool {
	for ; ppid > 1; ppid = parent(ppid) {
		if ppid == root {
			return true
		}
	}
	return pid == root
}

func TestTheScannerFindsEveryPlantedForm(t *testing.T) {
	odd := "say \"hi\" \\ & ü\u2028 <end>"
	for _, value := range []string{R, odd} {
		plants := map[string]string{
			"raw": value, "hex": hex.EncodeToString([]byte(value)),
			"HEX":   strings.ToUpper(hex.EncodeToString([]byte(value))),
			"query": url.QueryEscape(value), "path": url.PathEscape(value),
			"percent": escapeEach(value, "%%%02X"), "JSON": jsonText(value, true),
			"escaped JSON": jsonEach(value, func(rune) bool { return true }),
			"ASCII JSON":   jsonEach(value, func(r rune) bool { return r > 0x7e || r == '"' || r == '\\' }),
		}
		for before := range 3 {
			for after := range 3 {
				text := strings.Repeat("u", before) + value + strings.Repeat("v", after)
				plants[fmt.Sprintf("base64 %d %d", before, after)] = base64.StdEncoding.EncodeToString([]byte(text))
				plants[fmt.Sprintf("base64url %d %d", before, after)] = base64.RawURLEncoding.EncodeToString([]byte(text))
			}
		}
		for name, planted := range plants {
			if len(leaks([]byte("before "+planted+" after"), []string{value})) == 0 {
				t.Errorf("the scanner does not find %q as %s: %s", value, name, planted)
			}
			cut := planted[:len(planted)/2] + planted[len(planted)/2+2:]
			if found := leaks([]byte("before "+cut+" after"), []string{value}); len(found) > 0 {
				t.Errorf("the scanner finds %q (%v) where it does not stand: %s", value, found, cut)
			}
		}
	}
}

func TestTheScannerFindsPlantedFilesAndOutput(t *testing.T) {
	inner := &testing.T{}
	c := &Case{T: inner, Dir: t.TempDir(), Values: []string{R}}
	if c.scanFolder(c.Dir); inner.Failed() {
		t.Fatal("the scanner finds a leak in an empty folder")
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "vault.age"), []byte(R), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.scanFolder(c.Dir); inner.Failed() {
		t.Fatal("the scanner looks into vault.age")
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "deep/er"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "deep/er/file"), []byte("x"+R+"y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.scanFolder(c.Dir); !inner.Failed() {
		t.Fatal("the scanner misses a file")
	}
	inner = &testing.T{}
	c = &Case{T: inner, Dir: t.TempDir(), Values: []string{R}}
	c.Hear("an answer", []byte("Basic "+base64.StdEncoding.EncodeToString([]byte("user:"+R))))
	if c.scan(); !inner.Failed() {
		t.Fatal("the scanner misses what a client received")
	}
}
