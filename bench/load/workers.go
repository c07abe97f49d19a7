package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"standin/bench/upstream"
)

// kept asks again and again on one connection.
type kept struct {
	client  *Client
	tunnel  *tunnel
	request *request
}

func (k *kept) ready() error {
	if k.tunnel == nil {
		t, err := k.client.open(upstream.Host)
		if err != nil {
			return err
		}
		k.tunnel, k.request = t, k.client.request(upstream.Host)
		_ = t.conn.SetDeadline(time.Now().Add(patience))
		return k.client.exchange(t, k.request)
	}
	return k.tunnel.conn.SetDeadline(time.Now().Add(patience))
}

func (k *kept) step() (time.Duration, error) {
	start := time.Now()
	err := k.client.exchange(k.tunnel, k.request)
	return time.Since(start), err
}

func (k *kept) close() {
	if k.tunnel != nil {
		_ = k.tunnel.conn.Close()
	}
}

// fresh makes a tunnel for every request.
type fresh struct{ client *Client }

func (f *fresh) ready() error { return nil }
func (f *fresh) close()       {}

func (f *fresh) step() (time.Duration, error) {
	host := upstream.Host
	if f.client.job.Kind == Hosts {
		host = HostName(int(f.client.host.Add(1) - 1))
	}
	start := time.Now()
	t, err := f.client.open(host)
	if err != nil {
		return 0, err
	}
	defer t.conn.Close()
	err = f.client.exchange(t, f.client.request(host))
	return time.Since(start), err
}

// HostName is the name of the host with that number.
func HostName(number int) string { return fmt.Sprintf("h%05d.%s", number, upstream.Many) }

// multiplexed is one HTTP/2 connection that all workers share.
type multiplexed struct {
	client *Client
	mu     sync.Mutex
	tunnel *tunnel
	conn   *http2.ClientConn
}

func (m *multiplexed) ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		t, err := m.client.open(upstream.Host, "h2")
		if err != nil {
			return err
		}
		if p := t.conn.ConnectionState().NegotiatedProtocol; p != "h2" {
			return fmt.Errorf("the proxy chose %q, not h2", p)
		}
		_ = t.conn.SetDeadline(time.Time{})
		m.tunnel = t
		if m.conn, err = new(http2.Transport).NewClientConn(t.conn); err != nil {
			return err
		}
	}
	_, err := m.step()
	return err
}

func (m *multiplexed) step() (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, m.client.job.Method, "https://"+upstream.Host+m.client.job.Path, nil)
	if err != nil {
		return 0, err
	}
	if m.client.job.Bearer != "" {
		request.Header.Set("Authorization", "Bearer "+m.client.job.Bearer)
	}
	resp, err := m.conn.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	err = m.client.check(resp)
	return time.Since(start), err
}

func (m *multiplexed) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}

// events reads one stream of server-sent events for each round.
type events struct {
	client *Client
	tunnel *tunnel
	resp   *http.Response
	lines  *lineReader
	since  time.Time // events sent before this do not count
}

func (e *events) ready() error {
	e.close()
	t, err := e.client.open(upstream.Host)
	if err != nil {
		return err
	}
	e.tunnel = t
	r := e.client.request(upstream.Host)
	if _, err := t.conn.Write(r.head); err != nil {
		return err
	}
	if e.resp, err = http.ReadResponse(t.in, r.like); err != nil {
		return err
	}
	if err := e.client.checkHead(e.resp); err != nil {
		return err
	}
	e.lines, e.since = &lineReader{from: e.resp}, time.Time{}
	for range 10 {
		if _, err := e.next(); err != nil {
			return err
		}
	}
	return nil
}

// step waits for one event. Events that piled up before the round do not count.
func (e *events) step() (time.Duration, error) {
	if e.since.IsZero() {
		e.since = time.Now()
	}
	for {
		sent, err := e.next()
		if err != nil {
			return 0, err
		}
		if sent.After(e.since) {
			return time.Since(sent), nil
		}
	}
}

var sentField = []byte(`data: {"sent":`)

// next reads one event to its end and returns when it was sent.
func (e *events) next() (sent time.Time, err error) {
	for {
		line, err := e.lines.next()
		if err != nil {
			return sent, err
		}
		if rest, ok := bytes.CutPrefix(line, sentField); ok {
			number, _, _ := bytes.Cut(rest, []byte(","))
			nanos, err := strconv.ParseInt(string(number), 10, 64)
			if err != nil {
				return sent, err
			}
			sent = time.Unix(0, nanos)
		}
		if len(line) == 0 {
			if sent.IsZero() {
				return sent, errors.New("an event without its time")
			}
			return sent, nil
		}
	}
}

func (e *events) close() {
	if e.tunnel != nil {
		_ = e.tunnel.conn.Close()
		e.tunnel = nil
	}
}

// lineReader cuts the body of an answer into lines.
type lineReader struct {
	from *http.Response
	held []byte
	room [4 << 10]byte
}

func (l *lineReader) next() ([]byte, error) {
	for {
		if line, rest, ok := bytes.Cut(l.held, []byte("\n")); ok {
			l.held = rest
			return line, nil
		}
		n, err := l.from.Body.Read(l.room[:])
		l.held = append(bytes.Clone(l.held), l.room[:n]...)
		if n == 0 && err != nil {
			return nil, err
		}
	}
}
