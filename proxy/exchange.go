package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/grant/coding"
	"standin/rules"
)

// exchange is one request and its answer.
type exchange struct {
	p        *Proxy
	t        *tunnel
	w        *plainWriter
	r        *http.Request
	id       string
	began    time.Time
	path     string         // raw, as on the wire
	query    string         // raw, without "?"
	asked    bool           // a "?" stood in the target
	decision grant.Decision // of one version of the rules
	coding   string         // of the body, when the rule reads it
	logged   string         // the path as the record may say it
	sent     bool           // it was sent on, as far as can be known
	first    int64          // bytes of a body that was read first, as it was sent on
	opens    bool           // it opens a WebSocket
	up       net.Conn       // what it was sent on by, when it opens a WebSocket

	brought []string // names of the cookies that the answer sets
}

// serveDecrypted serves one request of a tunnel.
func (p *Proxy) serveDecrypted(w http.ResponseWriter, r *http.Request) {
	var t *tunnel
	switch conn := r.Context().Value(connKey{}).(type) {
	case *tls.Conn:
		t, _ = conn.NetConn().(*tunnel)
	case *tunnel:
		t = conn
	}
	if t == nil {
		writeRefusal(w, "internal", newID())
		return
	}
	p.exchange(w, r, t)
}

// exchange serves one request, and contains whatever goes wrong in it.
func (p *Proxy) exchange(w http.ResponseWriter, r *http.Request, t *tunnel) {
	x := &exchange{p: p, t: t, w: &plainWriter{ResponseWriter: w}, r: r, id: newID(), began: time.Now()}
	defer p.contain(x.w, "exchange")
	grant.Fault("exchange", t.authority.Host)
	if err := x.check(); err != nil {
		x.refuse(err)
		return
	}
	if err := x.serve(); err != nil {
		x.refuse(err)
	}
}

// refuse answers with the code of err and records it.
func (x *exchange) refuse(err error) {
	r := x.p.refusalOf(err, "request")
	rec := x.record("deny")
	if x.sent {
		rec.Type, rec.Duration = "result", time.Since(x.began)
	}
	rec.Code, rec.Status = r.Code, answerFor(r.Code).status
	if r.Secret != "" {
		rec.Secrets = []string{r.Secret}
	}
	rec.Reason = r.Surface
	x.p.note(rec)
	if x.r.ProtoMajor == 1 && x.r.ContentLength != 0 {
		// What is left of the body must not be taken for a request.
		x.w.Header().Set("Connection", "close")
	}
	writeRefusal(x.w, r.Code, x.id)
}

// record begins a record of this request.
func (x *exchange) record(kind string) *audit.Record {
	rec := x.t.record(kind)
	rec.ID, rec.Method, rec.Path = x.id, x.r.Method, x.logged
	if len(rec.Method) > 32 {
		rec.Method = ""
	}
	if x.decision.Rule != nil {
		rec.Rule = x.decision.Rule.Name
	}
	return rec
}

// check decides what can be decided before the body is looked at.
func (x *exchange) check() error {
	if err := x.t.client.Session.Live(); err != nil {
		return err
	}
	malformed := x.target()
	if m := x.r.Method; m == http.MethodConnect || m == http.MethodTrace || m == "TRACK" {
		return &grant.Refusal{Code: "method_not_allowed"} // whatever its target looks like
	} else if !validMethod(m) || x.holdsPlaceholder(m) {
		return &grant.Refusal{Code: "bad_request"}
	}
	if malformed != nil {
		return malformed
	}
	if length := x.r.Header["Content-Length"]; len(length) > 0 && (len(length) > 1 || length[0] != strconv.FormatInt(x.r.ContentLength, 10)) {
		return &grant.Refusal{Code: "bad_request"} // over HTTP/2 net/http takes what it cannot read for 0
	}
	if err := x.host(); err != nil {
		return err
	}
	policy := x.t.client.Session.Policy
	if x.t.scheme == "http" {
		if err := x.clear(policy); err != nil {
			return err
		}
	}
	x.decision = x.t.client.Session.Match(rules.Target{Authority: x.t.authority, Scheme: x.t.scheme, Method: x.r.Method, Path: x.path})
	if rule := x.decision.Rule; rule != nil {
		if rule.Deny {
			return &grant.Refusal{Code: "rule_denied"}
		}
		if rule.Expired(time.Now()) {
			return &grant.Refusal{Code: "grant_expired"}
		}
	}
	return x.upgrade()
}

// clear decides about a request in the clear: a host that is intercepted for
// https is never reached so, unless a rule for http names it.
func (x *exchange) clear(policy *rules.Policy) error {
	x.t.verdict = x.t.client.Session.Host(x.t.authority)
	if slices.ContainsFunc(policy.At(x.t.authority), func(r *rules.Rule) bool { return r.Scheme == "http" && !r.Passthrough }) {
		x.t.scrub = x.t.client.Session.GrantsAt(x.t.authority)
		return nil
	}
	if x.t.verdict.Action == rules.Intercept || policy.InterceptsName(x.t.authority.Host) {
		return &grant.Refusal{Code: "cleartext_credential"}
	}
	if x.t.verdict.Action == rules.UnmatchedDeny {
		return &grant.Refusal{Code: "unmatched_denied"}
	}
	return nil
}

func (x *exchange) holdsPlaceholder(text string) bool {
	_, found := x.t.client.Session.Index().Next(strings.ToLower(text), 0)
	return found
}

// target splits the request target. Inside a tunnel it may also be absolute,
// for the tunnel's own authority.
func (x *exchange) target() error {
	raw := x.r.RequestURI
	for _, c := range []byte(raw) {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return &grant.Refusal{Code: "bad_request"}
		}
	}
	if raw == "*" && x.r.Method == http.MethodOptions {
		x.path, x.logged = raw, raw
		return nil
	}
	if !strings.HasPrefix(raw, "/") {
		scheme, rest, ok := strings.Cut(raw, "://")
		if !ok || lowerASCII(scheme) != x.t.scheme || x.r.ProtoMajor != 1 {
			return &grant.Refusal{Code: "bad_request"}
		}
		authority, end := rest, strings.IndexAny(rest, "/?")
		raw = "/"
		if end >= 0 {
			authority, raw = rest[:end], rest[end:]
		}
		if strings.HasPrefix(raw, "?") {
			raw = "/" + raw
		}
		if strings.Contains(authority, "@") {
			return &grant.Refusal{Code: "bad_request"}
		}
	}
	x.path, x.query, x.asked = strings.Cut(raw, "?")
	x.logged = x.t.client.Session.LoggedPath(x.path)
	if strings.HasPrefix(x.path, "//") {
		plain, err := url.PathUnescape(x.path)
		if err != nil || (&url.URL{Path: plain, RawPath: x.path}).EscapedPath() != x.path {
			return &grant.Refusal{Code: "bad_request"} // net/http cannot send it on as it is
		}
	}
	return nil
}

// host checks that Host, or :authority, is the authority of the tunnel.
func (x *exchange) host() error {
	port := uint16(443)
	if x.t.scheme == "http" {
		port = 80
	}
	a, err := rules.ParseHost(x.r.Host, port)
	if x.r.Host == "" {
		return &grant.Refusal{Code: "bad_request"}
	}
	if err != nil || a != x.t.authority {
		return &grant.Refusal{Code: "authority_mismatch"}
	}
	if also := x.r.Header["Host"]; len(also) > 0 {
		if a, err = rules.ParseHost(also[0], port); len(also) > 1 || err != nil || a != x.t.authority {
			return &grant.Refusal{Code: "authority_mismatch"}
		}
		delete(x.r.Header, "Host")
	}
	return nil
}

// serve reads what must be read first, prepares, sends and receives.
func (x *exchange) serve() error {
	body, first, err := x.body()
	if err != nil {
		return err
	}
	req := &grant.Request{Header: x.r.Header, Path: x.path, Query: x.query, Body: first, Coding: x.coding, Match: x.decision.Match, At: x.t.authority}
	plan, err := x.t.client.Session.Prepare(x.r.Context(), req)
	if err != nil {
		return err
	}
	resp, err := x.send(plan, req, body)
	if err != nil {
		return err
	}
	if x.opens && resp.StatusCode == http.StatusSwitchingProtocols {
		return x.relay(plan, resp)
	}
	return x.receive(resp, body)
}

// body decides how the request's body is read. It returns the body that was
// read first, or else the stream; neither, when there is none.
func (x *exchange) body() (*sentBody, []byte, error) {
	r := x.r
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil, nil
	}
	if r.ContentLength == 0 {
		// Over HTTP/2 the end is still to come, and may turn out to be none.
		if n, err := r.Body.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			return nil, nil, &grant.Refusal{Code: "bad_request", Cause: errShortBody}
		}
		return nil, nil, nil
	}
	rule := x.decision.Rule
	if !readsBody(rule) {
		return x.newSentBody(), nil, nil
	}
	if signed(r.Header) || signed(r.Trailer) {
		return nil, nil, &grant.Refusal{Code: "signed_body"}
	}
	var err error
	if x.coding, err = coding.Parse(r.Header["Content-Encoding"]); err != nil {
		return nil, nil, &grant.Refusal{Code: "encoded_body"}
	}
	if r.ContentLength < 0 || r.ContentLength > rule.ReadFirst {
		b := x.newSentBody()
		b.reads = true
		return b, nil, nil
	}
	first := firstBuffer(r.ContentLength)
	if _, err := io.ReadFull(r.Body, first); err != nil {
		return nil, nil, &grant.Refusal{Code: "bad_request", Cause: errShortBody}
	}
	return nil, first, nil
}

var errShortBody = errors.New("the body has another length than it says")

// firstBuffers are for bodies that are read first, up to the default limit: one
// of 1 MiB a request would cost more than what is done with it.
var firstBuffers = sync.Pool{New: func() any { return new([rules.DefaultReadFirst]byte) }}

func firstBuffer(size int64) []byte {
	if size > rules.DefaultReadFirst || size < 32<<10 {
		return make([]byte, size)
	}
	return firstBuffers.Get().(*[rules.DefaultReadFirst]byte)[:size]
}

// firstBody sends a body that was read first, and gives its buffer back when the
// transport has closed it, which may be while it still reads.
type firstBody struct {
	mu     sync.Mutex
	pieces [][]byte
	left   int64
	buffer []byte
}

func newFirstBody(req *grant.Request) *firstBody {
	b := &firstBody{pieces: req.Sent, buffer: req.Body}
	if b.pieces == nil {
		b.pieces = [][]byte{req.Body}
	}
	for _, p := range b.pieces {
		b.left += int64(len(p))
	}
	return b
}

func (b *firstBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for n < len(p) && len(b.pieces) > 0 {
		k := copy(p[n:], b.pieces[0])
		n += k
		if b.pieces[0] = b.pieces[0][k:]; len(b.pieces[0]) == 0 {
			b.pieces = b.pieces[1:]
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close ends all reading: the buffer may be another body's from now on.
func (b *firstBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cap(b.buffer) == rules.DefaultReadFirst {
		firstBuffers.Put((*[rules.DefaultReadFirst]byte)(b.buffer[:rules.DefaultReadFirst]))
	}
	b.pieces, b.buffer = nil, nil
	return nil
}

// readsBody says whether a rule looks into bodies.
func readsBody(rule *rules.Rule) bool {
	if rule == nil {
		return false
	}
	if rule.Misplaced == rules.Refuse {
		return true
	}
	for _, sub := range rule.Substitute {
		for _, surface := range sub.In {
			if surface.Kind.InBody() {
				return true
			}
		}
	}
	return false
}

// signed says whether fields, which may be announced for the trailer, sign the
// body, so that a substitution would break it.
func signed(h http.Header) bool {
	for _, name := range []string{"Digest", "Content-Digest", "Repr-Digest", "Content-Md5", "X-Amz-Content-Sha256", "Signature", "Signature-Input"} {
		if _, ok := h[name]; ok {
			return true
		}
	}
	for _, line := range h["Content-Encoding"] {
		if strings.Contains(strings.ToLower(line), "aws-chunked") {
			return true // each chunk carries the signature of what it holds
		}
	}
	return strings.HasPrefix(h.Get("Authorization"), "AWS4-")
}
