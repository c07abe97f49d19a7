package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"standin/launch"
	"standin/launch/peer"
	"standin/rules"
	"standin/vault"
)

// exitOwn is the exit code of run when Standin itself failed.
const exitOwn = 125

// filesAge is how long the files of a session outlive it, for daemons that the
// command left behind.
const filesAge = 7 * 24 * time.Hour

// aloneAge is how long they outlive it where nothing of the command runs any
// more: somebody may still look at them, or use the environment once more.
const aloneAge = time.Hour

// runFlags are the flags of run.
type runFlags struct {
	rules, profile, isolation, envFile, receipt, log, upstreamProxy, upstreamCA, gateway, tokenFile string
	secrets, open                                                                                   []string
	ttl                                                                                             time.Duration
	mask                                                                                            bool
}

func newRunCommand(p *program) *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] -- CMD [ARG...]",
		Short: "Run a command that holds placeholders only",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &hinted{usageError("run: no command to run"), "standin run -- CMD [ARG...]"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return p.run(cmd, f, args) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	sessionFlags(cmd, f)
	flags.StringArrayVar(&f.open, "open", nil, "under netns, let the command reach `HOST:PORT` unopened, or the socket unix:PATH (repeatable)")
	flags.BoolVar(&f.mask, "mask", false, "put placeholders where delivered values stand in what the command prints (not to a terminal)")
	flags.StringVar(&f.receipt, "receipt", "", "write what was granted and used to `FILE` when the command has ended")
	return cmd
}

// sessionFlags are the flags of commands that open a session.
func sessionFlags(cmd *cobra.Command, f *runFlags) {
	flags := cmd.Flags()
	flags.StringVar(&f.rules, "rules", "", "the rules `FILE` (else standin.yaml here or above, else that of the home)")
	flags.StringVar(&f.profile, "profile", "", "the profile `NAME` of the rules file")
	flags.StringArrayVar(&f.secrets, "secret", nil, "grant only the secret `NAME` of the profile (repeatable)")
	flags.Var((*ttlFlag)(&f.ttl), "ttl", "end the grants after this `TIME`, at most the profile's")
	flags.StringVar(&f.isolation, "isolation", "", "how surely a connection is tied to the command: `LEVEL` session, tree or netns (else the best of the first two)")
	flags.StringVar(&f.envFile, "env-file", "", "set the variables of a dotenv `FILE`; NAME=secret:X becomes X's placeholder")
	flags.StringVar(&f.log, "log", "", "write the log to `FILE` instead of standin.log of the home")
	flags.StringVar(&f.upstreamProxy, "upstream-proxy", "", "reach upstreams through the proxy at `URL`, or \"env\"")
	flags.StringVar(&f.upstreamCA, "upstream-ca", "", "trust the authorities in `FILE` for upstreams, or \"env\"")
	flags.StringVar(&f.gateway, "gateway", "", "have the session of the gateway that serves at `SOCKET` (see \"standin serve\")")
	flags.StringVar(&f.tokenFile, "token-file", "", "prove with the one-time token in `FILE` (also $"+launch.TokenVariable+") instead of by the vault")
	passphraseFlag(cmd)
}

// asked is what the flags ask for.
func (f *runFlags) asked() asked {
	return asked{Profile: f.profile, Secrets: f.secrets, TTL: f.ttl, Isolation: f.isolation}
}

// own marks an error as Standin's own failure, unless it says otherwise.
func own(err error) error {
	var coded *codedError
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return exitError(exitOwn, err)
}

// run opens a session, runs the command in it, and gives the command's exit code.
func (p *program) run(cmd *cobra.Command, f *runFlags, argv []string) error {
	if err := p.cleanStart(besideProcessors()); err != nil {
		return own(err)
	}
	if err := launch.Harden(); err != nil {
		return own(err)
	}
	pace()
	r := &running{p: p, cmd: cmd, f: f, argv: argv, began: time.Now()}
	err := r.prepare()
	code := 0
	if err == nil {
		code, err = r.serve()
	}
	if err = errors.Join(err, r.room.close(), r.leaveFiles()); err != nil {
		return own(err)
	}
	if code != 0 {
		return exitError(code, nil)
	}
	return nil
}

// leaveFiles lets the files of a session grow old, when all of it has ended.
func (r *running) leaveFiles() error {
	switch {
	case r.files == nil:
		return nil
	case launch.Childless():
		return r.files.Touch(filesAge - aloneAge)
	}
	return r.files.Touch(0)
}

// running is one run.
type running struct {
	p     *program
	cmd   *cobra.Command
	f     *runFlags
	argv  []string
	began time.Time

	home    home
	store   *vault.Store
	policy  *rules.Policy
	profile *rules.Profile
	extra   *envFile
	lacking error         // why the level is not a better one
	room    *room         // of the command, under "netns"
	outside *liveSession  // the session that this one is a part of, or nil
	by      proofs        // at a serving gateway
	files   *launch.Files // of a command that was started
	shell   processID     // that the session is bound to, instead of to a command
}

// prepare reads and checks everything that can be wrong before anything starts.
func (r *running) prepare() error {
	var err error
	if r.home, err = r.p.home(r.cmd); err != nil {
		return err
	}
	if r.f.receipt != "" {
		if r.f.receipt, err = placeForReceipt(r.f.receipt); err != nil {
			return err
		}
	}
	if r.f.gateway != "" {
		return r.prepareServed()
	}
	if r.f.tokenFile != "" {
		return usageError("--token-file: it needs --gateway SOCKET")
	}
	if r.policy, err = r.p.loadRules(r.home, r.f.rules); err != nil {
		return err
	}
	if r.profile, err = narrowed(r.policy, r.f.asked()); err != nil {
		return err
	}
	if err := r.isolation(); err != nil {
		return err
	}
	if err := r.nested(); err != nil {
		return err
	}
	if r.extra, err = readEnvFile(r.f.envFile); err != nil {
		return err
	}
	if err := r.extra.check(func(name string) bool { return r.policy.Secrets[name] != nil }); err != nil {
		return err
	}
	if err := r.home.prepare(); err != nil {
		return err
	}
	if r.store, err = r.p.openVault(r.cmd, r.home); err != nil {
		return err
	}
	if err := trusted(r.store, r.policy); err != nil {
		return err
	}
	return r.room.ready()
}

// prepareServed is prepare for a session of a serving gateway, which has rules,
// log and upstreams of its own.
func (r *running) prepareServed() (err error) {
	for name, value := range map[string]string{"--log": r.f.log, "--upstream-ca": r.f.upstreamCA, "--upstream-proxy": r.f.upstreamProxy} {
		if value != "" {
			return usageError("%s: with --gateway it is the gateway's own", name)
		}
	}
	if len(r.f.open) > 0 || r.f.isolation == isolationNetns {
		return &hinted{errors.New("isolate the command: level \"netns\" is not to be had at a serving gateway"), "standin run --isolation netns -- …, without --gateway"}
	}
	if r.f.gateway, err = filepath.Abs(r.f.gateway); err != nil {
		return fmt.Errorf("find gateway %q: %w", r.f.gateway, err)
	}
	if r.f.rules != "" { // they must be those that the gateway serves
		if r.policy, err = r.p.loadRules(r.home, r.f.rules); err != nil {
			return err
		}
	}
	outer, err := r.outer()
	if err != nil {
		return err
	}
	if outer != nil && outer.gateway.path != r.f.gateway {
		return newNestedError(outer.ID, "it is one of another gateway")
	}
	if err := r.home.prepare(); err != nil {
		return err
	}
	r.by, err = r.p.proofs(r.cmd, r.home, r.f.tokenFile)
	return err
}

// session is the session of a run, at a gateway of its own or at a serving one.
type session interface {
	// outfit is what the environment of the command is made of: the user's, and
	// the variables of the --env-file.
	outfit(environ, extra []string) (*outfit, error)
	// socket is where the gateway is asked about the session.
	socket() string
	// started tells which process is the command, and what it does not get.
	started(child *launch.Command, removed []string) error
	// end ends the session: when it returns the grants are revoked and its
	// connections cut.
	end(reason string) (*receipt, error)
}

// serve runs the command in a session, and writes the receipt when that has
// ended.
func (r *running) serve() (int, error) {
	open := r.open
	if r.f.gateway != "" {
		open = r.openServed
	}
	early := takeSignals(launch.Handled())
	s, err := open(early.ctx)
	if code := early.code(); err != nil && code != 0 {
		return code, nil
	}
	if err != nil {
		return 0, err
	}
	code, err := r.command(s, early)
	reason := "command ended"
	if r.files == nil {
		reason = "command did not start"
	}
	receipt, ended := s.end(reason)
	err = errors.Join(err, ended)
	switch {
	case r.f.receipt == "":
	case receipt == nil && err == nil: // said, like the end of the gateway, beside the exit code of the command
		r.p.report(fmt.Errorf("write receipt %q: the gateway was killed, and nobody else knows what stands in it", r.f.receipt))
	case receipt != nil:
		receipt.ExitCode = exitCode(code, err)
		err = errors.Join(err, receipt.write(r.f.receipt))
	}
	return code, err
}

// exitCode is what run ends with.
func exitCode(code int, err error) int {
	var coded *codedError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case err != nil:
		return exitOwn
	}
	return code
}

// command starts the command in its environment and waits for it.
func (r *running) command(s session, early *early) (code int, err error) {
	o, err := s.outfit(r.p.env, r.extra.environ())
	if err != nil {
		return 0, err
	}
	files, env, removed, err := o.dress(dressing{home: r.home, environ: r.p.env, extra: r.extra.environ(), socket: s.socket()})
	if err != nil {
		return 0, err
	}
	defer func() {
		if r.files == nil {
			err = errors.Join(err, files.Remove())
		}
	}()
	spec := launch.Spec{Argv: r.argv, Env: env, TimerSlack: r.p.slack, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if own, ok := s.(*ownSession); ok && r.room != nil {
		if err := r.furnish(own.hosted, files); err != nil {
			return 0, err
		}
		spec.Host = r.room
	}
	spec.Signals = early.handOver()
	if code := early.code(); code != 0 {
		return code, nil
	}
	masks, err := r.masks(o, &spec)
	if err != nil {
		return 0, err
	}
	child, err := launch.Start(spec)
	masks.started()
	if err != nil {
		masks.close()
		return 0, startError(err)
	}
	r.files = files
	told := s.started(child, removed)
	code, err = child.Wait()
	masks.close()
	return code, errors.Join(told, err)
}

// open opens the session at a gateway that this process is itself. The context
// ends the opening only.
func (r *running) open(ctx context.Context) (session, error) {
	upstream, err := r.p.upstreams(r.f.upstreamCA, r.f.upstreamProxy)
	if err != nil {
		return nil, err
	}
	g, err := newGateway(ctx, gatewayConfig{home: r.home, store: r.store, policy: r.policy, environ: r.p.env, logFile: r.f.log, upstream: upstream})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, g.closeSources) // one may run for long
	defer stop()
	h, err := g.host(ctx, sessionConfig{edition: g.edition(), profile: r.profile, isolation: r.profile.Isolation, command: filepath.Base(r.argv[0]), room: r.room})
	if err != nil {
		return nil, errors.Join(err, g.close())
	}
	g.logIsolation(h.live, r.lacking)
	h.launchedBy(self())
	g.prune()
	s := &ownSession{r: r, hosted: h}
	if s.control, err = newControlServer(g, h.session.ID); err != nil {
		return nil, errors.Join(err, h.end("no control socket"), g.close())
	}
	s.control.add(h)
	life, cancel := context.WithCancel(g.life)
	s.cancel = cancel
	s.following.Go(func() { r.follow(life, h) })
	return s, nil
}

// ownSession is a session whose gateway is this process.
type ownSession struct {
	*hosted
	r         *running
	control   *controlServer
	cancel    func()
	following sync.WaitGroup
}

func (s *ownSession) outfit(environ, extra []string) (*outfit, error) {
	return s.live.outfit(environ, extra, s.proxyURL())
}

func (s *ownSession) socket() string {
	if s.r.room != nil {
		return "" // out of the command's reach
	}
	return filepath.Join(socketDir(s.r.home), s.hosted.session.ID+".sock")
}

func (s *ownSession) started(child *launch.Command, removed []string) error {
	tree := peer.Config{PID: child.PID(), Start: child.StartTime(), Mark: launch.Mark(s.hosted.session.ID), Alone: s.r.profile.Extends == "command"}
	if s.r.room != nil {
		tree.Launcher.PID, tree.Launcher.Start = s.r.room.Init()
	}
	s.root(tree)
	s.removed(removed)
	return nil
}

// end seals the log, too, so that the anchor of the receipt covers all of it.
func (s *ownSession) end(reason string) (*receipt, error) {
	s.cancel()
	s.following.Wait()
	err := errors.Join(s.hosted.end(reason), s.control.close())
	err = errors.Join(err, s.g.close())
	return s.receipt(), err
}
