package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"standin/grant"
	"standin/grant/scrub"
	"standin/proxy/websocket"
	"standin/rules"
)

// upgrade decides about a request that asks for a WebSocket. Requests for other
// protocols are requests like any other, and lose that field.
func (x *exchange) upgrade() error {
	if !isUpgrade(x.r.Header, "websocket") {
		return nil
	}
	if rule := x.decision.Rule; rule == nil || !rule.WebSocket {
		return &grant.Refusal{Code: "upgrade_refused"}
	}
	if err := websocket.CheckRequest(x.r); err != nil {
		return &grant.Refusal{Code: "bad_request"}
	}
	x.opens = true
	return nil
}

// isUpgrade says whether a request asks for another protocol.
func isUpgrade(h http.Header, protocol string) bool {
	for _, line := range h["Upgrade"] {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), protocol) {
				return true
			}
		}
	}
	return false
}

// relay tells the client that its WebSocket is open, and passes messages on until
// that ends: those of the client with values where the rule allows placeholders,
// those of the upstream scrubbed.
func (x *exchange) relay(plan *grant.Plan, resp *http.Response) error {
	defer resp.Body.Close()
	if websocket.CheckAnswer(x.r.Header, resp.Header) != nil {
		return &grant.Refusal{Code: "upstream_protocol"}
	}
	h := http.Header{}
	if err := x.copyHeader(h, resp.Header); err != nil {
		return err
	}
	delete(h, "Content-Length")
	websocket.Offer(h)
	if !x.t.client.relaying() {
		return &grant.Refusal{Code: "session_closed"}
	}
	defer x.t.client.relays.Done()
	conn, rw, err := http.NewResponseController(x.w.ResponseWriter).Hijack()
	if err != nil {
		return err
	}
	x.w.begun = true
	if x.t.Conn == nil {
		// It came without a CONNECT, and is one tunnel from now on.
		if x.t.Conn = conn; x.t.open() != nil {
			conn.Close()
			x.result(outcome{reason: "too many tunnels"})
			return nil
		}
		conn = x.t
	}
	defer conn.Close()
	if !x.t.attach(socket(x.up)) {
		x.result(outcome{reason: "client aborted"})
		return nil
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(&head)
	head.WriteString("\r\n")
	conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	if _, err := conn.Write(head.Bytes()); err != nil {
		x.result(outcome{reason: "client aborted"})
		return nil
	}
	up := &said{x: x, plan: plan}
	up.messages = plan.Messages(grant.Late{
		Record:    func(use grant.Use) error { return x.recordUses([]grant.Use{use}) },
		Misplaced: up.misplaced,
	})
	down := &heard{x: x, plan: plan}
	out := x.run(websocket.NewRelay(websocket.Config{
		Client:   websocket.End{Conn: conn, In: rw.Reader},
		Upstream: websocket.End{Conn: x.up, In: bufio.NewReader(resp.Body)},
		Up:       up, Down: down, Idle: quietTimeout, Stall: stallTimeout, Goodbye: goodbye,
	}))
	out.seen.Scrubbed = down.scrubbed
	x.result(out)
	return nil
}

// socket is the connection itself: to close it waits for nobody.
func socket(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

// run runs a relay, and says how it ended.
func (x *exchange) run(relay *websocket.Relay) outcome {
	if expires := x.decision.Rule.Expires; !expires.IsZero() {
		timer := time.AfterFunc(time.Until(expires), func() { relay.Stop(&grant.Refusal{Code: "grant_expired"}) })
		defer timer.Stop()
	}
	err := relay.Run(func() {
		if v := recover(); v != nil {
			x.p.cfg.Log.Error("panic", slog.String("where", "WebSocket"), slog.String("stack", stack()))
		}
	})
	out := outcome{status: http.StatusSwitchingProtocols}
	out.said, out.seen.Received = relay.Counts()
	var broken *websocket.Violation
	over := x.t.client.Session.Live()
	switch {
	case err == nil:
	case errors.As(err, &broken):
		out.code, out.reason = "upstream_protocol", broken.Reason
		if broken.Client {
			out.code = "bad_request"
			x.denied(&grant.Refusal{Code: out.code, Surface: broken.Reason})
		}
	case errors.Is(err, websocket.ErrIdle):
		out.reason = "idle"
	case errors.Is(err, websocket.ErrNoGoodbye):
		out.reason = "no answer to a close"
	case errors.Is(err, websocket.ErrClientGone), errors.Is(err, websocket.ErrUpstreamGone):
		if out.reason = "client aborted"; errors.Is(err, websocket.ErrUpstreamGone) {
			out.reason = "upstream aborted"
		}
		if over != nil {
			out.code, out.reason = grant.AsRefusal(over).Code, "cut"
		}
	default:
		refusal := x.p.refusalOf(err, "WebSocket")
		out.code, out.reason = refusal.Code, refusal.Surface
		x.denied(refusal)
	}
	return out
}

// denied records why a message was not passed on.
func (x *exchange) denied(refusal *grant.Refusal) {
	rec := x.record("deny")
	rec.Code, rec.Reason = refusal.Code, refusal.Surface
	if refusal.Secret != "" {
		rec.Secrets = []string{refusal.Secret}
	}
	x.p.note(rec)
}

// goodbye is what both ends are told when a refusal ends a WebSocket.
func goodbye(err error) (code uint16, reason string) {
	refusal := grant.AsRefusal(err).Code
	switch status := answerFor(refusal).status; {
	case status < 500:
		return websocket.PolicyBroken, refusal
	case status == http.StatusServiceUnavailable:
		return websocket.TryAgainLater, refusal
	}
	return websocket.InternalError, refusal
}

// said is what the client says.
type said struct {
	x        *exchange
	plan     *grant.Plan
	messages *grant.Messages
	seen     map[string]bool // placeholders that stay in the message under way
}

func (s *said) Begin(op websocket.Op) error {
	s.seen = nil
	if s.x.decision.Rule.Expired(time.Now()) {
		return &grant.Refusal{Code: "grant_expired"}
	}
	return s.messages.Begin(op == websocket.Text)
}

func (s *said) Next(b []byte, last bool) ([]byte, error) { return s.messages.Next(b, last) }

func (s *said) Control(b []byte) ([]byte, error) {
	s.seen = nil
	return b, s.messages.Control(b)
}

// misplaced refuses a placeholder, or records each secret's once in a message and
// lets it pass: it is inert.
func (s *said) misplaced(secret string) error {
	if s.x.decision.Rule.Misplaced == rules.Refuse {
		return &grant.Refusal{Code: "placeholder_misplaced", Secret: secret, Surface: "websocket"}
	}
	if !s.seen[secret] {
		s.x.noteMisplaced("websocket", []string{secret})
		if s.seen == nil {
			s.seen = map[string]bool{}
		}
		s.seen[secret] = true
	}
	return nil
}

// heard is what the upstream says.
type heard struct {
	x        *exchange
	plan     *grant.Plan
	body     scrub.Body // of the message under way
	out      []byte
	scrubbed int
}

func (h *heard) Begin(websocket.Op) error {
	h.body = scrub.Body{Scrubber: h.x.scrubber()}
	return h.plan.Live()
}

func (h *heard) Next(b []byte, last bool) ([]byte, error) {
	if h.body.Scrubber == nil {
		return b, nil
	}
	out := h.out[:0]
	for n := -1; n < 0 || len(b) > 0; b = b[n:] {
		n = copy(h.body.Room(), b)
		out = append(out, h.body.Take(n, last && n == len(b))...)
	}
	if h.out = out; last {
		h.scrubbed += h.body.Replaced
		h.body.Free()
		h.out = nil // until the next message it is nobody's
	}
	return out, nil
}

// Control scrubs what fits a control frame whole.
func (h *heard) Control(b []byte) ([]byte, error) {
	text := h.x.scrubber().String(string(b))
	if len(text) > websocket.MaxControl {
		return nil, &grant.Refusal{Code: "unsafe_response"}
	}
	return []byte(text), nil
}
