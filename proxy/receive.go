package proxy

import (
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"standin/grant"
	"standin/grant/answer"
	"standin/grant/coding"
	"standin/grant/scrub"
	"standin/rules"
)

// scrubs says whether answers to this request are scrubbed: those of a host at
// which the session holds a grant, unless the rule says otherwise.
func (x *exchange) scrubs() bool {
	if rule := x.decision.Rule; rule != nil && rule.Scrub != rules.ScrubDefault {
		return rule.Scrub == rules.ScrubAlways
	}
	return x.t.scrub
}

// strips says whether new credentials are taken out of answers.
func (x *exchange) strips() bool {
	return x.decision.Rule != nil && x.decision.Rule.ResponseCredentials == rules.Strip
}

// scrubber is nil when answers to this request are not scrubbed.
func (x *exchange) scrubber() *scrub.Scrubber {
	if !x.scrubs() {
		return nil
	}
	return x.t.client.Session.Scrubber()
}

// receive scrubs the answer and passes it on: one function, so that nothing
// reaches the client that was not scrubbed.
func (x *exchange) receive(resp *http.Response, sent *sentBody) error {
	defer sent.stop(x.w)
	defer resp.Body.Close()
	if s := resp.StatusCode; s < 200 || s > 999 || s == http.StatusProxyAuthRequired {
		return &grant.Refusal{Code: "upstream_protocol"}
	}
	how, err := x.how(resp)
	if err != nil {
		return err
	}
	h := x.w.Header()
	h["Date"], h["Content-Type"] = nil, nil // else net/http would make them up
	if err := x.copyHeader(h, resp.Header); err != nil {
		clear(h)
		return err
	}
	if x.r.ProtoMajor == 1 && sent.unfinished() {
		// net/http would take what is left of the body for the next request.
		h["Connection"] = []string{"close"}
	}
	for name := range resp.Trailer {
		if x.scrubber().Holds(name) {
			clear(h)
			return &grant.Refusal{Code: "unsafe_response"}
		}
		h.Add("Trailer", name)
	}
	out := outcome{status: resp.StatusCode, sent: sent}
	if !hasBody(x.r.Method, resp.StatusCode) {
		x.w.WriteHeader(resp.StatusCode)
		x.result(out)
		return nil
	}
	out.seen, err = x.copyBody(resp, how)
	if errors.Is(err, answer.ErrUnsafe) && !x.w.started() {
		clear(h)
		return &grant.Refusal{Code: "unsafe_response", Cause: err}
	}
	if err == nil {
		err = x.copyTrailer(resp.Trailer)
	}
	out.left = x.r.Context().Err() != nil
	out.fault(err, x.t.client.Session.Live())
	x.result(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// how says what is done with the body of an answer.
func (x *exchange) how(resp *http.Response) (answer.How, error) {
	h := resp.Header
	how := answer.How{Scrubber: x.scrubber(), Strip: x.strips(), Length: resp.ContentLength, Type: h.Get("Content-Type"), Idle: silence}
	how.Messages, _ = coding.Parse(slices.Concat(h["Grpc-Encoding"], h["Connect-Content-Encoding"]))
	if answer.Endless(how.Type) {
		how.Idle = 0
	}
	if !how.Scrubs() || !hasBody(x.r.Method, resp.StatusCode) {
		return how, nil
	}
	var err error
	if how.Coding, err = coding.Parse(h["Content-Encoding"]); err != nil {
		return how, &grant.Refusal{Code: "unsafe_response"}
	}
	if how.Coding != "" {
		for _, name := range []string{"Content-Length", "Content-Md5", "Content-Digest", "Digest", "Repr-Digest"} {
			delete(h, name) // it is coded anew, in other bytes
		}
	}
	return how, nil
}

func hasBody(method string, status int) bool {
	return method != http.MethodHead && status != http.StatusNoContent && status != http.StatusNotModified
}

// copyHeader copies what belongs to the answer, scrubbed. A value in the name
// of a field cannot be scrubbed away.
func (x *exchange) copyHeader(to, from http.Header) error {
	stripHops(from)
	delete(from, "Te")
	delete(from, "Alt-Svc") // leads around the proxy
	scrubber := x.scrubber()
	for name, values := range from {
		if scrubber.Holds(name) {
			return &grant.Refusal{Code: "unsafe_response"}
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return &grant.Refusal{Code: "upstream_protocol"} // "X-A : b", which net/http lets pass
		}
		for i, value := range values {
			values[i] = scrubber.String(value)
			if values[i] != value && (name == "Set-Cookie" || name == "Location") {
				x.t.client.Session.Returns(x.t.authority, x.path, name, value)
			}
		}
		if name == "Set-Cookie" && x.cookies(values) {
			continue
		}
		to[name] = values
	}
	return nil
}

// cookies notes the cookies that an answer sets, and says whether they are taken out.
func (x *exchange) cookies(lines []string) (stripped bool) {
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "=")
		name = "cookie " + x.t.client.Session.Logged(strings.TrimSpace(name))
		if !slices.Contains(x.brought, name) && len(x.brought) < maxBrought {
			x.brought = append(x.brought, name)
		}
	}
	return x.strips()
}

// maxBrought bounds the names of new credentials in one record.
const maxBrought = 32

func (x *exchange) copyTrailer(trailer http.Header) error {
	scrubber := x.scrubber()
	for name, values := range trailer {
		if scrubber.Holds(name) {
			return errUnsafeTrailer
		}
		if name == "Set-Cookie" || name == "Alt-Svc" {
			continue // no place for them (RFC 9110, 6.5.1)
		}
		for _, value := range values {
			x.w.Header().Add(http.TrailerPrefix+name, scrubber.String(value))
		}
	}
	return nil
}

var (
	errClientGone    = errors.New("the client is gone")
	errUnsafeTrailer = errors.New("the trailers cannot be scrubbed")
)

// smallAnswer is what fits the socket's own buffer: a client that does not read
// it stalls nobody.
const smallAnswer = 4 << 10

// copyBody passes the body on as it comes.
func (x *exchange) copyBody(resp *http.Response, how answer.How) (answer.Seen, error) {
	d := &delivery{x: x, resp: resp, changed: how.Scrubs(), flow: http.NewResponseController(x.w.ResponseWriter)}
	if resp.ContentLength < 0 && how.Coding == "" {
		// The answer's header must not wait for its first event.
		if err := d.Pass(nil, answer.Pause); err != nil {
			return answer.Seen{}, err
		}
	}
	return answer.Copy(d, resp.Body, how)
}

// delivery is an answer on its way to the client.
type delivery struct {
	x        *exchange
	resp     *http.Response
	changed  bool // its length may not be what it was
	flow     *http.ResponseController
	began    bool
	deadline time.Time
}

// Pass sends what is ready. The first call begins the answer, and says how long
// it is when that is known.
func (d *delivery) Pass(p []byte, then answer.Then) error {
	w, last := d.x.w, then == answer.Last
	if !d.began {
		d.began = true
		if d.changed {
			h := w.Header()
			delete(h, "Content-Length")
			if last {
				h["Content-Length"] = []string{strconv.Itoa(len(p))}
			}
		}
		w.WriteHeader(d.resp.StatusCode)
	}
	if now := time.Now(); !(last && len(p) < smallAnswer) && d.deadline.Sub(now) < stallTimeout/2 {
		d.deadline = now.Add(stallTimeout)
		d.flow.SetWriteDeadline(d.deadline)
	}
	if len(p) > 0 {
		if _, err := w.Write(p); err != nil {
			return errClientGone
		}
	}
	if then == answer.Pause && d.flow.Flush() != nil {
		return errClientGone
	}
	return nil
}

// outcome is how an exchange ended.
type outcome struct {
	status       int
	sent         *sentBody
	seen         answer.Seen
	left         bool  // the client is gone
	said         int64 // bytes of the client's messages, of a WebSocket
	code, reason string
}

// fault says what went wrong after the answer had begun; over is why the session
// is, if it is.
func (o *outcome) fault(err, over error) {
	switch {
	case err == nil:
	case over != nil:
		o.code, o.reason = grant.AsRefusal(over).Code, "cut"
	case errors.Is(err, errClientGone), o.left:
		o.reason = "client aborted"
	case errors.Is(err, answer.ErrUnsafe):
		o.code, o.reason = "unsafe_response", "the body cannot be scrubbed"
	case errors.Is(err, errUnsafeTrailer):
		o.code, o.reason = "unsafe_response", "unsafe trailer"
	case errors.Is(err, answer.ErrIdle):
		o.code, o.reason = "upstream_timeout", "upstream aborted"
	default:
		o.reason = "upstream aborted"
	}
}

// result records how the exchange ended.
func (x *exchange) result(o outcome) {
	rec := x.record("result")
	rec.Status, rec.BytesIn, rec.BytesOut = o.status, o.seen.Received, x.first+o.sent.sentBytes()+o.said
	rec.Duration, rec.Code, rec.Reason = time.Since(x.began), o.code, o.reason
	rec.Scrubbed = o.seen.Scrubbed
	if rule := x.decision.Rule; rule != nil && rule.Scrub != rules.ScrubDefault {
		rec.Scrub = "never"
		if rule.Scrub == rules.ScrubAlways {
			rec.Scrub = "always"
		}
	}
	brought := append(x.brought, o.seen.Tokens...)
	if x.strips() {
		rec.Stripped = brought
	} else {
		rec.Credentials = brought
	}
	x.p.note(rec)
}

// stripHops removes the fields that belong to one connection (RFC 9110, 7.6.1),
// and keeps "TE: trailers".
func stripHops(h http.Header) {
	trailers := strings.EqualFold(strings.TrimSpace(h.Get("Te")), "trailers")
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	for _, name := range hops {
		delete(h, name)
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
}

var hops = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Authentication-Info", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}
