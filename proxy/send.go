package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/grant/coding"
	"standin/proxy/websocket"
	"standin/rules"
)

// send records what the plan puts into the request, puts it in, and sends the
// request on: one function, so that nothing is sent that was not recorded. The
// record is durable before the first byte leaves.
func (x *exchange) send(plan *grant.Plan, req *grant.Request, body *sentBody) (*http.Response, error) {
	pool, err := x.p.pool(x)
	if err != nil {
		return nil, err
	}
	x.noteMisplaced("body", plan.Misplaced)
	if err := x.recordUses(plan.Uses); err != nil {
		return nil, err
	}
	plan.Apply(req)
	if err := body.substitute(plan); err != nil {
		return nil, err
	}
	out := x.request(req, body)
	tries := 0
	once := x.informOnce()
	trace := &httptrace.ClientTrace{
		// The transport may find a pooled connection dead and take another:
		// then the request leaves again, and is recorded again.
		GotConn: func(info httptrace.GotConnInfo) {
			if tries++; tries > 1 && x.recordUses(plan.Uses) != nil {
				info.Conn.Close()
			}
			x.up = info.Conn
		},
		Got1xxResponse: once.inform,
	}
	x.sent = true
	ctx := context.WithValue(x.r.Context(), askedBy{}, x.r.Context())
	resp, err := pool.RoundTrip(out.WithContext(httptrace.WithClientTrace(ctx, trace)))
	once.stop()
	if err != nil {
		body.stop(x.w)
		return nil, x.sendError(err, body)
	}
	if resp.StatusCode == http.StatusLengthRequired && out.Body != nil && out.ContentLength < 0 && x.r.ContentLength > 0 {
		resp.Header.Add("Proxy-Status", `standin; details="the length of the body is not known before it is sent; raise \"read-first\" of the rule"`)
	}
	return resp, nil
}

// recordUses makes substitutions durable.
func (x *exchange) recordUses(uses []grant.Use) error {
	if len(uses) == 0 {
		return nil
	}
	rec := x.record("substitute")
	rec.RulesHash = x.decision.Hash
	for _, use := range uses {
		rec.Uses = append(rec.Uses, audit.Use{Secret: use.Secret, Version: use.Version, Fingerprint: use.Fingerprint, Surface: use.Surface, Count: use.Count})
	}
	if err := x.p.cfg.Recorder.Append(x.r.Context(), rec); err != nil {
		return &grant.Refusal{Code: "audit_unavailable", Cause: err}
	}
	return nil
}

// noteMisplaced records placeholders that stay where they are, in a body or
// another place without a surface.
func (x *exchange) noteMisplaced(place string, secrets []string) {
	if len(secrets) == 0 {
		return
	}
	rec := x.record("misplaced")
	rec.Count = len(secrets)
	rec.Reason = place
	slices.Sort(secrets)
	rec.Secrets = slices.Compact(slices.Clone(secrets))
	x.p.note(rec)
}

// request is what goes to the upstream: the client's bytes where nothing was
// substituted, under the authority of the tunnel.
func (x *exchange) request(req *grant.Request, body *sentBody) *http.Request {
	host := x.t.host()
	u := &url.URL{Scheme: x.t.scheme, Host: host, Opaque: req.Path, RawQuery: req.Query, ForceQuery: x.asked}
	if strings.HasPrefix(req.Path, "//") || req.Path == "*" {
		// Opaque would be read as an authority here.
		decoded, _ := url.PathUnescape(req.Path)
		u.Opaque, u.Path, u.RawPath = "", decoded, req.Path
	}
	h := req.Header
	stripHops(h)
	if x.opens {
		websocket.Offer(h)
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // keeps the transport from naming itself
	}
	if x.scrubs() || x.strips() {
		coding.Narrow(h)
		delete(h, "Range")
		delete(h, "If-Range")
	}
	out := &http.Request{Method: x.r.Method, URL: u, Host: host, Header: h, ProtoMajor: 1, ProtoMinor: 1}
	switch {
	case body != nil:
		out.Body, out.ContentLength, out.Trailer = body, body.length, body.trailer
	case req.Body != nil:
		delete(h, "Expect")
		first := newFirstBody(req)
		x.first = first.left
		out.Body, out.ContentLength = first, x.first
	}
	return out
}

// sendError gives a failed round trip its code. Errors of dialling carry theirs.
func (x *exchange) sendError(err error, body *sentBody) error {
	var refusal *grant.Refusal
	var timeout net.Error
	switch {
	case body != nil && body.refused != nil:
		return body.refused
	case errors.As(err, &refusal):
		return refusal
	case x.r.Context().Err() != nil || body != nil && body.failed:
		out := outcome{sent: body, reason: "aborted"}
		if over := x.t.client.Session.Live(); over != nil {
			out.fault(err, over)
		}
		x.result(out)
		panic(http.ErrAbortHandler)
	case errors.As(err, &timeout) && timeout.Timeout():
		return &grant.Refusal{Code: "upstream_timeout", Cause: err}
	}
	// What net/http says of an answer may quote it, so the cause stays unsaid.
	x.p.cfg.Log.Warn("upstream answer is not valid", slog.String("host", x.t.authority.Host), slog.String("id", x.id))
	return &grant.Refusal{Code: "upstream_protocol"}
}

// inform passes 1xx answers on while the request is under way.
type informer struct {
	x    *exchange
	mu   sync.Mutex
	done bool
	n    int
}

func (x *exchange) informOnce() *informer { return &informer{x: x} }

// maxInform bounds the 1xx answers to one request.
const maxInform = 5

func (i *informer) inform(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n++; i.n > maxInform {
		return &grant.Refusal{Code: "upstream_protocol"}
	}
	if i.done || code == http.StatusContinue || code == http.StatusSwitchingProtocols || !i.x.r.ProtoAtLeast(1, 1) {
		return nil
	}
	h := i.x.w.Header()
	if err := i.x.copyHeader(h, http.Header(header)); err != nil {
		return err
	}
	i.x.w.ResponseWriter.WriteHeader(code)
	clear(h)
	return nil
}

func (i *informer) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.done = true
}

// sentBody is the stream of a request's body on its way to the upstream. It
// watches for placeholders and counts.
type sentBody struct {
	x       *exchange
	src     io.ReadCloser
	reads   bool // the rule reads it: values are put in while it streams
	upload  *grant.Upload
	length  int64       // as it is sent on, -1 when that is not known
	trailer http.Header // nil, or the declared names, filled at the end

	n       atomic.Int64 // read so far
	mu      sync.Mutex   // held while the client is waited for
	ended   bool         // all of it was read
	failed  bool         // the client broke off
	stopped bool
	refused *grant.Refusal // why it was cut
	seen    map[string]bool
}

func (x *exchange) newSentBody() *sentBody {
	b := &sentBody{x: x, length: x.r.ContentLength, seen: map[string]bool{}}
	b.src = x.t.client.Session.Index().Watch(x.r.Body, b.found)
	if len(x.r.Trailer) > 0 {
		b.trailer = http.Header{}
		for name := range x.r.Trailer {
			if !x.holdsPlaceholder(name) {
				b.trailer[name] = nil
			}
		}
	}
	// The answer may begin, and end, before the body does.
	http.NewResponseController(x.w.ResponseWriter).EnableFullDuplex()
	return b
}

// found records each secret's placeholder once, and lets it pass: it is inert.
func (b *sentBody) found(p *grant.Placeholder) error {
	if !b.seen[p.Secret] {
		b.seen[p.Secret] = true
		b.x.noteMisplaced("body", []string{p.Secret})
		b.x.t.client.Session.NoteMisplaced([]string{p.Secret})
	}
	return nil
}

// substitute makes b carry values, when the rule reads it. A placeholder is only
// found while the body streams, so its use is recorded then, before any of the
// value goes out.
func (b *sentBody) substitute(plan *grant.Plan) error {
	if b == nil || !b.reads {
		return nil
	}
	src, sameLength, err := plan.Stream(b.x.r.Body, grant.Late{
		Record: func(use grant.Use) error { return b.x.recordUses([]grant.Use{use}) },
		Misplaced: func(secret string) error {
			if b.x.decision.Rule.Misplaced == rules.Refuse {
				return &grant.Refusal{Code: "placeholder_misplaced", Secret: secret, Surface: "body"}
			}
			if !b.seen[secret] {
				b.seen[secret] = true
				b.x.noteMisplaced("body", []string{secret})
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if b.src, b.upload = src, src; !sameLength {
		b.length = -1
	}
	return nil
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return 0, errStopped
	}
	n, err := b.src.Read(p)
	b.n.Add(int64(n))
	switch {
	case err == io.EOF:
		b.ended = true
		b.trailers()
	case errors.As(err, &b.refused):
		rec := b.x.record("deny")
		rec.Code, rec.Reason = b.refused.Code, b.refused.Surface
		if b.refused.Secret != "" {
			rec.Secrets = []string{b.refused.Secret}
		}
		b.x.p.note(rec)
	case b.x.r.ProtoMajor == 1 && malformed(err):
		b.refused = &grant.Refusal{Code: "bad_request"}
	case err != nil:
		b.failed = true
	}
	return n, err
}

// malformed says whether an error of reading a body is about its framing: the
// client is still there to be told, unlike one that broke off.
func malformed(err error) bool {
	var gone net.Error
	return err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &gone) && !errors.Is(err, http.ErrBodyReadAfterClose)
}

var errStopped = errors.New("the exchange is over")

// trailers passes the declared trailers on, but none that holds a placeholder.
func (b *sentBody) trailers() {
	index := b.x.t.client.Session.Index()
	for name := range b.trailer {
		values := b.x.r.Trailer[name]
		held := slices.IndexFunc(values, func(v string) bool { _, found := index.Next(v, 0); return found })
		if held >= 0 {
			hit, _ := index.Next(values[held], 0)
			b.x.noteMisplaced("body", []string{hit.Placeholder.Secret})
			delete(b.trailer, name)
			continue
		}
		b.trailer[name] = values
	}
}

// Close is called by the transport. The client's stream is the server's to close.
func (b *sentBody) Close() error { return nil }

// stop ends the transport's reading before the handler returns: the server's
// body must not be read after that.
func (b *sentBody) stop(w *plainWriter) {
	if b == nil {
		return
	}
	if !b.mu.TryLock() {
		http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now())
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.stopped = true
	if b.upload == nil {
		return
	}
	if b.upload.Waits() {
		http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now())
	}
	b.upload.Close()
}

// unfinished says whether the client may still be sending.
func (b *sentBody) unfinished() bool {
	if b == nil {
		return false
	}
	if !b.mu.TryLock() {
		return true
	}
	defer b.mu.Unlock()
	return !b.ended
}

// sentBytes is how much of the body has been read.
func (b *sentBody) sentBytes() int64 {
	if b == nil {
		return 0
	}
	return b.n.Load()
}
