//go:build linux

package cases

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ratchet is the chain of a stream, made from audit/FORMAT.md and nothing else.
type ratchet struct {
	h   [32]byte
	key []byte
}

func hmacOf(key, message []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(message)
	return m.Sum(nil)
}

// line is the line that the holder of the key makes of a body.
func (r *ratchet) line(body []byte) []byte {
	d := sha256.New()
	d.Write(r.h[:])
	d.Write(body)
	d.Sum(r.h[:0])
	mac := hmacOf(r.key, r.h[:])
	r.next()
	return fmt.Appendf(bytes.Clone(body), ",\"h\":\"%x\",\"mac\":\"%x\"}\n", r.h, mac)
}

func (r *ratchet) next() { r.key = hmacOf(r.key, []byte("standin audit next key")) }

// bodyOf is what h covers of a line.
func bodyOf(line []byte) []byte { return line[:bytes.LastIndex(line, []byte(`,"h":"`))] }

func hOf(c *Case, line []byte) (h [32]byte) {
	at := bytes.LastIndex(line, []byte(`,"h":"`)) + 6
	text, err := hex.DecodeString(string(line[at : at+64]))
	if err != nil {
		c.Fatal(err)
	}
	return [32]byte(text)
}

// firstKey is the key of record 1, as whoever has the recovery key gets it.
func (c *Case) firstKey(path string) []byte {
	c.Helper()
	r := c.Standin("audit", "verify", "--print-keys", "--recovery-key-file", ground.recovery)
	stream, _, _ := strings.Cut(filepath.Base(path), "-000001.jsonl")
	for line := range strings.Lines(r.Out) {
		if id, key, _ := strings.Cut(strings.TrimSpace(line), " "); id == stream {
			text, err := hex.DecodeString(key)
			if err != nil {
				c.Fatal(err)
			}
			return text
		}
	}
	c.Fatalf("no key of stream %s: %s", stream, r.description)
	return nil
}

func anOlderCopyOfTheLog(c *Case) {
	c.NoGateway()
	receipt := filepath.Join(c.Dir, "receipt")
	s := c.Start(Start{Name: "S1", Flags: []string{"--receipt", receipt}})
	for i := range 3 {
		c.Status(s.Do(api, get(fmt.Sprintf("/user/%d", i), api, bearer(c.P))), 200)
	}
	path := c.segments()[0]
	c.Recorded(3, Want{"type": "result"})
	older := c.bytesOf(path)
	for i := range 3 {
		c.Status(s.Do(api, get(fmt.Sprintf("/user/%d", 3+i), api, bearer(c.P))), 200)
	}
	c.Recorded(6, Want{"type": "result"}) // the log is at rest
	// While the gateway lives, it says how far its log had come.
	whole := c.bytesOf(path)
	c.put(path, older[:bytes.LastIndexByte(older, '\n')+1])
	if r, _ := c.verify(); r.Code != 10 {
		c.Errorf("an older copy under a live gateway: %s", r.description)
	}
	c.put(path, whole)
	c.U1.Requests(6)
	c.Equal(s.End(), 0)
	whole = c.bytesOf(path)
	older = older[:bytes.LastIndexByte(bytes.TrimRight(older, "\x00"), '\n')+1]
	c.put(path, older)
	c.Equal(first(c.verify("--receipt", receipt)).Code, 10)
	c.Equal(first(c.verify()).Code, 12)
	// A stream that was opened since knows of it, too, and so does whoever puts
	// all of an older state back: files and what names them.
	c.put(path, whole)
	_, _, second := c.oneLog("second")
	c.put(path, older)
	c.Equal(first(c.verify()).Code, 10)
	later := c.segments()[1]
	kept := c.bytesOf(later)
	if err := os.Remove(later); err != nil {
		c.Fatal(err)
	}
	c.Equal(first(c.verify("--receipt", second)).Code, 10)
	c.Equal(first(c.verify("--receipt", receipt)).Code, 10)
	c.put(path, whole)
	c.Equal(first(c.verify("--receipt", receipt)).Code, 0) // nothing but the later receipt knows of the second
	c.put(later, kept)
	c.Equal(first(c.verify("--receipt", receipt, "--receipt", second)).Code, 0)
}

func aStolenKey(c *Case) {
	path, lines, receipt := c.oneLog("S1")
	key := c.firstKey(path)
	// The chain of this test is that of the program.
	own := ratchet{key: key}
	for i, line := range lines {
		if made := own.line(bodyOf(line)); !bytes.Equal(made, line) {
			c.Fatalf("record %d is\n%snot\n%s", i+1, made, line)
		}
	}
	at := func(target string) int {
		return slices.IndexFunc(lines, func(l []byte) bool {
			return bytes.Contains(l, []byte(`"`+target+`"`)) && bytes.Contains(l, []byte(`"substitute"`))
		})
	}
	// The thief takes the gateway's memory when it is about to write record i.
	i := at("/user/3")
	thief := ratchet{h: hOf(c, lines[i-1]), key: key}
	for range i {
		thief.next()
	}
	stolen := thief.key
	forge := func(from int, old, made string) [][]byte {
		c.Helper()
		forged := slices.Clone(lines[:from])
		h := [32]byte{}
		if from > 0 {
			h = hOf(c, lines[from-1])
		}
		r := ratchet{h: h, key: stolen}
		for n := i; n < from; n++ {
			r.next()
		}
		for n := from; n < len(lines); n++ {
			if n <= i {
				r.key = stolen // there is nothing older to be had
			}
			forged = append(forged, r.line(bytes.Replace(bodyOf(lines[n]), []byte(old), []byte(made), 1)))
		}
		return forged
	}
	// What was written before is out of reach.
	for _, target := range []string{"/user/1", "/user/2"} {
		j := at(target)
		c.rewrite(path, forge(j, target, "/usex/9"))
		r, rep := c.verify()
		if r.Code != 10 || len(rep.Problems) == 0 || rep.Problems[0].Record != j+1 {
			c.Errorf("record %d is rewritten with the key of record %d: %s", j+1, i+1, r.description)
		}
	}
	// From the theft on the thief writes what he likes, as SECURITY.md says:
	// only what was anchored elsewhere contradicts him.
	for _, target := range []string{"/user/3", "/user/4"} {
		c.rewrite(path, forge(at(target), target, "/usex/9"))
		if r, rep := c.verify(); r.Code != 12 || rep.Unproven != len(lines) {
			c.Errorf("%s is rewritten with the key that was stolen before: %s", target, r.description)
		}
		if r, _ := c.verify("--receipt", receipt); r.Code != 10 {
			c.Errorf("%s is rewritten, and the receipt knows: %s", target, r.description)
		}
	}
	c.rewrite(path, lines)
	c.Equal(first(c.verify("--receipt", receipt)).Code, 0)
}

func aLogWithoutKeys(c *Case) {
	c.NoGateway()
	c.Rules.Write()
	path := filepath.Join(c.Home, "vault.age")
	whole := c.bytesOf(path)
	for what, change := range map[string]func(map[string]any){
		"no recovery key":           func(v map[string]any) { delete(v, "recovery") },
		"an empty recovery key":     func(v map[string]any) { v["recovery"] = "" },
		"a malformed recovery key":  func(v map[string]any) { v["recovery"] = "age1notone" },
		"the private half":          func(v map[string]any) { v["recovery"] = strings.TrimSpace(lastLineOf(c, ground.recovery)) },
		"no key of the vault":       func(v map[string]any) { delete(v, "master") },
		"a short key of the vault":  func(v map[string]any) { v["master"] = "AAAA" },
		"an empty key of the vault": func(v map[string]any) { v["master"] = "" },
	} {
		c.reseal(path, ground.identity, change)
		marker := filepath.Join(c.Dir, "ran")
		r := c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "touch", marker)
		c.ErrorAndHint(r, 125, "vault.age")
		if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
			c.Errorf("%s: the command ran", what)
		}
		if files, _ := filepath.Glob(filepath.Join(c.Home, "audit", "*")); len(files) > 0 {
			c.Errorf("%s: there is a log: %q", what, files)
		}
		c.put(path, whole)
	}
	c.U1.Undialled()
	c.Exit(c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"), 0)
}

func lastLineOf(c *Case, path string) string {
	lines := strings.Split(strings.TrimSpace(string(c.bytesOf(path))), "\n")
	return lines[len(lines)-1]
}

func whereASecretStood(c *Case) {
	s := c.S1()
	t := s.Tunnel(api)
	t.Send(get("/t/"+c.P+"/x", api))
	c.Status(t.Response("GET"), 200)
	t.Send(get("/q?a=1&api_key="+c.P+"&b=2", api))
	c.Status(t.Response("GET"), 200)
	got := c.U1.Requests(2)
	c.Equal([]string{got[0].Target, got[1].Target}, []string{"/t/" + R + "/x", "/q?a=1&api_key=" + R + "&b=2"})
	for _, kind := range []string{"substitute", "result"} {
		c.Recorded(1, Want{"type": kind, "path": "/t/{github}/x"})
		c.Recorded(1, Want{"type": kind, "path": "/q"})
	}
	c.Recorded(1, Want{"type": "substitute", "surface": "path"})
	c.Recorded(1, Want{"type": "substitute", "surface": "query api_key"})
	// However it was written.
	tail := c.P[len(c.P)-26:]
	escaped := strings.Replace(c.P, "standin", "st%61nd%69n", 1)
	t.Send(get("/t/"+escaped+"/x", api))
	c.Status(t.Response("GET"), 200)
	t.Send(get("/elsewhere/"+escaped+"/x", api))
	c.Refused(t.Response("GET"), 403, "placeholder_misplaced")
	twice := slices.DeleteFunc(c.U1.Requests(3), func(q *Request) bool { return q.Target != "/t/"+R+"/x" })
	c.Equal(len(twice), 2)
	c.Recorded(2, Want{"type": "result", "path": "/t/{github}/x"})
	c.Recorded(1, Want{"type": "deny", "path": "/elsewhere/{github}/x"})
	for _, path := range c.segments() {
		for _, part := range []string{tail, "api_key=", "a=1"} {
			if bytes.Contains(c.bytesOf(path), []byte(part)) {
				c.Errorf("%q stands in the log", part)
			}
		}
	}
}

// vectorsDir holds the published vectors.
const vectorsDir = "../../../audit/testdata/vectors"

func theVectors(c *Case) {
	python := c.secondVerifier()
	var verdicts []struct {
		Log      string
		Keyed    bool
		Receipts []string
		Code     int
		Why      string
	}
	if err := json.Unmarshal(c.bytesOf(vectorsDir+"/verdicts.json"), &verdicts); err != nil || len(verdicts) < 10 {
		c.Fatalf("%d verdicts: %v", len(verdicts), err)
	}
	for _, v := range verdicts {
		home := filepath.Join(c.Dir, "vector")
		if err := errors.Join(os.RemoveAll(home), os.Mkdir(home, 0o700), os.CopyFS(filepath.Join(home, "audit"), os.DirFS(filepath.Join(vectorsDir, v.Log)))); err != nil {
			c.Fatal(err)
		}
		args, keys := []string{"audit", "verify"}, os.DevNull
		var receipts []string
		if v.Keyed {
			args, keys = append(args, "--recovery-key-file", vectorsDir+"/recovery-key.txt"), filepath.Join(vectorsDir, v.Log+".keys")
		}
		for _, name := range v.Receipts {
			receipts = append(receipts, filepath.Join(vectorsDir, name))
			args = append(args, "--receipt", filepath.Join(vectorsDir, name))
		}
		for i, arg := range args { // the program runs in the folder of the case
			if abs, err := filepath.Abs(arg); err == nil && strings.HasPrefix(arg, "..") {
				args[i] = abs
			}
		}
		if r := c.At(home, "", args...); r.Code != v.Code {
			c.Errorf("%s: the verdict is not %d: %s", v.Why, v.Code, r.description)
		}
		if code, out := python(filepath.Join(home, "audit"), keys, receipts...); code != v.Code {
			c.Errorf("%s: the verdict of the second verifier is %d, not %d: %s", v.Why, code, v.Code, out)
		}
	}
	c.U1.Undialled()
}

// secondVerifier runs examples/verify-audit and returns its verdict.
func (c *Case) secondVerifier() func(dir, keys string, receipts ...string) (int, string) {
	c.Helper()
	tool, err := exec.LookPath("python3")
	if err != nil {
		c.Skip("python3 is not installed")
	}
	return func(dir, keys string, receipts ...string) (int, string) {
		cmd := exec.Command(tool, append([]string{"../../../examples/verify-audit/verify.py", dir, keys}, receipts...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) || !bytes.Contains(out, []byte("verdict ")) {
			c.Fatalf("the second verifier broke: %v\n%s", err, out)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
}

func whatCannotBeVerified(c *Case) {
	path, lines, _ := c.oneLog("S1")
	said := map[string]string{}
	differs := func(what string, r Result, codes ...int) {
		c.Helper()
		line, _, _ := strings.Cut(r.Err, "\n")
		if !slices.Contains(codes, r.Code) || !strings.HasPrefix(line, "standin: error: ") {
			c.Errorf("%s: %s", what, r.description)
		}
		if other := said[line]; other != "" {
			c.Errorf("%s and %s are told apart by nothing: %q", what, other, line)
		}
		said[line] = what
	}
	verify := func(recovery string) Result {
		c.Helper()
		return c.Standin("audit", "verify", "--recovery-key-file", recovery)
	}
	other := filepath.Join(c.Dir, "other")
	c.Exit(c.At(other, R, "vault", "init", "--identity-file", other+".id", "--recovery-key-out", other+".recovery"), 0)
	differs("the recovery key of another vault", verify(other+".recovery"), 1)
	text := lastLineOf(c, ground.recovery)
	for what, key := range map[string]string{"half a key": text[:30], "a public key": "age1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0swkfx5v"} {
		file := filepath.Join(c.Dir, "key")
		c.put(file, []byte(key))
		if r := verify(file); r.Code != 1 || !strings.Contains(r.Err, "malformed") || strings.Contains(r.Err, key) {
			c.Errorf("%s: %s", what, r.description)
		}
	}
	c.put(filepath.Join(c.Dir, "key"), []byte("# nothing\n"))
	differs("an empty key file", verify(filepath.Join(c.Dir, "key")), 1)
	differs("no such key file", verify(filepath.Join(c.Dir, "nothing")), 1)
	c.put(path, nil)
	differs("an empty file", verify(ground.recovery), 13)
	c.rewrite(path, lines[:1])
	differs("only a head", verify(ground.recovery), 12)
	c.rewrite(path, [][]byte{lines[0][:len(lines[0])/2]})
	c.Exit(verify(ground.recovery), 13)
	c.rewrite(path, lines[1:])
	c.Exit(verify(ground.recovery), 10)
	c.put(path, []byte("not a log\n"))
	differs("something else", verify(ground.recovery), 10)
	if err := os.Remove(path); err != nil {
		c.Fatal(err)
	}
	if r := verify(ground.recovery); r.Code != 12 { // an empty log is never whole
		c.Errorf("an empty folder: %s", r.description)
	}
	c.rewrite(path, lines)
	differs("no anchor", verify(ground.recovery), 12)
}

func whatIsNoFile(c *Case) {
	c.NoGateway()
	path, lines, receipt := c.oneLog("S1")
	away := filepath.Join(c.Dir, "away")
	whole := bytes.Join(lines, nil)
	folder := filepath.Dir(path)
	marker := filepath.Join(c.Dir, "ran")
	run := func() Result {
		c.Helper()
		return c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "touch", marker)
	}
	put := func(err error) {
		c.Helper()
		if err != nil {
			c.Fatal(err)
		}
	}
	// In the place of a stream that is there: the next gateway does not read
	// through it, and verify neither waits nor calls it whole.
	for what, place := range map[string]func() error{
		"a symbolic link": func() error { return errors.Join(os.WriteFile(away, whole, 0o600), os.Symlink(away, path)) },
		"a hard link":     func() error { return errors.Join(os.WriteFile(away, whole, 0o600), os.Link(away, path)) },
		"a FIFO":          func() error { return syscall.Mkfifo(path, 0o600) },
		"a folder":        func() error { return os.Mkdir(path, 0o700) },
		"readable by all": func() error { return errors.Join(os.WriteFile(path, whole, 0o600), os.Chmod(path, 0o644)) },
	} {
		put(errors.Join(os.RemoveAll(path), os.RemoveAll(away), place()))
		c.ErrorAndHint(run(), 125, path)
		r, _ := c.verify("--receipt", receipt)
		switch what {
		case "a hard link", "readable by all": // the bytes are right; whose they are is said
			if r.Code != 0 && r.Code != 12 || !strings.Contains(r.Out, "warnings") {
				c.Errorf("%s: %s", what, r.description)
			}
		default:
			c.Equal(r.Code, 10)
		}
	}
	put(errors.Join(os.RemoveAll(path), os.RemoveAll(away), os.WriteFile(path, whole, 0o600)))
	// In the place of the folder, and of the lock.
	saved := filepath.Join(c.Dir, "saved")
	put(os.Rename(folder, saved))
	for what, place := range map[string]func() error{
		"a symbolic link": func() error { return os.Symlink(saved, folder) },
		"a FIFO":          func() error { return syscall.Mkfifo(folder, 0o600) },
		"a file":          func() error { return os.WriteFile(folder, nil, 0o600) },
	} {
		put(place())
		if r := run(); r.Code != 125 || !strings.Contains(r.Err, folder) {
			c.Errorf("%s in the place of the folder: %s", what, r.description)
		}
		put(os.Remove(folder))
	}
	put(os.Rename(saved, folder))
	lock := filepath.Join(folder, ".lock")
	for what, place := range map[string]func() error{
		"a symbolic link": func() error { return os.Symlink(away, lock) },
		"a folder":        func() error { return os.Mkdir(lock, 0o700) },
		"a FIFO":          func() error { return syscall.Mkfifo(lock, 0o600) },
	} {
		put(errors.Join(os.RemoveAll(lock), place()))
		if r := run(); r.Code != 125 || !strings.Contains(r.Err, lock) {
			c.Errorf("%s in the place of the lock: %s", what, r.description)
		}
		if _, err := os.Lstat(away); err == nil {
			c.Errorf("%s in the place of the lock: something was made through it", what)
		}
	}
	put(os.Remove(lock))
	if _, err := os.Stat(marker); err == nil {
		c.Error("a command ran without its log")
	}
	c.Exit(run(), 0)
	c.U1.asserted()
}
