//go:build linux

package cases

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// R is the real value. It may stand in the requests that U1, U1b, UE and UR
// recorded, and nowhere else.
const R = "ghp_REALrealREALreal0123456789"

// commandRole is the first argument with which this test binary plays the
// command that "standin run" starts.
const commandRole = "play-the-command"

// relayRole, as a further argument, makes the command a relay to its proxy.
const relayRole = "relay"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == commandRole {
		os.Exit(playCommand())
	}
	if len(os.Args) > 1 && os.Args[1] == clientRole {
		os.Exit(playClient(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == roomRole {
		os.Exit(playInTheRoom(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == filterRole {
		os.Exit(playTheContainer(os.Args[2:]))
	}
	flag.Parse()
	// Cases wait for processes and sockets more than they compute.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue && flag.Lookup("test.fuzz").Value.String() == "" {
		_ = flag.Set("test.parallel", "8")
	}
	code := m.Run()
	if ground.dir != "" && os.Getenv("STANDIN_KEEP") == "" {
		_ = os.RemoveAll(ground.dir)
	}
	os.Exit(code)
}

// commandReport is what the command tells the suite about itself.
type commandReport struct {
	PID   int
	Args  []string
	Env   []string
	Relay string // where it relays to its proxy, if it was asked to
}

// playCommand prints its environment as one line and then lives until its
// standard input ends.
func playCommand() int {
	report := commandReport{PID: os.Getpid(), Args: os.Args, Env: os.Environ()}
	if slices.Contains(os.Args, relayRole) {
		report.Relay = relay(os.Getenv("HTTPS_PROXY"))
	}
	line, err := json.Marshal(report)
	if err != nil {
		return 1
	}
	fmt.Printf("%s\n", line)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	return 0
}

// grounds is what all cases share: the program, and a home with a vault, which
// each case copies.
type grounds struct {
	once sync.Once
	err  error

	dir      string // short: paths of unix sockets end at 107 bytes
	program  string
	faulty   func() (string, error) // a build that panics in every substitution, the value in its hand
	panicky  func() (string, error) // a build that panics where a name says so
	home     string
	identity string
	recovery string // file with the recovery key of the audit log
	p        string // the placeholder of R in this home
	modules  func() (string, error)
}

var ground grounds

// setup builds the program and makes the home, once.
func (g *grounds) setup() error {
	g.once.Do(func() { g.err = g.make() })
	return g.err
}

func (g *grounds) make() (err error) {
	if from := os.Getenv(withinVariable); from != "" {
		return g.adopt(from)
	}
	if g.dir, err = os.MkdirTemp("", "sc"); err != nil {
		return err
	}
	if g.program = os.Getenv(programVariable); g.program == "" {
		if g.program, err = g.build("standin"); err != nil {
			return err
		}
	}
	g.faulty = sync.OnceValues(func() (string, error) {
		return g.build("standin-fault", "-tags", "fault", "-ldflags", "-X standin/grant.fault=panic")
	})
	g.modules = sync.OnceValues(g.npm)
	g.panicky = sync.OnceValues(func() (string, error) {
		return g.build("standin-panics", "-tags", "fault", "-ldflags", "-X standin/grant.fault=panics")
	})
	g.home = filepath.Join(g.dir, "home")
	g.identity = filepath.Join(g.dir, "identity.txt")
	g.recovery = filepath.Join(g.dir, "recovery.txt")
	if err := g.run("", "vault", "init", "--identity-file", g.identity, "--recovery-key-out", g.recovery); err != nil {
		return err
	}
	if err := g.run(R+"\n", "vault", "set", "github/token"); err != nil {
		return err
	}
	g.p, err = g.firstPlaceholder()
	return err
}

// githubEntry is the entry of R under "secrets:".
const githubEntry = "github: {source: \"vault:github/token\", shape: ghp_, env: [GITHUB_TOKEN, GH_TOKEN]}"

// firstPlaceholder runs a command once, so that the home has the placeholder
// that all copies of it then share.
func (g *grounds) firstPlaceholder() (string, error) {
	rules := filepath.Join(g.dir, "first.yaml")
	if err := os.WriteFile(rules, []byte("version: 1\nsecrets:\n  "+githubEntry+"\n"), 0o644); err != nil {
		return "", err
	}
	if err := g.run("", "rules", "trust", "--yes", "--rules", rules); err != nil {
		return "", err
	}
	cmd := exec.Command(g.program, "run", "--home", g.home, "--rules", rules, "--isolation", "session", "--", os.Args[0], commandRole)
	cmd.Env = plainEnvironment(g.dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var report commandReport
	if err == nil {
		err = json.Unmarshal(out, &report)
	}
	if err != nil {
		return "", fmt.Errorf("run the first command: %w\n%s%s", err, out, errs.Bytes())
	}
	for _, entry := range report.Env {
		if p, ok := strings.CutPrefix(entry, "GITHUB_TOKEN="); ok {
			return p, nil
		}
	}
	return "", fmt.Errorf("the first command has no GITHUB_TOKEN: %q", report.Env)
}

// build compiles the program, with the race detector if STANDIN_RACE=1.
func (g *grounds) build(name string, flags ...string) (string, error) {
	path := filepath.Join(g.dir, name)
	args := append([]string{"build", "-o", path}, flags...)
	if os.Getenv("STANDIN_RACE") == "1" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "standin/cmd/standin")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

func (g *grounds) run(stdin string, args ...string) error {
	cmd := exec.Command(g.program, append(args, "--home", g.home)...)
	cmd.Env = plainEnvironment(g.dir)
	cmd.Stdin = bytes.NewBufferString(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w\n%s", args, err, out)
	}
	return nil
}

// plainEnvironment is what a user's shell would give, with its own temporary
// folder and home.
func plainEnvironment(dir string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8", "USER=case"}
}
