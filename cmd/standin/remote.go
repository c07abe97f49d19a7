package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"standin/control"
	"standin/launch"
	"standin/vault"
)

// proofs are how a caller shows a serving gateway that it may have sessions: by
// the vault, or by a token.
type proofs struct {
	name string
	key  []byte
}

// byVault proves with a key of the vault.
func byVault(store *vault.Store) proofs { return proofs{vaultKey, store.Key("control")} }

// givenToken is the token of --token-file or $STANDIN_TOKEN, or "".
func (p *program) givenToken(file string) (string, error) {
	if file == "" {
		return p.getenv(launch.TokenVariable), nil
	}
	text, err := readPassphrase(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if len(text) == 0 {
		return "", &hinted{fmt.Errorf("read token %q: the file is empty", file), "standin session token, at the gateway's home, makes one"}
	}
	return string(text), nil
}

// proofs is what this command proves with: a token if there is one, else the vault.
func (p *program) proofs(cmd *cobra.Command, h home, tokenFile string) (proofs, error) {
	token, err := p.givenToken(tokenFile)
	if err != nil {
		return proofs{}, err
	}
	if token != "" {
		name, key, err := splitToken(token)
		return proofs{name, key}, err
	}
	store, err := p.openVault(cmd, h)
	if err != nil {
		return proofs{}, err
	}
	return byVault(store), nil
}

// unprovenError says that what answers at a socket is no gateway of this vault, or
// does not know the token.
type unprovenError struct{ Socket string }

func (e *unprovenError) Error() string {
	return fmt.Sprintf("open session at %q: what answers there does not prove that it holds the key of this vault, or the token; nothing was told to it", e.Socket)
}

// absentError says that no gateway serves at a socket.
type absentError struct {
	Socket string
	Cause  error
}

func (e *absentError) Error() string {
	return fmt.Sprintf("open session at %q: no gateway serves there: %v", e.Socket, e.Cause)
}

// endingError says that the gateway at a socket lets nobody in any more.
type endingError struct{ Socket string }

func (e *endingError) Error() string {
	return fmt.Sprintf("ask the gateway at %q: it is ending, and opens no session any more", e.Socket)
}

// errEnding is its answer.
var errEnding = errors.New("it is ending")

// call has a conversation with the gateway at a socket.
func call(socket string, by proofs) (*control.Conn, error) {
	conn, err := upgraded(socket, "standin-conversation", "/v1/conversation")
	if err != nil {
		return nil, err
	}
	c, err := control.Call(conn, by.name, by.key)
	if err != nil {
		conn.Close()
		if errors.Is(err, control.ErrProof) {
			return nil, &unprovenError{socket}
		}
		return nil, &absentError{socket, err}
	}
	return c, nil
}

// upgraded connects to a control socket for another protocol.
func upgraded(socket, protocol, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := control.Dial(ctx, socket)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, &absentError{socket, err}
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	defer conn.SetDeadline(time.Time{})
	if _, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: standin\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", path, protocol); err == nil {
		err = switched(conn)
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, errEnding) {
			return nil, &endingError{socket}
		}
		return nil, &absentError{socket, err}
	}
	return conn, nil
}

// switched reads the head of the answer and not a byte more.
func switched(conn net.Conn) error {
	res, err := http.ReadResponse(bufio.NewReaderSize(byteReader{conn}, 16), &http.Request{Method: http.MethodPost})
	if err != nil {
		return errors.New("it does not answer as one")
	}
	if res.StatusCode == http.StatusServiceUnavailable {
		return errEnding
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return errors.New("it serves one command, and opens no sessions for others")
	}
	return nil
}

// ask sends the first request of a conversation.
func ask(c *control.Conn, request openingRequest) (*openingAnswer, error) {
	if err := c.Send(request); err != nil {
		return nil, fmt.Errorf("open session: the gateway has gone: %w", err)
	}
	var answer openingAnswer
	if err := c.Receive(&answer); err != nil {
		return nil, fmt.Errorf("open session: the gateway has gone: %w", err)
	}
	return &answer, answer.Error.err()
}

// servedSession is a session at a serving gateway. The conversation is its life
// line: when this process is gone, however it ended, so is the session.
type servedSession struct {
	p      *program
	at     string // the socket
	conn   *control.Conn
	answer *openingAnswer
	relay  *relay // nil where the gateway listens itself
}

// openServed opens the session at the gateway that --gateway names.
func (r *running) openServed(ctx context.Context) (session, error) {
	var err error
	if r.extra, err = readEnvFile(r.f.envFile); err != nil {
		return nil, err
	}
	c, err := call(r.f.gateway, r.by)
	if err != nil {
		return nil, err
	}
	request := openingRequest{Do: "open", Extra: r.extra.environ(), asked: r.f.asked(), Command: filepath.Base(r.argv[0]), Environ: r.p.env, Place: here(), Shell: r.shell, Outer: r.p.getenv(launch.SessionVariable)}
	if r.policy != nil {
		request.RulesHash = r.policy.Hash
	}
	stop := context.AfterFunc(ctx, func() { c.Close() }) // the gateway may wait for a source
	defer stop()
	s := &servedSession{p: r.p, at: r.f.gateway, conn: c}
	if s.answer, err = ask(c, request); err != nil {
		c.Close()
		return nil, err
	}
	if s.answer.Relay && r.shell.PID != 0 {
		c.Close()
		return nil, errors.New("open session: the gateway is in another network, and a shell has nobody who relays: take \"standin run\"")
	}
	if s.answer.Relay {
		if s.relay, err = newRelay(s.at); err != nil {
			c.Close()
			return nil, err
		}
		s.answer.Outfit.relayedBy(s.relay.address())
	}
	// The --env-file is checked before anything starts.
	if err := r.extra.check(func(name string) bool { return s.answer.Outfit.Placeholders[name] != "" }); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *servedSession) outfit(_, _ []string) (*outfit, error) { return s.answer.Outfit, nil }
func (s *servedSession) socket() string                        { return s.at }

func (s *servedSession) started(child *launch.Command, removed []string) error {
	// Where the gateway has gone, end says so.
	_ = s.conn.Send(launched{Command: processID{child.PID(), child.StartTime()}, Removed: removed})
	return nil
}

// end returns when the gateway says that the session has ended.
func (s *servedSession) end(reason string) (*receipt, error) {
	defer s.close()
	var last left
	_ = s.conn.Send(leaving{reason}) // a gateway that has ended in order has answered before
	answered := make(chan error, 1)
	go func() { answered <- s.conn.Receive(&last) }()
	var err error
	select {
	case err = <-answered:
	case <-time.After(farewell):
		err = errors.New("it does not answer")
	}
	if err != nil || last.Early {
		// The command has run, and its exit code is its own; it is said all the same.
		s.p.report(&hinted{fmt.Errorf("end session: the gateway at %q has gone before the command: its grants ended then", s.at), "standin audit show --session " + s.answer.Outfit.Session})
	}
	if err != nil {
		return nil, nil
	}
	return last.Receipt, last.Error.err()
}

func (s *servedSession) close() {
	s.conn.Close()
	if s.relay != nil {
		s.relay.close()
	}
}

// byteReader reads one byte at a time, so that nothing is read ahead.
type byteReader struct{ io.Reader }

func (r byteReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return r.Reader.Read(p[:1])
}
