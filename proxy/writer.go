package proxy

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
)

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
