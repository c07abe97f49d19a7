package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"standin/control"
	"standin/launch"
)

// serveSocket is the name of a serving gateway's socket in the folder of sockets.
const serveSocket = "gateway"

// serveFlags are the flags of serve.
type serveFlags struct {
	rules, log, listen, upstreamProxy, upstreamCA string
	anywhere                                      bool
	grace                                         time.Duration
	tunnels, sessionTunnels                       int
}

func newServeCommand(p *program) *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve many sessions by one gateway, until it is told to end",
		Long: `Serve many sessions by one gateway. "standin run --gateway SOCKET -- CMD" and
"standin env" have sessions of it: they prove that they can open the same vault, or
show a one-time token of "standin session token". The socket is in the home's run
folder, and its path is printed.

TERM and INT end it: requests under way may finish within --grace. HUP reads the
rules again, which also happens by itself soon after their file has changed: what
they take away counts at once, for all sessions; what they add counts once they are
trusted, for new sessions.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.rules, "rules", "", "the rules `FILE` (else standin.yaml here or above, else that of the home)")
	flags.StringVar(&f.log, "log", "", "write the log to `FILE` instead of standin.log of the home")
	flags.StringVar(&f.listen, "listen", "", "a front door at `ADDR` for sessions that show credentials (isolation session), such as 127.0.0.1:3128")
	flags.BoolVar(&f.anywhere, "listen-anywhere", false, "let --listen be reached from other machines")
	flags.DurationVar(&f.grace, "grace", 10*time.Second, "how long requests under way may take when it ends")
	flags.IntVar(&f.tunnels, "max-tunnels", 0, "refuse tunnels beyond `N` of all sessions (else 16384)")
	flags.IntVar(&f.sessionTunnels, "max-session-tunnels", 0, "refuse tunnels beyond `N` of one session (else 4096)")
	flags.StringVar(&f.upstreamProxy, "upstream-proxy", "", "reach upstreams through the proxy at `URL`, or \"env\"")
	flags.StringVar(&f.upstreamCA, "upstream-ca", "", "trust the authorities in `FILE` for upstreams, or \"env\"")
	passphraseFlag(cmd)
	return cmd
}

// listenAddress reads --listen. Only an address of loopback is taken unless the
// user says that it may be reached from anywhere.
func listenAddress(text string, anywhere bool) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil || port == "" {
		return "", &hinted{usageError("--listen %s: not an address", text), "standin serve --listen 127.0.0.1:3128"}
	}
	addr, err := netip.ParseAddr(host)
	if (err != nil || !addr.Unmap().IsLoopback()) && !anywhere {
		return "", &hinted{usageError("--listen %s: others could reach it: it is no address of loopback", text),
			"standin serve --listen 127.0.0.1:" + port + ", or say that you mean it: --listen-anywhere"}
	}
	return text, nil
}

// serve is a gateway until a signal ends it.
func (p *program) serve(cmd *cobra.Command, f *serveFlags) error {
	if f.listen != "" {
		if _, err := listenAddress(f.listen, f.anywhere); err != nil {
			return err
		}
	}
	if f.grace < 0 || f.tunnels < 0 || f.sessionTunnels < 0 {
		return usageError("--grace, --max-tunnels and --max-session-tunnels are not negative")
	}
	if err := p.cleanStart(0); err != nil {
		return err
	}
	if err := launch.Harden(); err != nil {
		return err
	}
	pace()
	s := &serving{p: p, cmd: cmd, f: f, signals: make(chan os.Signal, 16)}
	signal.Notify(s.signals, serveSignals()...)
	keepBrokenPipes()
	if err := s.start(); err != nil {
		return err
	}
	return s.run()
}

// serving is one serve.
type serving struct {
	p       *program
	cmd     *cobra.Command
	f       *serveFlags
	home    home
	g       *gateway
	desk    *controlServer
	shared  net.Listener
	served  sync.WaitGroup
	signals chan os.Signal
}

// start opens everything, or nothing.
func (s *serving) start() (err error) {
	if s.home, err = s.p.home(s.cmd); err != nil {
		return err
	}
	policy, err := s.p.loadRules(s.home, s.f.rules)
	if err != nil {
		return err
	}
	if err := s.home.prepare(); err != nil {
		return err
	}
	store, err := s.p.openVault(s.cmd, s.home)
	if err != nil {
		return err
	}
	if err := trusted(store, policy); err != nil {
		return err
	}
	upstream, err := s.p.upstreams(s.f.upstreamCA, s.f.upstreamProxy)
	if err != nil {
		return err
	}
	if s.f.listen != "" { // a port that is taken ends it before anything is on record
		if s.shared, err = net.Listen("tcp", s.f.listen); err != nil {
			return fmt.Errorf("listen on %s: %w", s.f.listen, errors.Unwrap(err))
		}
	}
	s.g, err = newGateway(context.Background(), gatewayConfig{home: s.home, store: store, policy: policy, environ: s.p.env, logFile: s.f.log,
		upstream: upstream, tunnels: s.f.tunnels, sessionTunnels: s.f.sessionTunnels})
	if err != nil {
		return errors.Join(err, s.closeShared())
	}
	if s.desk, err = newControlServer(s.g, serveSocket); err != nil {
		return errors.Join(s.predecessor(err), s.closeShared(), s.g.close())
	}
	if err := s.desk.serve(); err != nil {
		return errors.Join(err, s.closeShared(), s.desk.close(), s.g.close())
	}
	s.g.prune()
	s.openDoors()
	if err := s.announce(); err != nil {
		return errors.Join(err, s.end())
	}
	return nil
}

// predecessor says that the gateway whose socket is in the way is ending, if it is.
func (s *serving) predecessor(err error) error {
	var taken *control.TakenError
	var status gatewayStatus
	if errors.As(err, &taken) && taken.Live && newControlClient(taken.Path).call("GET", "/v1/status", "", &status) == nil && status.Ending {
		return &endingError{taken.Path}
	}
	return err
}

func (s *serving) closeShared() error {
	if s.shared == nil {
		return nil
	}
	return s.shared.Close()
}

// openDoors serves the front doors that sessions share.
func (s *serving) openDoors() {
	gate := &sharedGate{s.g, s.desk}
	s.served.Go(func() { s.g.logged(s.g.proxy.Serve(judgedListener{s.desk.doors}, gate)) })
	if s.shared != nil {
		s.g.shared = s.shared.Addr()
		s.served.Go(func() { s.g.logged(s.g.proxy.Serve(judgedListener{s.shared}, gate)) })
	}
}

// announce says where the gateway is, once it is there.
func (s *serving) announce() error {
	s.g.log.Info("serving", slog.String("socket", s.socket()), slog.String("rules", s.g.edition().policy.Hash))
	if _, err := fmt.Fprintf(s.p.out, "serving %s\n", s.socket()); err != nil {
		return err
	}
	if s.shared != nil {
		_, err := fmt.Fprintf(s.p.out, "listening %s\n", s.shared.Addr())
		return err
	}
	return nil
}

func (s *serving) socket() string { return filepath.Join(socketDir(s.home), serveSocket+".sock") }

// run waits for signals, and ends in order.
func (s *serving) run() error {
	s.awaitEnd()
	return s.end()
}

// awaitEnd handles signals until one tells the gateway to end.
func (s *serving) awaitEnd() {
	for got := range s.signals {
		if !s.handle(got) {
			return
		}
	}
}

// end lets no new session in, gives requests under way their time, and then cuts
// what is left: the end of every session is on record, and the record is sealed.
func (s *serving) end() error {
	s.desk.opener.refuseNew()
	err := s.closeShared()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	s.desk.doors.Close()
	grace, cut := context.WithTimeout(context.Background(), s.f.grace)
	defer cut()
	go func() { // told once more, it waits no longer
		s.awaitEnd()
		cut()
	}()
	s.g.drain(grace)
	for _, h := range s.desk.all() {
		err = errors.Join(err, h.cutOff())
	}
	s.desk.opener.close()
	s.served.Wait()
	return errors.Join(err, s.desk.close(), s.g.close())
}

// servingSocket is the socket of this home's serving gateway, if one answers.
func servingSocket(h home) (string, bool) {
	path := filepath.Join(socketDir(h), serveSocket+".sock")
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := control.Dial(ctx, path)
	if err != nil {
		return "", false
	}
	conn.Close()
	return path, true
}
