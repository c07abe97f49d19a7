package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zalando/go-keyring"
)

// clock is a time that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

func newResolver(t testing.TB, cfg ResolverConfig) (*Resolver, *clock) {
	c := &clock{now: time.Unix(1700000000, 0)}
	cfg.Now = c.Now
	r := NewResolver(cfg)
	t.Cleanup(r.Close)
	return r, c
}

func resolve(t testing.TB, r *Resolver, source, value, version string) {
	t.Helper()
	v, err := r.Resolve(t.Context(), source, 0)
	if err != nil || string(v.Secret.Reveal()) != value || v.Version != version {
		t.Errorf("%s: version %q, error %v", source, v.Version, err)
	}
}

func refuse(t testing.TB, r *Resolver, source string, cause Cause) *SourceError {
	t.Helper()
	v, err := r.Resolve(t.Context(), source, 0)
	var bad *SourceError
	if !errors.As(err, &bad) || bad.Cause != cause || !v.Secret.IsZero() {
		t.Errorf("%s: %v, want cause %q", source, err, cause)
		return nil
	}
	if leaks([]byte(err.Error())) != "" {
		t.Errorf("%s: the error shows the value", source)
	}
	return bad
}

func write(t testing.TB, mode os.FileMode, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVaultSource(t *testing.T) {
	t.Parallel()
	_, s := newVault(t)
	set(t, s, "github/token", canary)
	r, _ := newResolver(t, ResolverConfig{Store: s})
	resolve(t, r, "vault:github/token", canary, "1")
	refuse(t, r, "vault:none", CauseNotFound)
	refuse(t, r, "vault:"+strings.ToUpper(canary), CauseMalformed)
	if _, err := r.Resolve(t.Context(), "vault:github/token", len(canary)+1); err == nil {
		t.Error("a value below min-length was given out")
	}
	without, _ := newResolver(t, ResolverConfig{})
	refuse(t, without, "vault:github/token", CauseUnavailable)
}

func TestEnvSourceReadsTheUsersEnvironment(t *testing.T) {
	t.Parallel()
	r, _ := newResolver(t, ResolverConfig{Environ: []string{"TOKEN=" + canary, "EMPTY=", "WEAK=password", "LEFT=zstandin_abcdefghijklmnop"}})
	resolve(t, r, "env:TOKEN", canary, "1")
	refuse(t, r, "env:EMPTY", CauseNotFound)
	refuse(t, r, "env:PATH", CauseNotFound) // not the process's own
	refuse(t, r, "env:WEAK", CauseRefused)
	refuse(t, r, "env:LEFT", CauseRefused) // a placeholder must not become a value
}

func TestFileSource(t *testing.T) {
	t.Parallel()
	r, c := newResolver(t, ResolverConfig{})
	path := write(t, 0o644, canary+"\r\n")
	resolve(t, r, "file:"+path, canary, "1")
	os.WriteFile(path, []byte(canary+"2\n\n"), 0o600)
	resolve(t, r, "file:"+path, canary, "1")
	c.pass(time.Second)
	resolve(t, r, "file:"+path, canary+"2\n", "2")
	os.Remove(path)
	c.pass(time.Second)
	refuse(t, r, "file:"+path, CauseNotFound) // never the old value
	os.WriteFile(path, []byte(canary), 0o600)
	refuse(t, r, "file:"+path, CauseNotFound)
	c.pass(2 * time.Second)
	resolve(t, r, "file:"+path, canary, "3")

	env := write(t, 0o600, "A=1\nTOKEN=old-4711-Value\nexport TOKEN='"+canary+"'\n")
	resolve(t, r, "file:"+env+"#TOKEN", canary, "1")
	refuse(t, r, "file:"+env+"#NONE", CauseNotFound)
	refuse(t, r, "file:"+write(t, 0o600, "'"+canary)+"#A", CauseUnavailable)
	object := write(t, 0o400, ` {"token":"`+canary+`","a":{"b/c":"`+canary+`"},"n":1,"z":null}`)
	resolve(t, r, "file:"+object+"#token", canary, "1")
	resolve(t, r, "file:"+object+"#/a/b~1c", canary, "1")
	refuse(t, r, "file:"+object+"#none", CauseNotFound)
	for _, key := range []string{"n", "z", "a", "/token/x"} {
		refuse(t, r, "file:"+object+"#"+key, CauseUnavailable)
	}
	refuse(t, r, "file:"+write(t, 0o600, `{"token":"`+canary)+"#token", CauseUnavailable)
	refuse(t, r, "file:"+t.TempDir(), CauseUnavailable)
	refuse(t, r, "file:relative", CauseMalformed)
	var mode *ModeError
	if err := refuse(t, r, "file:"+write(t, 0o666, canary), CauseUnavailable); err != nil && (!errors.As(err, &mode) || !strings.HasPrefix(mode.Fix, "chmod go-w ")) {
		t.Errorf("a file that others can write: %v", err)
	}
	refuse(t, r, "file:"+write(t, 0o600, strings.Repeat("x", maxOutput+1)), CauseUnavailable)
}

func TestExecSource(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("needs /bin/sh")
	}
	count := filepath.Join(t.TempDir(), "count")
	sh := func(script string, more ...string) ExecSource {
		return ExecSource{Command: append([]string{"sh", "-c", script, "sh"}, more...), Timeout: 5 * time.Second, TTL: time.Minute,
			Env: []string{"PASSED", "SET=yes"}}
	}
	hang := sh("echo " + canary + "; sleep 60")
	hang.Timeout = 50 * time.Millisecond
	r, c := newResolver(t, ResolverConfig{
		Environ: []string{"PATH=/usr/bin:/bin", "HOME=/", "PASSED=passed", "OTHER=" + canary, "AWS_SECRET_ACCESS_KEY=" + canary},
		Exec: map[string]ExecSource{
			"good":    sh("echo x >>" + count + "; printf '%s\\n' " + canary),
			"args":    sh(`printf '%s' "$1-$#"`, "$(id) ; A4711b"),
			"env":     sh("env | sort | tr '\\n' ' '; pwd"),
			"fails":   sh("echo " + canary + "; echo " + canary + " >&2; exit 3"),
			"hangs":   hang,
			"floods":  sh("yes " + canary),
			"empty":   sh("true"),
			"missing": {Command: []string{"standin-no-such-command"}},
			"here":    {Command: []string{"./" + canary}},
			"daemon":  sh("sleep 3 & printf %s " + canary),
		}})
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() { resolve(t, r, "exec:good", canary, "1") })
	}
	all.Wait()
	if ran, _ := os.ReadFile(count); string(ran) != "x\n" {
		t.Errorf("32 callers ran the command %d times", len(ran)/2)
	}
	c.pass(2 * time.Minute)
	resolve(t, r, "exec:good", canary, "1")
	if ran, _ := os.ReadFile(count); string(ran) != "x\nx\n" {
		t.Error("after the ttl the command was not run once more")
	}
	resolve(t, r, "exec:args", "$(id) ; A4711b-1", "1")
	v, err := r.Resolve(t.Context(), "exec:env", 0)
	if env := string(v.Secret.Reveal()); err != nil || leaks([]byte(env)) != "" || !strings.Contains(env, "PASSED=passed ") ||
		!strings.Contains(env, "SET=yes ") || strings.Contains(env, "OTHER") || strings.Contains(env, "AWS") || !strings.HasSuffix(env, "/") {
		t.Errorf("the command's environment: %s %v", env, err)
	}
	if bad := refuse(t, r, "exec:fails", CauseUnavailable); bad != nil && !strings.Contains(bad.Error(), "code 3") {
		t.Error(bad)
	}
	start := time.Now()
	refuse(t, r, "exec:hangs", CauseTimeout)
	refuse(t, r, "exec:floods", CauseUnavailable)
	if passed := time.Since(start); passed > 10*time.Second {
		t.Errorf("ending them took %v", passed)
	}
	refuse(t, r, "exec:empty", CauseRefused)
	refuse(t, r, "exec:missing", CauseNotFound)
	refuse(t, r, "exec:here", CauseNotFound)
	refuse(t, r, "exec:none", CauseNotFound)
	resolve(t, r, "exec:daemon", canary, "1")
}

func TestFailingSourceIsNotTriedForEachRequest(t *testing.T) {
	t.Parallel()
	count := filepath.Join(t.TempDir(), "count")
	r, c := newResolver(t, ResolverConfig{Environ: []string{"PATH=/bin:/usr/bin"}, Exec: map[string]ExecSource{
		"fails": {Command: []string{"sh", "-c", "echo x >>" + count + "; exit 1"}}}})
	for range 5 {
		refuse(t, r, "exec:fails", CauseUnavailable)
	}
	c.pass(2 * time.Second)
	refuse(t, r, "exec:fails", CauseUnavailable)
	if ran, _ := os.ReadFile(count); string(ran) != "x\nx\n" {
		t.Errorf("it was run %d times", len(ran)/2)
	}
}

func TestWaitingEndsWithTheRequestAndReadingGoesOn(t *testing.T) {
	t.Parallel()
	gate := filepath.Join(t.TempDir(), "gate")
	r, _ := newResolver(t, ResolverConfig{Environ: []string{"PATH=/bin:/usr/bin"}, Exec: map[string]ExecSource{
		"slow": {Command: []string{"sh", "-c", "while [ ! -e " + gate + " ]; do sleep 0.01; done; echo " + canary}}}})
	first := make(chan error, 1)
	go func() { _, err := r.Resolve(context.Background(), "exec:slow", 0); first <- err }()
	for busy := false; !busy; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		busy = len(r.flights) == 1
		r.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Resolve(ctx, "exec:slow", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that is gone waits: %v", err)
	}
	os.WriteFile(gate, nil, 0o600)
	if err := <-first; err != nil {
		t.Error(err)
	}
	resolve(t, r, "exec:slow", canary, "1")
}

func TestCloseEndsCommands(t *testing.T) {
	t.Parallel()
	r, _ := newResolver(t, ResolverConfig{Environ: []string{"PATH=/bin:/usr/bin", "A=" + canary}, Exec: map[string]ExecSource{
		"slow": {Command: []string{"sleep", "60"}, Timeout: time.Minute}}})
	done := make(chan struct{})
	go func() { refuse(t, r, "exec:slow", CauseUnavailable); close(done) }()
	for busy := false; !busy; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		busy = len(r.flights) == 1
		r.mu.Unlock()
	}
	r.Close()
	<-done
	refuse(t, r, "env:A", CauseUnavailable)
}

// Not parallel: the keyring's fake belongs to the whole process.
func TestKeyringSource(t *testing.T) {
	keyring.MockInit()
	keyring.Set("work", "me/too", canary)
	r, _ := newResolver(t, ResolverConfig{})
	resolve(t, r, "keyring:work/me/too", canary, "1")
	refuse(t, r, "keyring:work/none", CauseNotFound)
	keyring.MockInitWithError(errors.New("no bus"))
	refuse(t, r, "keyring:work/other", CauseUnavailable)
}

func TestOtherSourcesParseAndAreNotServed(t *testing.T) {
	t.Parallel()
	r, _ := newResolver(t, ResolverConfig{})
	for text, want := range map[string]Source{"hcp:kv/github/x#token": {"hcp", "kv/github/x", "token"},
		"aws-sm:prod/db#password": {"aws-sm", "prod/db", "password"}, "aws-sm:arn:aws:secretsmanager:eu-west-1:1:secret:x": {"aws-sm", "arn:aws:secretsmanager:eu-west-1:1:secret:x", ""},
		"op:Work/GitHub/token": {"op", "Work/GitHub/token", ""}} {
		if got, err := ParseSource(text); err != nil || got != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
		var unsupported *UnsupportedSourceError
		if bad := refuse(t, r, text, CauseUnsupported); bad != nil && !errors.As(bad, &unsupported) {
			t.Errorf("%s: %v", text, bad)
		}
	}
	for _, text := range []string{"", canary, "vault:", "vault:A", "env:", "env:A B", "env:1", "file:", "file:#a", "exec:a b", "keyring:x", "hcp:x#y", "hcp:a/b",
		"op:a/b", "op:a/b/c/d", "http://x", "aws-sm:", "VAULT:a", "file:/a\n", "env:" + strings.Repeat("A", 5000)} {
		if got, err := ParseSource(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
		if !strings.HasPrefix(text, "vault:") {
			refuse(t, r, text, CauseMalformed)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	_, s := newVault(b)
	set(b, s, "github/token", canary)
	path := write(b, 0o600, canary)
	r := NewResolver(ResolverConfig{Store: s, Environ: []string{"TOKEN=" + canary}})
	defer r.Close()
	for _, source := range []string{"vault:github/token", "env:TOKEN", "file:" + path} {
		b.Run(fmt.Sprint(strings.Split(source, ":")[0]), func(b *testing.B) {
			b.ReportAllocs()
			ctx := context.Background()
			for b.Loop() {
				if _, err := r.Resolve(ctx, source, 8); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
