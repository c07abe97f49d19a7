package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"standin/audit"
	"standin/grant/scrub"
	"standin/launch"
	"standin/launch/peer"
	"standin/rules"
	"standin/rules/catalog"
	"standin/vault"
)

// exitOwn is the exit code of run when Standin itself failed.
const exitOwn = 125

// gcPercent lets the heap of a gateway grow fivefold before it is collected.
const gcPercent = 400

// filesAge is how long the files of a session outlive it, for daemons that the
// command left behind.
const filesAge = 7 * 24 * time.Hour

// runFlags are the flags of run.
type runFlags struct {
	rules, profile, isolation, envFile, receipt, log, upstreamProxy, upstreamCA string
	secrets                                                                     []string
	ttl                                                                         time.Duration
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
	flags.StringVar(&f.rules, "rules", "", "the rules `FILE` (else standin.yaml here or above, else that of the home)")
	flags.StringVar(&f.profile, "profile", "", "the profile `NAME` of the rules file")
	flags.StringArrayVar(&f.secrets, "secret", nil, "grant only the secret `NAME` of the profile (repeatable)")
	flags.DurationVar(&f.ttl, "ttl", 0, "end the grants after this `TIME`, at most the profile's")
	flags.StringVar(&f.isolation, "isolation", "", "how surely a connection is tied to the command: `LEVEL` session or tree (else the best there is)")
	flags.StringVar(&f.envFile, "env-file", "", "set the variables of a dotenv `FILE`; NAME=secret:X becomes X's placeholder")
	flags.StringVar(&f.receipt, "receipt", "", "write what was granted and used to `FILE` when the command has ended")
	flags.StringVar(&f.log, "log", "", "write the log to `FILE` instead of standin.log of the home")
	flags.StringVar(&f.upstreamProxy, "upstream-proxy", "", "reach upstreams through the proxy at `URL`, or \"env\"")
	flags.StringVar(&f.upstreamCA, "upstream-ca", "", "trust the authorities in `FILE` for upstreams, or \"env\"")
	passphraseFlag(cmd)
	return cmd
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
	if err := p.cleanStart(); err != nil {
		return own(err)
	}
	if err := launch.Harden(); err != nil {
		return own(err)
	}
	// The heap is small and its garbage short-lived: collecting it at every
	// doubling of a few MiB would cost a fifth of the time of a request.
	debug.SetGCPercent(gcPercent)
	r := &running{p: p, cmd: cmd, f: f, argv: argv, began: time.Now()}
	if err := r.prepare(); err != nil {
		return own(err)
	}
	code, err := r.serve()
	if err != nil {
		return own(err)
	}
	if code != 0 {
		return exitError(code, nil)
	}
	return nil
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
	extra   map[string]string // variables of the --env-file
	files   *launch.Files     // what the command's environment names
	lacking error             // why the level is not a better one
	outside *liveSession      // the session that this one is a part of, or nil
}

// prepare reads and checks everything that can be wrong before anything starts.
func (r *running) prepare() error {
	var err error
	if r.home, err = r.p.home(r.cmd); err != nil {
		return err
	}
	if r.f.receipt != "" {
		if info, err := os.Stat(filepath.Dir(r.f.receipt)); err != nil || !info.IsDir() {
			return fmt.Errorf("write receipt %q: there is no such folder", r.f.receipt)
		}
	}
	if r.policy, err = r.p.loadRules(r.home, r.f.rules); err != nil {
		return err
	}
	if r.profile, err = r.narrowed(); err != nil {
		return err
	}
	if err := r.isolation(); err != nil {
		return err
	}
	if err := r.nested(); err != nil {
		return err
	}
	if r.extra, err = readEnvFile(r.f.envFile, r.policy); err != nil {
		return err
	}
	if err := r.home.prepare(); err != nil {
		return err
	}
	if r.store, err = r.p.openVault(r.cmd, r.home); err != nil {
		return err
	}
	return trusted(r.store, r.home, r.policy)
}

// loadRules finds and reads the rules file.
func (p *program) loadRules(h home, named string) (*rules.Policy, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find rules: %w", err)
	}
	path, err := rules.Find(named, cwd, h.Config)
	if err != nil {
		return nil, err
	}
	return rules.Load(path)
}

// narrowed is the profile, less what --secret and --ttl take away. Neither adds.
func (r *running) narrowed() (*rules.Profile, error) {
	found, err := r.policy.Profile(r.f.profile)
	if err != nil {
		return nil, err
	}
	profile := *found
	if len(r.f.secrets) > 0 {
		for _, name := range r.f.secrets {
			if !slices.Contains(profile.Secrets, name) {
				return nil, usageError("--secret %s: profile %q does not have it", name, profile.Name)
			}
		}
		profile.Secrets = r.f.secrets
	}
	if r.f.ttl < 0 || r.f.ttl > profile.TTL {
		return nil, usageError("--ttl %v: profile %q allows at most %v", r.f.ttl, profile.Name, profile.TTL)
	}
	if r.f.ttl > 0 {
		profile.TTL = r.f.ttl
	}
	return &profile, nil
}

// serve runs the gateway around the command, and writes the receipt when the
// log is sealed, so that its anchor covers the whole stream.
func (r *running) serve() (int, error) {
	ctx := context.Background()
	upstream, err := r.p.upstreams(r.f.upstreamCA, r.f.upstreamProxy)
	if err != nil {
		return 0, err
	}
	g, err := newGateway(ctx, gatewayConfig{home: r.home, store: r.store, policy: r.policy, environ: r.p.env, logFile: r.f.log, upstream: upstream})
	if err != nil {
		return 0, err
	}
	l, err := g.open(ctx, sessionConfig{profile: r.profile, isolation: r.profile.Isolation, command: filepath.Base(r.argv[0])})
	if err != nil {
		return 0, errors.Join(err, g.close())
	}
	code, notes, err := r.session(g, l)
	err = errors.Join(err, g.close())
	if r.f.receipt != "" {
		err = errors.Join(err, writeReceipt(r.f.receipt, g, l, notes, code))
	}
	return code, err
}

// session serves the session on a listener of its own until the command ends.
// The grants are revoked before it returns.
func (r *running) session(g *gateway, l *live) (code int, notes sessionNotes, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, notes, errors.Join(fmt.Errorf("listen on loopback: %w", err), l.end("no listener", r.began))
	}
	gate, err := newGate(g, l)
	if err != nil {
		return 0, notes, errors.Join(err, listener.Close(), l.end("no gate", r.began))
	}
	r.logIsolation(g, l)
	served := make(chan error, 1)
	go func() { served <- g.proxy.Serve(judgedListener{listener}, gate) }()
	ctx, cancel := context.WithCancel(g.life)
	var following sync.WaitGroup
	following.Go(func() { r.follow(ctx, l) })
	code, notes, err = r.command(g, l, listener.Addr(), gate)
	reason := "command ended"
	if err != nil {
		reason = "command did not start"
	}
	listener.Close()
	cancel()
	following.Wait()
	return code, notes, errors.Join(err, l.end(reason, r.began), <-served, gate.close())
}

// command starts the command in its environment and waits for it.
func (r *running) command(g *gateway, l *live, addr net.Addr, gate *gate) (int, sessionNotes, error) {
	notes := sessionNotes{Command: filepath.Base(r.argv[0]), Isolation: l.client.Isolation}
	c, err := newControl(g, l.session.ID)
	if err != nil {
		return 0, notes, err
	}
	defer c.close()
	env, removed, err := r.environment(l, addr, filepath.Join(socketDir(r.home), l.session.ID+".sock"))
	if err != nil {
		return 0, notes, err
	}
	notes.Removed = removed
	g.log.Info("variables removed", slog.Any("names", removed))
	child, err := launch.Start(launch.Spec{Argv: r.argv, Env: env, TimerSlack: r.p.slack, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return 0, notes, startError(err)
	}
	if err := gate.root(peer.Config{PID: child.PID(), Start: child.StartTime(), Mark: launch.Mark(l.session.ID), Alone: r.profile.Extends == "command"}); err != nil {
		g.log.Info("nobody is in the tree: the command cannot be looked into, or has ended", slog.Any("cause", err))
	}
	notes.PID = child.PID()
	l.process.Store(&audit.Process{PID: child.PID(), Start: child.StartTime(), Exe: gate.program(r.argv[0]), UID: os.Getuid()})
	c.add(l, notes)
	code, err := child.Wait()
	// What the command left behind may still need its files; their age counts
	// from here.
	return code, notes, errors.Join(err, r.files.Touch())
}

// startError gives a command that cannot start its exit code.
func startError(err error) error {
	var start *launch.StartError
	if errors.As(err, &start) {
		return exitError(start.Code, err)
	}
	return err
}

// environment writes the files of the session and makes what the command gets.
func (r *running) environment(l *live, addr net.Addr, socket string) (env, removed []string, err error) {
	dir := filepath.Join(r.home.Run(), l.session.ID)
	if err := launch.Prune(r.home.Run(), filesAge); err != nil {
		l.g.log.Warn("files of old sessions remain", slog.Any("cause", err))
	}
	hosts := r.policy.InterceptedHosts()
	url := l.proxyURL(addr)
	files, err := launch.WriteFiles(launch.FilesConfig{Dir: dir, RootPEM: l.authority.RootPEM(), Environ: r.p.env, ProxyURL: url,
		Hosts: hosts, GitHosts: r.gitHosts(l)})
	if err != nil {
		return nil, nil, err
	}
	variables, carriers, err := r.variables(l)
	if err != nil {
		return nil, nil, err
	}
	r.files = files
	inherited, holding := withoutValues(r.p.env, l.session.Scrubber())
	env, removed = launch.Environ(launch.EnvConfig{Environ: inherited, Files: files, ProxyURL: url, Placeholders: variables, Carriers: carriers,
		Hosts: hosts, Inherit: r.profile.Inherit, InheritAll: r.profile.InheritAll, Session: l.session.ID, ControlSocket: socket})
	for _, name := range holding {
		if _, given := variables[name]; !given { // else it carries a placeholder now
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	return env, removed, nil
}

// withoutValues leaves out the variables in which a value of the session stands,
// whatever they are called. No profile can inherit them.
func withoutValues(environ []string, values *scrub.Scrubber) (kept, holding []string) {
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if values.Holds(value) {
			holding = append(holding, name)
		} else {
			kept = append(kept, entry)
		}
	}
	return kept, holding
}

// variables are those that carry placeholders, or what the rules hand out, and
// all that may carry a secret.
func (r *running) variables(l *live) (variables map[string]string, carriers []string, err error) {
	variables = map[string]string{}
	carriers = catalog.Carriers()
	for _, secret := range r.policy.Secrets {
		carriers = append(carriers, secret.Env...)
		if source, ok := strings.CutPrefix(secret.Source, "env:"); ok {
			carriers = append(carriers, source) // where the value itself stands
		}
	}
	for _, name := range r.profile.Secrets {
		secret := r.policy.Secrets[name]
		value := l.g.placeholders[name]
		if secret.Deliver != rules.Wire {
			if value, err = l.deliver(secret); err != nil {
				return nil, nil, err
			}
		}
		for _, variable := range secret.Env {
			variables[variable] = value
		}
	}
	for variable, value := range r.extra {
		if name, ok := secretReference(value); ok {
			value = l.g.placeholders[name]
		}
		variables[variable] = value
	}
	return variables, carriers, nil
}

// gitHosts are the hosts at which git is to answer with a placeholder.
func (r *running) gitHosts(l *live) []launch.GitCredential {
	var found []launch.GitCredential
	for _, rule := range r.policy.Rules {
		for _, sub := range rule.Substitute {
			if !slices.Contains(sub.In, rules.Surface{Kind: rules.BasicPassword}) || !slices.Contains(r.profile.Secrets, sub.Secret) {
				continue
			}
			for _, host := range rule.Hosts {
				found = append(found, launch.GitCredential{Host: gitHost(host), Placeholder: l.g.placeholders[sub.Secret]})
			}
		}
	}
	return found
}

// gitHost writes a host as git's configuration does: with a port unless it is 443.
func gitHost(h rules.HostPattern) string {
	name := h.Name
	if h.Wildcard {
		name = "*." + name
	}
	if h.Port != 443 {
		name = fmt.Sprintf("%s:%d", name, h.Port)
	}
	return name
}
