package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"standin/grant"
	"standin/rules"
)

// scrubs says whether answers to this request are scrubbed: those of a host at
// which the session holds a grant, unless the rule says otherwise.
func (x *exchange) scrubs() bool {
	if rule := x.match.Rule; rule != nil && rule.Scrub != rules.ScrubDefault {
		return rule.Scrub == rules.ScrubAlways
	}
	return x.t.scrub
}

// scrubber is nil when answers to this request are not scrubbed.
func (x *exchange) scrubber() *grant.Scrubber {
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
	h := x.w.Header()
	if err := x.copyHeader(h, resp.Header); err != nil {
		clear(h)
		return err
	}
	if x.r.ProtoMajor == 1 && sent.unfinished() {
		// net/http would take what is left of the body for the next request.
		h["Connection"] = []string{"close"}
	}
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	if !hasBody(x.r.Method, resp.StatusCode) {
		x.w.WriteHeader(resp.StatusCode)
		x.result(resp.StatusCode, 0, sent, "")
		return nil
	}
	scrubber := x.scrubber()
	if coding := resp.Header.Get("Content-Encoding"); scrubber != nil && coding != "" && !strings.EqualFold(coding, "identity") {
		clear(h)
		return &grant.Refusal{Code: "unsafe_response"}
	}
	received, err := x.copyBody(resp, scrubber)
	switch {
	case errors.Is(err, errClientGone):
		x.result(resp.StatusCode, received, sent, "client aborted")
		panic(http.ErrAbortHandler)
	case err != nil:
		x.result(resp.StatusCode, received, sent, "upstream aborted")
		panic(http.ErrAbortHandler)
	}
	if err := x.copyTrailer(resp.Trailer); err != nil {
		x.result(resp.StatusCode, received, sent, "unsafe trailer")
		panic(http.ErrAbortHandler)
	}
	x.result(resp.StatusCode, received, sent, "")
	return nil
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
		}
		to[name] = values
	}
	return nil
}

func (x *exchange) copyTrailer(trailer http.Header) error {
	scrubber := x.scrubber()
	for name, values := range trailer {
		if scrubber.Holds(name) {
			return &grant.Refusal{Code: "unsafe_response"}
		}
		for _, value := range values {
			x.w.Header().Add(http.TrailerPrefix+name, scrubber.String(value))
		}
	}
	return nil
}

var errClientGone = errors.New("the client is gone")

// smallAnswer is what fits the socket's own buffer: a client that does not read
// it stalls nobody.
const smallAnswer = 4 << 10

// buffers are windows for bodies under way.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyBody passes the body on as it comes. It returns how much came.
func (x *exchange) copyBody(resp *http.Response, scrubber *grant.Scrubber) (int64, error) {
	window := buffers.Get().(*[]byte)
	defer buffers.Put(window)
	buf := *window
	source := &counted{Reader: resp.Body}
	body := scrubber.Body(source, resp.ContentLength)
	flow := http.NewResponseController(x.w.ResponseWriter)
	stream := resp.ContentLength < 0
	if stream {
		// The answer's header must not wait for its first event.
		x.w.WriteHeader(resp.StatusCode)
		if err := flow.Flush(); err != nil {
			return 0, errClientGone
		}
	}
	var deadline time.Time
	for begun := stream; ; begun = true {
		n, err := body.Read(buf)
		if err != nil && err != io.EOF {
			return source.n, err
		}
		if !begun {
			x.settleLength(resp, body, n, source)
			x.w.WriteHeader(resp.StatusCode)
		}
		whole := err == io.EOF || source.n == resp.ContentLength
		if now := time.Now(); n > 0 && !(whole && n < smallAnswer) && deadline.Sub(now) < stallTimeout/2 {
			deadline = now.Add(stallTimeout)
			flow.SetWriteDeadline(deadline)
		}
		if n > 0 {
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return source.n, errClientGone
			}
		}
		if err == io.EOF {
			return source.n, nil
		}
		if pause := stream || source.n < resp.ContentLength; n > 0 && pause {
			if flow.Flush() != nil {
				return source.n, errClientGone
			}
		}
	}
}

// settleLength says how long a scrubbed body is: exactly, when all of it has
// come already, else not at all.
func (x *exchange) settleLength(resp *http.Response, body io.Reader, n int, source *counted) {
	scrubbed, ok := body.(*grant.Body)
	if !ok {
		return
	}
	h := x.w.Header()
	delete(h, "Content-Length")
	if source.n == resp.ContentLength && scrubbed.Finish() {
		h["Content-Length"] = []string{strconv.Itoa(n + scrubbed.Pending())}
	}
}

// counted counts what came.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// result records how the exchange ended.
func (x *exchange) result(status int, received int64, sent *sentBody, reason string) {
	rec := x.record("result")
	rec.Status, rec.BytesIn, rec.BytesOut = status, received, sent.sentBytes()
	rec.Duration, rec.Reason = time.Since(x.began), reason
	x.p.note(rec)
}
