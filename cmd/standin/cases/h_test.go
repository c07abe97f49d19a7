//go:build linux

package cases

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// What the user keeps: the rules file, the vault, the folders.

func sectionH() []entry {
	return append([]entry{
		{"H01", malformedRules},
		{"H02", rulesThatExplode},
		{"H04", unknownKeys},
		{"H05", saidTwice},
		{"H08", hostsOutsideTheGrammar},
		{"H10", halfAFile},
		{"H11", emptyRules},
	}, append(sectionHModes(), sectionHState()...)...)
}

// file writes a rules file of its own.
func (c *Case) rulesFile(name, text string) string {
	c.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.Fatal(err)
	}
	return path
}

// faulty asserts that "rules check" refuses a text and says why with all the
// words.
func (c *Case) faulty(text string, words ...string) Result {
	c.Helper()
	r := c.Standin("rules", "check", "--rules", c.rulesFile("faulty.yaml", text))
	c.ErrorAndHint(r, 1, words...)
	return r
}

// refusedRules asserts that no command takes a rules file, that each says why
// with all the words, and that what was to run did not. It returns what check
// said.
func (c *Case) refusedRules(path string, words ...string) Result {
	c.Helper()
	check := c.Standin("rules", "check", "--rules", path)
	c.ErrorAndHint(check, 1, words...)
	c.ErrorAndHint(c.Standin("rules", "trust", "--yes", "--rules", path), 1, words...)
	ran := filepath.Join(c.Dir, "ran")
	c.ErrorAndHint(c.Standin("run", "--rules", path, "--isolation", "session", "--", "touch", ran), 125, words...)
	if _, err := os.Lstat(ran); err == nil {
		c.Errorf("the command ran with rules %s", path)
		_ = os.Remove(ran)
	}
	return check
}

var atLine = regexp.MustCompile(`line \d+`)

func malformedRules(c *Case) {
	// The old rules are in use, and stay so.
	s := c.S1()
	old, err := os.ReadFile(c.Rules.Path)
	if err != nil {
		c.Fatal(err)
	}
	utf16 := "\xff\xfe"
	for _, r := range "version: 1\n" {
		utf16 += string(r) + "\x00"
	}
	secret := func(value string) string { return "version: 1\nsecrets:\n  a: {source: \"" + value + "\"}\n" }
	for name, file := range map[string]struct{ text, word string }{
		"a tab first":       {"\tversion: 1\n", "YAML"},
		"a tab":             {"version: 1\nrules:\n\t- {name: a, hosts: [a.example.com]}\n", "line 3"},
		"bad UTF-8":         {secret("vault:a/\xff\xfe"), "UTF-8"},
		"overlong UTF-8":    {secret("vault:a/\xc0\xaf"), "UTF-8"},
		"UTF-16":            {utf16, "UTF-8"},
		"NUL":               {"version: 1\nru\x00les: []\n", "line 2"},
		"a bracket":         {"version: 1\nrules: [{name: a\n", "YAML"},
		"a quote":           {"version: 1\nrules: \"\n", "YAML"},
		"two documents":     {"version: 1\n---\nversion: 1\n", "document"},
		"a list":            {"- version: 1\n", "line 1"},
		"a word":            {"rules\n", "line 1"},
		"no version":        {"rules: []\n", "version"},
		"version 2":         {"version: 2\n", "version"},
		"a merge key":       {"version: 1\nrules:\n  - {<<: {name: a}, hosts: [a.example.com]}\n", "line 3"},
		"a scalar of 5 MiB": {secret("vault:" + strings.Repeat("a", 5<<20)), "1 MiB"},
	} {
		r := c.faulty(file.text, file.word)
		if !atLine.MatchString(r.Err) && file.word != "1 MiB" {
			c.Errorf("%s: the error names no line: %s", name, r.Err)
		}
		if !strings.Contains(r.Err, "faulty.yaml") {
			c.Errorf("%s: the error names no file: %s", name, r.Err)
		}
	}
	// 100 MiB are not read.
	huge := c.rulesFile("bad.yaml", "version: 1\n")
	if err := os.Truncate(huge, 100<<20); err != nil {
		c.Fatal(err)
	}
	cmd := c.Command(nil, "rules", "check", "--rules", huge)
	r := c.Finish(cmd)
	c.ErrorAndHint(r, 1, "1 MiB")
	c.small(cmd, r)
	// The same file, spoilt while a session lives on it.
	if err := os.WriteFile(c.Rules.Path, append(old, "\thsot: x\n"...), 0o644); err != nil {
		c.Fatal(err)
	}
	c.refusedRules(c.Rules.Path)
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
	if err := os.WriteFile(c.Rules.Path, old, 0o644); err != nil {
		c.Fatal(err)
	}
	c.Exit(c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"), 0)
}

// small asserts that a command that has ended took little memory and time.
func (c *Case) small(cmd *exec.Cmd, r Result) {
	c.Helper()
	used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		c.Fatal("the system does not say what a process used")
	}
	// The child's peak counts what this process held when it forked.
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		c.Fatal(err)
	}
	if cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); cpu > 3*time.Second && os.Getenv("STANDIN_RACE") != "1" {
		c.Errorf("%s took %v of processor time", r.description, cpu)
	}
	if own.Maxrss < 64<<10 {
		c.within("memory of the command", int(used.Maxrss), 128<<10)
	}
}

func rulesThatExplode(c *Case) {
	c.NoGateway()
	laughs := "version: 1\na: &a [x, x, x, x, x, x, x, x, x]\n"
	for letter := 'b'; letter <= 'i'; letter++ {
		before := string(letter - 1)
		laughs += fmt.Sprintf("%c: &%c [%s]\n", letter, letter, strings.Repeat("*"+before+", ", 8)+"*"+before)
	}
	deep := func(open, middle, shut string) string {
		return "version: 1\nrules: " + strings.Repeat(open, 200_000) + middle + strings.Repeat(shut, 200_000) + "\n"
	}
	full := func(rule string) string { // just under the limit
		var b strings.Builder
		b.WriteString("version: 1\nrules:\n")
		for i := 0; b.Len() < 900<<10; i++ {
			fmt.Fprintf(&b, rule, i, i)
		}
		return b.String()
	}
	many := full("  - {name: n%d, hosts: [\"h%d.example.com\"], paths: [\"/a/**\"]}\n")
	same := full("  - {name: n%d, hosts: [a.example.com], paths: [\"/%d/**\"]}\n")
	for name, file := range map[string]struct {
		text, word string
		code       int
	}{
		"billion laughs":   {laughs, "anchor", 1},
		"depth, lists":     {deep("[", "", "]"), "YAML", 1},
		"depth, maps":      {"version: 1\nrules: " + strings.Repeat("{a: ", 200_000) + "\n", "YAML", 1},
		"a key of a MiB":   {"version: 1\n" + strings.Repeat("k", 1<<20-20) + ": 1\n", "YAML", 1},
		"10^5 keys":        {"version: 1\n" + strings.Repeat("k: 1\n", 100_000), "twice", 1},
		"very many rules":  {many, "", 0},
		"one host, always": {same, "", 0},
	} {
		path := c.rulesFile("bomb.yaml", file.text)
		cmd := c.Command(nil, "rules", "check", "--rules", path)
		r := c.Finish(cmd)
		if r.Code != file.code {
			c.Errorf("%s: %s", name, r.description)
		}
		c.small(cmd, r)
		if file.code != 0 {
			r.Err = clip(r.Err)
			c.ErrorAndHint(r, 1)
			if len(r.Err) > 8<<10 {
				c.Errorf("%s: the errors are %d bytes long", name, len(r.Err))
			}
			c.Exit(c.Standin("run", "--rules", path, "--", "true"), 125)
		}
	}
	c.U1.Undialled()
}

func unknownKeys(c *Case) {
	c.NoGateway()
	for text, words := range map[string][]string{
		"version: 1\nrulse: []\n": {"line 2", "rulse", `"rules"`},
		"version: 1\nhsot: a\n":   {"line 2", "hsot"},
		"version: 1\nrules:\n  - {name: a, hsot: [a.example.com]}\n":                                           {"line 3", "hsot", `"hosts"`},
		"version: 1\nrules:\n  - {name: a, host: [a.example.com]}\n":                                           {"line 3", `"host"`, `"hosts"`},
		"version: 1\nrules:\n  - {name: a, hosts: [a.example.com], pathes: [/]}\n":                             {"line 3", "pathes", `"paths"`},
		"version: 1\nrules:\n  - {name: a, hosts: [a.example.com], Methods: [GET]}\n":                          {"line 3", `"methods"`},
		"version: 1\nsecrets:\n  a: {source: \"vault:a/b\", shapes: x_}\n":                                     {"line 3", "shapes", `"shape"`},
		"version: 1\nprofiles:\n  default: {secrets: [], isolaton: session}\n":                                 {"line 3", "isolaton", `"isolation"`},
		"version: 1\nupstreams:\n  a.example.com: {dail: \"10.0.0.1:1\"}\n":                                    {"line 3", "dail", `"dial"`},
		"version: 1\nrules:\n  - {name: a, hosts: [a.example.com], deny: ja}\n":                                {"line 3", "deny"},
		"version: 1\nrules:\n  - {name: a, hosts: a.example.com, methods: {GET: 1}}\n":                         {"line 3"},
		"version: 1\nunmatched: allow\n":                                                                       {"line 2", "unmatched"},
		"version: 1\nprofiles:\n  default: {secrets: [nobody]}\n":                                              {"line 3", "nobody"},
		"version: 1\nprofiles:\n  default: {secrets: [], isolation: container}\n":                              {"line 3", "isolation"},
		"version: 1\nrules:\n  - {name: a, hosts: [a.example.com], substitute: [{secret: s, in: header X}]}\n": {"line 3"},
	} {
		c.faulty(text, words...)
	}
	c.refusedRules(c.rulesFile("unknown.yaml", "version: 1\nhsot: a\n"), "hsot")
	c.U1.Undialled()
}

func saidTwice(c *Case) {
	c.NoGateway()
	head := "version: 1\nsecrets:\n  a: {source: \"vault:a/b\"}\n  b: {source: \"vault:b/c\"}\nrules:\n"
	put := func(name, secret, where, more string) string {
		return fmt.Sprintf("  - {name: %s, hosts: [a.example.com], %ssubstitute: [{secret: %s, in: header %s}]}\n", name, more, secret, where)
	}
	for text, words := range map[string][]string{
		"version: 1\nversion: 1\n":                                                           {"line 2", "line 1"},
		"version: 1\nrules: []\nunmatched: deny\nrules: []\n":                                {"line 4", "line 2"},
		"version: 1\nsecrets:\n  a: {source: \"vault:a/b\"}\n  a: {source: \"vault:c/d\"}\n": {"line 4", "line 3"},
		"version: 1\nsecrets:\n  a: {source: \"vault:a/b\", source: \"vault:c/d\"}\n":        {"line 3"},
		head + put("one", "a", "X", "") + put("one", "a", "Y", "paths: [/y], "):              {"line 7", "line 6", `"one"`},
		head + put("one", "a", "X", "") + put("two", "a", "X", ""):                           {"line 7", "line 6"},
		// The same host with another header: which of the two would it be?
		head + put("one", "a", "X-Api-Key", "") + put("two", "b", "Authorization", ""):                                 {"line 7", "line 6"},
		head + put("one", "a", "X", "paths: [\"/v1/*\"], ") + put("two", "b", "Y", "paths: [\"/v1/*\"], "):             {"line 7"},
		head + put("one", "a", "X", "methods: [GET, POST], ") + put("two", "b", "Y", "methods: [POST, PUT], "):         {"line 7"},
		head + put("one", "a", "X", "") + "  - {name: two, hosts: [a.example.com], passthrough: true, reason: pins}\n": {"line 7"},
		head + "  - {name: one, hosts: [a.example.com, a.example.com]}\n":                                              {"line 6"},
	} {
		c.faulty(text, words...)
	}
	c.refusedRules(c.rulesFile("twice.yaml", "version: 1\nversion: 1\n"), "line 2")
	// What one of them is the more specific of is no fault.
	good := c.rulesFile("good.yaml", head+put("one", "a", "X", "")+put("two", "b", "Y", "methods: [GET], ")+put("three", "b", "Y", "paths: [\"/v1/*\"], "))
	c.Exit(c.Standin("rules", "check", "--rules", good), 0)
	c.U1.Undialled()
}

func hostsOutsideTheGrammar(c *Case) {
	c.NoGateway()
	for _, host := range []string{
		"yes", "1.0", "0x10", "~", "12:30", "1e5", "017700000001", "2130706433", "!!binary aGk=", "!!str a.example.com",
		`"a\0b\nc"`, `"a b.example.com"`, `"a.example.com\n"`, `"a.example.com/"`, `"https://a.example.com"`, "A.example.com", "a.example.com.", ".example.com",
		`"*"`, `"*.com"`, `"a.*.example.com"`, `"**.example.com"`, `"a..example.com"`, "-a.example.com", `"a.example.com:0"`, `"a.example.com:70000"`,
		`"a.example.com:https"`, "bücher.example.com", `""`, "[a.example.com]", "null", "{}", `"0x7f.0.0.1"`, `"127.1"`, `"[::1"`, `"fe80::1%eth0"`,
		"a_b.example.com.", strings.Repeat("a", 64) + ".example.com", strings.Repeat("a.", 130) + "com", `"user@a.example.com"`, `"аpi.example.com"`,
	} {
		r := c.faulty("version: 1\nrules:\n  - {name: a, hosts: ["+host+"]}\n", "line 3")
		if c.Failed() {
			c.Fatalf("host %s: %s", host, r.description)
		}
	}
	c.refusedRules(c.rulesFile("host.yaml", "version: 1\nrules:\n  - {name: a, hosts: [yes]}\n"), "line 3")
	for _, host := range []string{"a.example.com", `"*.example.com"`, `"a.example.com:8443"`, "10.1.2.3", `"[2001:db8::1]:443"`, "xn--bcher-kva.example.com"} {
		if r := c.Standin("rules", "check", "--rules", c.rulesFile("host.yaml", "version: 1\nrules:\n  - {name: a, hosts: ["+host+"]}\n")); r.Code != 0 {
			c.Errorf("host %s: %s", host, r.description)
		}
	}
	c.U1.Undialled()
}

func halfAFile(c *Case) {
	s := c.S1()
	good, err := os.ReadFile(c.Rules.Path)
	if err != nil {
		c.Fatal(err)
	}
	trust, err := os.ReadFile(filepath.Join(c.Home, "vault.age")) // what is trusted lies there
	if err != nil {
		c.Fatal(err)
	}
	// All of the good file stands in front of the fault, and none of it is used.
	for i, fault := range []string{"nonsense: 1\n", "unmatched: [1]\n", "secrets: {}\n", "\"\n", "\x00", "unmatched: deny\nunmatched: passthrough\n"} {
		if err := os.WriteFile(c.Rules.Path, append(bytes.Clone(good), fault...), 0o644); err != nil {
			c.Fatal(err)
		}
		if i == 0 {
			c.refusedRules(c.Rules.Path)
		}
		c.Exit(c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"), 125)
		for _, args := range [][]string{{"rules", "explain", "GET", "https://" + api + "/user"}, {"rules", "placeholder", "github"}} {
			r := c.Standin(append(args, "--rules", c.Rules.Path)...)
			if r.Code == 0 || r.Out != "" {
				c.Errorf("%q is said of a file with %q behind it: %s", args, fault, r.description)
			}
		}
	}
	if now, err := os.ReadFile(filepath.Join(c.Home, "vault.age")); err != nil || !bytes.Equal(now, trust) {
		c.Errorf("a file that cannot be read changed what is trusted: %v", err)
	}
	// A fault that decodes well: the type fits, the meaning does not.
	if err := os.WriteFile(c.Rules.Path, bytes.Replace(good, []byte("rules:\n"), []byte("rules:\n  - {name: later, hosts: [No.Body]}\n"), 1), 0o644); err != nil {
		c.Fatal(err)
	}
	c.refusedRules(c.Rules.Path, "rule \"later\"")
	// The session that lives uses what it began with.
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
	if err := os.WriteFile(c.Rules.Path, good, 0o644); err != nil {
		c.Fatal(err)
	}
	c.Exit(c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"), 0)
}

func emptyRules(c *Case) {
	c.NoGateway()
	for name, text := range map[string]string{
		"empty": "", "blank": "\n\n  \n", "comments": "# nothing\n# yet\n", "version only": "version: 1\n", "document mark": "---\n",
	} {
		path := c.rulesFile("empty.yaml", text)
		r := c.Standin("rules", "check", "--rules", path)
		if r.Code != 0 || !strings.Contains(r.Out+r.Err, "nothing is granted") || !strings.Contains(r.Out+r.Err, "every host is refused") {
			c.Errorf("%s: %s", name, r.description)
		}
		c.ErrorAndHint(c.Standin("run", "--rules", path, "--", "true"), 125, "trust")
		c.Exit(c.Standin("rules", "trust", "--yes", "--rules", path), 0)
		// It runs, and reaches nobody.
		r = c.Standin("run", "--rules", path, "--isolation", "session", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_connect}", "https://"+api+"/")
		if r.Code != 56 || r.Out != "403" {
			c.Errorf("%s: curl reaches the host: %s", name, r.description)
		}
	}
	c.Recorded(5, Want{"type": "deny", "code": "unmatched_denied", "host": api})
	// A key without a value is more likely an accident.
	c.faulty("version: 1\nrules:\n", "line 2")
	c.U1.Undialled()
}

// modes are those of all that lies under a folder.
func modes(c *Case, root string, each func(path string, info fs.FileInfo)) {
	c.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			each(path, info)
		}
		return err
	})
	if err != nil {
		c.Error(err)
	}
}
