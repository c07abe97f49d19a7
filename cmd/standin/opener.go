package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"standin/control"
	"standin/grant"
	"standin/launch"
	"standin/launch/peer"
	"standin/rules"
)

// opener opens sessions for those who prove that they may: by a key of the vault,
// or by a token that somebody with that key has made.
type opener struct {
	g    *gateway
	desk *controlServer
	own  tls.Certificate
	key  []byte
	here place

	mu     sync.Mutex
	tokens map[string]*token
	closed bool
	open   map[net.Conn]struct{}
	served sync.WaitGroup
	bound  sync.WaitGroup // sessions that a shell holds
}

// token opens one session, once. It is in memory only.
type token struct {
	secret  []byte
	profile *rules.Profile
	hash    string // of the rules that it was made under
	expires time.Time
}

// Bounds of what is kept for callers.
const (
	maxTokens        = 1024
	maxConversations = 4096
	tokenLife        = 10 * time.Minute // in which a token must be used
)

func newOpener(g *gateway, desk *controlServer) (*opener, error) {
	own, err := control.Certificate()
	if err != nil {
		return nil, fmt.Errorf("make certificate of the control socket: %w", err)
	}
	return &opener{g: g, desk: desk, own: own, key: g.store.Key("control"), here: here(), tokens: map[string]*token{}, open: map[net.Conn]struct{}{}}, nil
}

// errClosing refuses callers while the gateway ends.
var errClosing = errors.New("open session: the gateway is ending, or has too many callers")

// enter counts a conversation in, or refuses it.
func (o *opener) enter(conn net.Conn) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || len(o.open) >= maxConversations {
		return errClosing
	}
	o.open[conn] = struct{}{}
	o.served.Add(1)
	return nil
}

func (o *opener) leave(conn net.Conn) {
	conn.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, conn)
	o.served.Done()
}

// refuseNew lets no new conversation in; close cuts those that are left, which
// ends their sessions, and waits for that.
func (o *opener) refuseNew() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

func (o *opener) close() {
	o.refuseNew()
	o.mu.Lock()
	for conn := range o.open {
		conn.Close()
	}
	o.mu.Unlock()
	o.served.Wait()
	o.bound.Wait()
}

// serve has a conversation on a connection of the control socket.
func (o *opener) serve(conn net.Conn) {
	if o.enter(conn) != nil {
		conn.Close()
		return
	}
	defer o.leave(conn)
	defer o.g.contain("conversation")
	caller, err := control.PeerOf(conn)
	if err != nil || caller.UID != os.Getuid() && caller.UID != 0 {
		o.g.log.Warn("caller of the control socket refused", slog.Int("uid", caller.UID), slog.Any("cause", err))
		return
	}
	v := &visit{o: o, caller: caller}
	if caller.PID > 0 {
		v.callerStart, _ = peer.Started(caller.PID) // 0: it has ended, and cannot prove anything
	}
	v.conn, v.proved, err = control.Answer(conn, o.own, o.keyNamed)
	if err != nil {
		o.g.log.Warn("caller of the control socket refused", slog.Int("pid", caller.PID), slog.Any("cause", err))
		return
	}
	v.talk()
}

// keyNamed is the key that a caller says it holds, or nil.
func (o *opener) keyNamed(name string) []byte {
	if name == vaultKey {
		return o.key
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.tokens[name]; t != nil && time.Now().Before(t.expires) {
		return t.secret
	}
	return nil
}

// use takes a token out: the first who has proved it gets it.
func (o *opener) use(name string) (*token, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.tokens[name]
	delete(o.tokens, name)
	if t == nil || !time.Now().Before(t.expires) {
		return nil, errSpent
	}
	return t, nil
}

// errSpent says that a token opens nothing any more.
var errSpent = errors.New("open session: the token was used already, or its time is over")

// mint makes a token. Its grants end when its time is over, also those of a
// session that it has opened.
func (o *opener) mint(profile *rules.Profile, hash string) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, t := range o.tokens {
		if !time.Now().Before(t.expires) {
			delete(o.tokens, name)
		}
	}
	if o.closed || len(o.tokens) >= maxTokens {
		return "", errors.New("make token: too many tokens wait to be used")
	}
	name, secret := "t"+strings.ToLower(rand.Text()[:16]), strings.ToLower(rand.Text()+rand.Text())
	life := min(profile.TTL, tokenLife) // and one that is never used goes with the next
	o.tokens[name] = &token{secret: []byte(secret), profile: profile, hash: hash, expires: time.Now().Add(life)}
	return tokenPrefix + name + "_" + secret, nil
}

// tokenPrefix begins a token, so that it is known for what it is.
const tokenPrefix = "standin_"

// splitToken is the name of a token and its key.
func splitToken(text string) (name string, key []byte, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	name, secret, found := strings.Cut(rest, "_")
	if !ok || !found || name == "" || len(secret) < 32 {
		return "", nil, errors.New("read token: it is not one of \"standin session token\"")
	}
	return name, []byte(secret), nil
}

// visit is one conversation.
type visit struct {
	o           *opener
	conn        *control.Conn
	proved      string // the name of the key
	caller      control.Peer
	callerStart uint64
}

// talk serves the caller's request.
func (v *visit) talk() {
	var request openingRequest
	if v.conn.Receive(&request) != nil {
		return
	}
	grant.Fault("conversation", request.Profile)
	switch request.Do {
	case "token":
		text, err := v.token(request)
		v.conn.Send(openingAnswer{Token: text, Error: tell(err)})
	case "open":
		if err := v.open(request); err != nil {
			v.conn.Send(openingAnswer{Error: tell(err)})
		}
	default:
		v.conn.Send(openingAnswer{Error: tell(fmt.Errorf("ask the gateway to %.32q: it does not do that", request.Do))})
	}
}

// token makes a token for whoever can open the vault. From inside a session none
// is made: it would reach beyond it.
func (v *visit) token(request openingRequest) (string, error) {
	if v.proved != vaultKey {
		return "", errors.New("make token: a token makes no further ones")
	}
	if outer := v.outer(request); outer != nil {
		return "", newNestedError(outer.session.ID, "no token is made inside a session")
	}
	e := v.o.g.edition()
	profile, err := narrowed(e.policy, request.asked)
	if err != nil {
		return "", err
	}
	return v.o.mint(profile, e.policy.Hash)
}

// matches refuses a caller who read other rules than those in force.
func (v *visit) matches(e *edition, hash string) error {
	if hash != "" && hash != e.policy.Hash {
		return &hinted{errors.New("open session: the gateway serves other rules, or an older state of them"), "kill -HUP the gateway after \"standin rules trust\", or leave --rules out"}
	}
	return nil
}

// outer is the session that the caller is in, or nil: that of the nearest command
// or launcher above it. Where none is, it is the one that its environment names.
func (v *visit) outer(request openingRequest) (found *hosted) {
	var line []int
	if v.caller.PID != 0 {
		line = lineOf(v.caller.PID)
	}
	best := len(line)
	var named *hosted
	for _, h := range v.o.desk.all() {
		if h.over() {
			continue
		}
		// Of two that are as near, the later was opened inside the other.
		if at := nearness(line, h.roots()); at >= 0 && at <= best {
			found, best = h, at
		}
		if h.session.ID == request.Outer {
			named = h
		}
	}
	if found == nil {
		return named
	}
	return found
}

// profile is what the caller may have: of the rules, or of its token.
func (v *visit) profile(request openingRequest) (*rules.Profile, *edition, error) {
	e := v.o.g.edition()
	if v.proved == vaultKey {
		profile, err := narrowed(e.policy, request.asked)
		return profile, e, err
	}
	t, err := v.o.use(v.proved)
	if err != nil {
		return nil, nil, err
	}
	if t.hash != e.policy.Hash {
		return nil, nil, errors.New("open session: the rules have changed since the token was made")
	}
	if request.Profile != "" && request.Profile != t.profile.Name {
		return nil, nil, usageError("--profile %s: the token is for profile %q", request.Profile, t.profile.Name)
	}
	limit := *t.profile
	// Its time has run since it was made.
	limit.TTL -= min(t.profile.TTL, tokenLife) - time.Until(t.expires)
	profile, err := lessened(&limit, request.asked)
	return profile, e, err
}

// open opens a session and stays with it until its launcher is gone.
func (v *visit) open(request openingRequest) error {
	if err := v.matches(v.o.g.edition(), request.RulesHash); err != nil {
		return err
	}
	profile, e, err := v.profile(request)
	if err != nil {
		return err
	}
	if request.Isolation == isolationNetns || profile.Isolation == isolationNetns {
		return &hinted{errors.New("isolate the command: level \"netns\" is not to be had at a serving gateway"), "standin run --isolation netns -- …, without --gateway"}
	}
	near := request.Place == v.o.here && request.Place != place{}
	lacking, err := settleIsolation(profile, request.Isolation, func() error { return v.lacking(near) })
	if err != nil {
		return err
	}
	outer := v.outer(request)
	if outer != nil {
		if err := within(outer.view(), profile, e.policy.Hash); err != nil {
			return err
		}
	}
	h, err := v.o.g.host(context.Background(), sessionConfig{edition: e, profile: profile, isolation: profile.Isolation, command: request.Command,
		relayed: request.Place.Network != v.o.here.Network, outer: outer})
	if err != nil {
		return err
	}
	v.o.g.logIsolation(h.live, lacking)
	if request.Shell.PID == 0 {
		h.launchedBy(processID{v.caller.PID, v.callerStart})
	}
	v.o.desk.add(h)
	// From here on a reload finds the session; what came before is made up for.
	h.session.Limit(v.o.g.edition().file)
	if outer != nil {
		h.narrow(outer.view().granted())
		for _, p := range outer.session.Limits() {
			h.session.Limit(p)
		}
	}
	defer v.o.desk.forget()
	v.o.g.prune()
	h.follow()
	o, err := h.live.outfit(request.Environ, request.Extra, h.proxyURL())
	if err != nil {
		return errors.Join(err, h.end("command did not start"))
	}
	answer := openingAnswer{Outfit: o, Isolation: profile.Isolation, Extends: profile.Extends, Relay: h.listener == nil && h.address == nil}
	if request.Shell.PID != 0 {
		return v.bind(h, request.Shell, answer)
	}
	if err := v.conn.Send(answer); err != nil {
		return h.end(reasonGone)
	}
	defer func() { v.o.g.logged(h.end(reasonGone)) }() // whatever happens there
	v.attend(h, near)
	return nil
}

// reasonGone ends a session whose launcher was killed.
const reasonGone = "its launcher has gone"

// lacking says why "tree" is not to be had for a caller, or nil.
func (v *visit) lacking(near bool) error {
	if !near {
		return errors.New("find the owners of connections: the command is in another network or process namespace than the gateway")
	}
	if v.caller.PID == 0 || v.callerStart == 0 {
		return errors.New("find the owners of connections: the launcher cannot be seen")
	}
	return peer.SelfTest()
}

// attend keeps the session until its launcher says that the command has ended,
// or is gone.
func (v *visit) attend(h *hosted, near bool) {
	grant.Fault("lifeline", h.session.Profile.Name)
	var child launched
	if v.conn.Receive(&child) != nil {
		v.o.g.logged(h.end(reasonGone))
		return
	}
	h.removed(child.Removed)
	if child.Command.PID != 0 && near {
		h.root(peer.Config{PID: child.Command.PID, Start: child.Command.Start, Mark: launch.Mark(h.session.ID), Alone: h.session.Profile.Extends == "command",
			Launcher: peer.Launcher{PID: v.caller.PID, Start: v.callerStart}})
	}
	h.partsBy(func(last left) { _ = v.conn.Send(last) }) // who has gone needs no answer
	var last leaving
	if v.conn.Receive(&last) != nil {
		v.o.g.logged(h.end(reasonGone))
		return
	}
	err := h.end(clipped(last.Reason))
	v.conn.Send(left{Receipt: h.receipt(), Error: tell(err)})
}

// clipped keeps what a launcher says of itself short.
func clipped(reason string) string { return reason[:min(len(reason), 64)] }
