package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

var update = flag.Bool("update", false, "write the test vectors anew")

const vectors = "testdata/vectors"

// A verdict is what both verifiers must say of a log.
type verdictVector struct {
	Log      string   `json:"log"`
	Keyed    bool     `json:"keyed"`
	Receipts []string `json:"receipts,omitempty"`
	Code     int      `json:"code"`
	Why      string   `json:"why"`
}

// A stepVector is one line made by hand.
type stepVector struct {
	Key     string `json:"key"`
	PrevH   string `json:"previous_h"`
	Body    string `json:"body"`
	H       string `json:"h"`
	MAC     string `json:"mac"`
	NextKey string `json:"next_key"`
}

type keyVector struct {
	Vault       string `json:"vault_key"`
	Opening     string `json:"opening_record_key"`
	Value       string `json:"value"`
	Fingerprint string `json:"fingerprint"`
}

func TestVectors(t *testing.T) {
	if *update {
		makeVectors(t)
	}
	recovery := strings.TrimSpace(string(read(t, filepath.Join(vectors, "recovery-key.txt"))))
	var verdicts []verdictVector
	load(t, "verdicts.json", &verdicts)
	if len(verdicts) < 10 {
		t.Fatalf("only %d verdicts", len(verdicts))
	}
	for _, v := range verdicts {
		o := VerifyOptions{}
		if v.Keyed {
			o.RecoveryKey = recovery
		}
		for _, name := range v.Receipts {
			anchors, err := ParseReceipt(read(t, filepath.Join(vectors, name)))
			if err != nil {
				t.Fatal(err)
			}
			o.Anchors = append(o.Anchors, anchors...)
		}
		r, err := Verify(filepath.Join(vectors, v.Log), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Code != v.Code {
			t.Errorf("%s: code %d, want %d: %v", v.Why, r.Code, v.Code, r.Problems)
		}
	}
}

func TestVectorsOfTheSteps(t *testing.T) {
	var steps []stepVector
	load(t, "steps.json", &steps)
	for _, s := range steps {
		var p point
		p.seq = 7
		p.key, _ = parseHex(s.Key)
		p.h, _ = parseHex(s.PrevH)
		c := newChain(p)
		want := fmt.Sprintf("%s,\"h\":%q,\"mac\":%q}\n", s.Body, s.H, s.MAC)
		if got := string(c.link([]byte(s.Body), 0)); got != want {
			t.Errorf("line\n%swant\n%s", got, want)
		}
		if got := hex.EncodeToString(c.key[:]); got != s.NextKey {
			t.Errorf("next key %s, want %s", got, s.NextKey)
		}
	}
	var k keyVector
	load(t, "keys.json", &k)
	vault, _ := hex.DecodeString(k.Vault)
	if opening := subkey(vault, openingLabel); hex.EncodeToString(opening[:]) != k.Opening {
		t.Errorf("opening record key %x, want %s", opening, k.Opening)
	}
	if got := Fingerprint(vault, []byte(k.Value)); got != k.Fingerprint {
		t.Errorf("fingerprint %s, want %s", got, k.Fingerprint)
	}
}

func TestSecondVerifierAgreesOnTheVectors(t *testing.T) {
	t.Parallel()
	python := findPython(t)
	var verdicts []verdictVector
	load(t, "verdicts.json", &verdicts)
	for _, v := range verdicts {
		var keys string
		if v.Keyed {
			keys = filepath.Join(vectors, v.Log+".keys")
		}
		var receipts []string
		for _, name := range v.Receipts {
			receipts = append(receipts, filepath.Join(vectors, name))
		}
		if code, out := python(filepath.Join(vectors, v.Log), keys, receipts...); code != v.Code {
			t.Errorf("%s: code %d, want %d: %s", v.Why, code, v.Code, out)
		}
	}
}

// findPython returns a function that runs the second verifier and gives its exit code.
func findPython(t testing.TB) func(dir, keys string, receipts ...string) (int, string) {
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	return func(dir, keys string, receipts ...string) (int, string) {
		args := []string{filepath.Join("..", "examples", "verify-audit", "verify.py"), dir}
		if keys == "" {
			keys = os.DevNull
		}
		out, err := exec.Command(path, append(append(args, keys), receipts...)...).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if !bytes.Contains(out, []byte("verdict ")) {
			t.Fatalf("the second verifier broke: %s", out)
		}
		if exit == nil {
			return 0, string(out)
		}
		return exit.ExitCode(), string(out)
	}
}

func load(t *testing.T, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(read(t, filepath.Join(vectors, name)), v); err != nil {
		t.Fatal(err)
	}
}

func save(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(vectors, name), append(b, '\n'))
}

// makeVectors writes everything under testdata/vectors anew, with a new recovery key.
func makeVectors(t *testing.T) {
	if err := os.RemoveAll(vectors); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(vectors, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(vectors, "recovery-key.txt"), []byte(id.String()+"\n"))
	makeSteps(t)
	h := house{filepath.Join(vectors, "whole"), Keys{Vault: bytes.Repeat([]byte{7}, 32), Recovery: id.Recipient().String()}, id.String()}
	h.fill(t, 2, Config{Version: "vectors"})
	h.fill(t, 5, Config{SegmentBytes: 2000})
	failing := &faults{}
	l, err := open(h.dir, h.keys, Config{}, failing.create)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, l, substitution(1))
	failing.fail(errTestDisk, 300, true)
	if l.Append(t.Context(), substitution(2)) == nil {
		t.Fatal("the disk did not fail")
	}
	failing.fail(nil, 0, false)
	waitRetry()
	appendTo(t, l, substitution(3))
	l.Close()
	last := h.fill(t, 3, Config{})
	save(t, "receipt.json", map[string]any{"anchor": last})
	keys := func(log string) {
		var b bytes.Buffer
		list, err := FirstKeys(filepath.Join(vectors, log), h.recovery)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range list {
			fmt.Fprintln(&b, k.Stream, k.Key)
		}
		write(t, filepath.Join(vectors, log+".keys"), b.Bytes())
	}
	keys("whole")
	verdicts := []verdictVector{
		{"whole", true, []string{"receipt.json"}, Unproven, "a write failed and left bytes behind"},
		{"whole", true, nil, Unproven, "no anchor"},
		{"whole", false, nil, OrderOnly, "no key"},
	}
	variant := func(name, why string, code int, keyed bool, change func(dir string)) {
		dir := filepath.Join(vectors, name)
		h.copyTo(t, dir)
		change(dir)
		b := read(t, filepath.Join(vectors, "whole.keys"))
		write(t, filepath.Join(vectors, name+".keys"), b)
		verdicts = append(verdicts, verdictVector{name, keyed, []string{"receipt.json"}, code, why})
	}
	files := h.files(t)
	base := func(i int) string { return filepath.Base(files[i]) }
	end := len(files) - 1
	edit := func(i int, f func(lines [][]byte) []byte) func(string) {
		return func(dir string) {
			path := filepath.Join(dir, base(i))
			write(t, path, f(bytes.SplitAfter(read(t, path), []byte("\n"))))
		}
	}
	join := func(lines [][]byte) []byte { return bytes.Join(lines, nil) }
	variant("clean", "every stream sealed and the last seal in a receipt", Whole, true, func(dir string) {
		for _, f := range files { // without the stream whose disk failed, and what follows, as if they had never been
			if name := filepath.Base(f); name > "000003" {
				os.Remove(filepath.Join(dir, name))
			}
		}
	})
	verdicts = verdicts[:len(verdicts)-1]
	clean := filepath.Join(vectors, "clean")
	sealed := h
	sealed.dir = clean
	save(t, "clean-receipt.json", map[string]any{"anchor": sealed.fill(t, 1, Config{})})
	keys("clean")
	verdicts = append(verdicts, verdictVector{"clean", true, []string{"clean-receipt.json"}, Whole, "every stream sealed and the last seal in a receipt"})
	variant("changed", "one byte changed", Tampered, true, edit(0, func(l [][]byte) []byte { return bytes.Replace(join(l), []byte("github-api"), []byte("github-apj"), 1) }))
	variant("changed-mac", "one digit of a MAC changed, with the key", Tampered, true, edit(end, func(l [][]byte) []byte {
		l[1][len(l[1])-4] ^= 1
		return join(l)
	}))
	variant("middle", "a record cut out of the middle", Tampered, true, edit(1, func(l [][]byte) []byte { return join(append(l[:1:1], l[2:]...)) }))
	variant("tail", "the end cut off, against a receipt", Tampered, true, edit(end, func(l [][]byte) []byte { return join(l[:2]) }))
	variant("stream", "a whole stream removed", Tampered, true, func(dir string) { os.Remove(filepath.Join(dir, base(0))) })
	variant("segment", "a segment removed", Tampered, true, func(dir string) { os.Remove(filepath.Join(dir, base(1))) })
	variant("behind", "bytes behind the seal", Tampered, true, edit(end, func(l [][]byte) []byte { return join(append(l, []byte(`{"seq":99,"ti`))) }))
	variant("torn", "an unfinished last line", Torn, true, edit(end, func(l [][]byte) []byte {
		all := join(l)
		return all[:len(all)-100]
	}))
	verdicts[len(verdicts)-1].Receipts = nil
	save(t, "verdicts.json", verdicts)
	for _, log := range []string{"whole", "clean"} {
		os.Remove(filepath.Join(vectors, log, lockName))
	}
}

func makeSteps(t *testing.T) {
	key := hex.EncodeToString(bytes.Repeat([]byte{1}, 32))
	prev := strings.Repeat("00", 32)
	var steps []stepVector
	for i, body := range []string{
		`{"seq":1,"time":"2026-01-02T03:04:05.000006Z","mono":0,"type":"mark"`,
		`{"seq":2,"time":"2026-01-02T03:04:05.000007Z","mono":1,"type":"deny","host":"b\u00fccher.test","code":"no_grant"`,
	} {
		var p point
		p.key, _ = parseHex(key)
		p.h, _ = parseHex(prev)
		p.seq = uint64(i + 1)
		c := newChain(p)
		l, err := parseLine(c.link([]byte(body), 0))
		if err != nil {
			t.Fatal(err)
		}
		s := stepVector{key, prev, body, hex.EncodeToString(l.h[:]), hex.EncodeToString(l.mac[:]), hex.EncodeToString(c.key[:])}
		steps = append(steps, s)
		key, prev = s.NextKey, s.H
	}
	save(t, "steps.json", steps)
	vault := bytes.Repeat([]byte{7}, 32)
	opening := subkey(vault, openingLabel)
	value := "ghp_REALrealREALreal0123456789"
	save(t, "keys.json", keyVector{hex.EncodeToString(vault), hex.EncodeToString(opening[:]), value, Fingerprint(vault, []byte(value))})
}
