package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"standin/audit"
	"standin/grant"
)

// refusalText is what a client is told about a code: a status, and a hint that is
// fixed text. Nothing of the request, and no error of Go, reaches a client.
type refusalText struct {
	status int
	proxy  string // error type of RFC 9209
	hint   string
}

var refusals = map[string]refusalText{
	"bad_request":           {400, "http_request_error", "the request is malformed, ambiguous, or repeats a part that a rule names"},
	"no_grant":              {403, "http_request_denied", "this session was not granted that secret; see \"standin session show\""},
	"grant_expired":         {403, "http_request_denied", "the time of this session's grants is over; start the command again"},
	"rule_denied":           {403, "http_request_denied", "a rule denies this request; see \"standin rules explain METHOD URL\""},
	"unmatched_denied":      {403, "http_request_denied", "no rule names this host; add one, or set \"unmatched: passthrough\""},
	"placeholder_misplaced": {403, "http_request_denied", "a placeholder stands where no rule allows it; see \"standin rules explain METHOD URL\""},
	"denied_address":        {403, "destination_ip_prohibited", "the host leads to an address that is not allowed; name it under \"upstreams:\""},
	"cleartext_credential":  {403, "http_request_denied", "this host is reached by https only; use https, or a rule with \"scheme: http\""},
	"session_closed":        {403, "http_request_denied", "the session has ended; start the command again"},
	"not_in_tree":           {403, "http_request_denied", "the connection does not come from the command's process tree"},
	"uses_exhausted":        {403, "http_request_denied", "the uses of this grant are spent; start the command again"},
	"sni_mismatch":          {403, "tls_certificate_error", "the name in the TLS greeting is not the host of the tunnel"},
	"method_not_allowed":    {405, "http_request_denied", "CONNECT and TRACE are not served inside a tunnel"},
	"credentials_required":  {407, "http_request_denied", "use the proxy address that \"standin run\" puts into the environment"},
	"signed_body":           {409, "http_request_denied", "the body is signed, so nothing can be put into it; use a header surface"},
	"body_too_large":        {413, "http_request_error", "the body grows too much when its encoding is taken off"},
	"encoded_body":          {415, "http_request_error", "the rule reads the body, and its encoding cannot be read"},
	"authority_mismatch":    {421, "http_request_error", "Host names another host than the tunnel"},
	"upgrade_refused":       {426, "http_upgrade_failed", "no rule allows a WebSocket here"},
	"too_many_tunnels":      {429, "http_request_denied", "this session has too many connections open"},
	"unsafe_value":          {500, "http_request_error", "the secret's value cannot stand at that place safely"},
	"internal":              {500, "proxy_internal_error", "see the log of the gateway"},
	"upstream_tls":          {502, "tls_certificate_error", "the server's certificate or TLS version is not acceptable"},
	"upstream_unreachable":  {502, "destination_unavailable", "the server cannot be reached"},
	"upstream_protocol":     {502, "http_protocol_error", "the server's answer is not valid HTTP"},
	"unsafe_response":       {502, "http_response_incomplete", "the answer cannot be scrubbed, so it is not passed on"},
	"audit_unavailable":     {503, "proxy_internal_error", "the record cannot be written, so nothing is sent; free space on the disk of the audit log"},
	"vault_unavailable":     {503, "proxy_internal_error", "the secret cannot be read from its source"},
	"busy":                  {503, "connection_limit_reached", "the gateway has too many connections open"},
	"upstream_timeout":      {504, "http_response_timeout", "the server did not answer in time"},
}

// answerFor never fails: a code that is not in the table is an internal error.
func answerFor(code string) refusalText {
	if a, ok := refusals[code]; ok {
		return a
	}
	return refusals["internal"]
}

// errorBody is the fixed body of a refusal.
func errorBody(code, id, hint string) []byte {
	body, err := json.Marshal(struct {
		Error string `json:"error"`
		ID    string `json:"id"`
		Hint  string `json:"hint"`
	}{code, id, hint})
	if err != nil {
		return []byte("{}")
	}
	return append(body, '\n')
}

func proxyStatus(code string) string {
	return fmt.Sprintf("standin; error=%s; details=%q", answerFor(code).proxy, code)
}

// writeRefusal answers a request with a code. Of the header only a
// "Connection: close" stays.
func writeRefusal(w http.ResponseWriter, code, id string) {
	writeAnswer(w, code, errorBody(code, id, answerFor(code).hint))
}

// writeStranger answers who was not admitted. A process that is known is told
// that it was found, which it knows of itself.
func writeStranger(w http.ResponseWriter, code, id string, process audit.Process) {
	hint := answerFor(code).hint
	if code == "not_in_tree" && process.PID > 0 {
		hint = fmt.Sprintf("process %d (%s) is not of the command's process tree: let the command start it, or start it by a standin run of its own",
			process.PID, plainPath(process.Exe))
	}
	writeAnswer(w, code, errorBody(code, id, hint))
}

// plainPath is a program's path as a hint may say it.
func plainPath(path string) string {
	if path == "" || len(path) > 256 || strings.Contains(path, "zstandin_") {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, path)
}

func writeAnswer(w http.ResponseWriter, code string, body []byte) {
	h := w.Header()
	closing := h.Get("Connection") == "close"
	clear(h)
	if closing {
		h.Set("Connection", "close")
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("Proxy-Status", proxyStatus(code))
	switch status := answerFor(code).status; status {
	case http.StatusProxyAuthRequired:
		h.Set("Proxy-Authenticate", `Basic realm="standin"`)
		h.Set("Connection", "close")
	case http.StatusUpgradeRequired:
		h.Set("Upgrade", "HTTP/1.1")
	}
	w.WriteHeader(answerFor(code).status)
	w.Write(body)
}

// refusalResponse is the same answer for a CONNECT, which goproxy writes.
func refusalResponse(r *http.Request, code, id string) *http.Response {
	rec := &plainResponse{header: http.Header{}}
	writeRefusal(rec, code, id)
	rec.header.Set("Connection", "close")
	return rec.response(r)
}

// IsCode tells whether a refusal can have this code; "aborted" is what became of a request that was cut off.
func IsCode(code string) bool {
	_, known := refusals[code]
	return known || code == "aborted"
}

// refusalOf is the refusal that an error means, and what the operator is told.
func (p *Proxy) refusalOf(err error, where string) *grant.Refusal {
	r := grant.AsRefusal(err)
	level := slog.LevelDebug
	if r.Code == "internal" || r.Cause != nil {
		level = slog.LevelWarn
	}
	p.cfg.Log.LogAttrs(context.Background(), level, "refused", slog.String("code", r.Code), slog.String("where", where),
		slog.String("secret", r.Secret), slog.String("surface", r.Surface), slog.Any("cause", r.Cause))
	return r
}

// plainWriter knows whether the answer has begun.
type plainWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *plainWriter) started() bool { return w.begun }

func (w *plainWriter) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *plainWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

func (w *plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// plainResponse collects an answer that somebody else writes.
type plainResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *plainResponse) Header() http.Header         { return r.header }
func (r *plainResponse) WriteHeader(status int)      { r.status = status }
func (r *plainResponse) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *plainResponse) response(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: r.status, ProtoMajor: 1, ProtoMinor: 1, Header: r.header, Request: req,
		Body: io.NopCloser(bytes.NewReader(r.body.Bytes())), ContentLength: int64(r.body.Len()),
	}
}

// dropText is a log handler for net/http, whose messages quote what strangers
// sent, and in a panic whatever was panicked with: only that there was one is kept.
type dropText struct{ slog.Handler }

func (h dropText) Handle(ctx context.Context, rec slog.Record) error {
	rec.Message = "net/http server"
	return h.Handler.Handle(ctx, rec)
}
