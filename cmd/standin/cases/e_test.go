//go:build linux

package cases

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Who may ask, until when.

func sectionE() []entry {
	return append([]entry{
		{"E01", withoutCredentials},
		{"E02", wrongCredentials},
		{"E03", credentialsOfAnotherSession},
		{"E04", theEndOfTheTime},
		{"E06", theEndOfTheCommand},
		{"E07", asNobody(orphansOfTheCommand)},
		{"E10", anotherUser},
		{"E20", sessionInASession},
		{"E26", relays},
		{"E30", asNobody(nothingLeadsOut)},
	}, append(sectionEServe(), sectionELimits()...)...)
}

// asked asserts that an answer asks for credentials and ends its connection.
func (c *Case) asked(d *Conn, method string) *Response {
	c.Helper()
	r := d.Response(method)
	c.Refused(r, 407, "credentials_required")
	if ask := r.Header.Get("Proxy-Authenticate"); !strings.HasPrefix(ask, `Basic realm="`) {
		c.Errorf("Proxy-Authenticate is %q", ask)
	}
	if r.Header.Get("WWW-Authenticate") != "" {
		c.Errorf("the proxy asks in the name of the server: %s", r)
	}
	_ = d.Closed()
	return r
}

func withoutCredentials(c *Case) {
	s := c.S1()
	for _, request := range []string{
		"CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n\r\n",
		"CONNECT " + api + ":443 HTTP/1.0\r\n\r\n",
		"GET http://" + api + "/ HTTP/1.1\r\nHost: " + api + "\r\nAuthorization: Bearer " + c.P + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + api + "\r\n\r\n",
	} {
		d := s.Door()
		d.Send(request)
		method, _, _ := strings.Cut(request, " ")
		c.asked(d, method)
	}
	// What follows in the same breath is not served either.
	d := s.Door()
	d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n\r\n" +
		"CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + s.Credentials() + "\r\n\r\n")
	c.asked(d, "CONNECT")
	c.U1.Undialled()
	c.U3.Undialled()
	c.Recorded(5, Want{"type": "deny", "code": "credentials_required"})
}

func wrongCredentials(c *Case) {
	s := c.S1()
	id := s.Proxy.User.Username()
	token, _ := s.Proxy.User.Password()
	wrong := strings.Repeat("a", len(token))
	coded := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	basicLine := func(text string) string { return "Proxy-Authorization: Basic " + coded(text) }
	bodies := map[string]bool{}
	for name, lines := range map[string][]string{
		"wrong user and token":    {basicLine("nobody:" + wrong)},
		"right user, wrong token": {basicLine(id + ":" + wrong)},
		"right token, wrong user": {basicLine("nobody:" + token)},
		"right token, no user":    {basicLine(":" + token)},
		"no token":                {basicLine(id + ":")},
		"no colon":                {basicLine(id)},
		"token cut":               {basicLine(id + ":" + token[:len(token)-1])},
		"token longer":            {basicLine(id + ":" + token + "a")},
		"token in upper case":     {basicLine(id + ":" + strings.ToUpper(token))},
		"token with NUL":          {basicLine(id + ":" + token + "\x00")},
		"empty":                   {"Proxy-Authorization:"},
		"scheme only":             {"Proxy-Authorization: Basic"},
		"no base64":               {"Proxy-Authorization: Basic " + id + ":" + token},
		"broken base64":           {"Proxy-Authorization: Basic " + coded(id + ":" + token)[1:]},
		"two in one line":         {basicLine(id+":"+token) + ", Basic " + coded(id+":"+token)},
		"Bearer":                  {"Proxy-Authorization: Bearer " + token},
		"Bearer of Basic":         {"Proxy-Authorization: Bearer " + coded(id+":"+token)},
		"Digest":                  {`Proxy-Authorization: Digest username="` + id + `", response="` + token + `"`},
		"right, then wrong":       {s.Credentials(), basicLine(id + ":" + wrong)},
		"wrong, then right":       {basicLine(id + ":" + wrong), s.Credentials()},
		"twice right":             {s.Credentials(), s.Credentials()},
		"in Authorization":        {strings.TrimPrefix(s.Credentials(), "Proxy-")},
		"60 KiB":                  {basicLine(id + ":" + strings.Repeat("a", 45<<10))},
	} {
		d := s.Door()
		d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n")
		r := c.asked(d, "CONNECT")
		if c.Failed() {
			c.Fatalf("with %s", name)
		}
		// Nothing tells one mistake from another.
		bodies[fmt.Sprint(r.Refusal().Error, r.Refusal().Hint, r.Header.Get("Proxy-Authenticate"), len(r.Header), len(r.Body))] = true
	}
	if len(bodies) != 1 {
		c.Errorf("the answers differ: %v", bodies)
	}
	// No more than a head may have is read.
	d := s.Door()
	d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + basicLine(strings.Repeat("a", 1<<20)) + "\r\n\r\n")
	if r := d.Response("CONNECT"); r.Err == nil && r.Status != 407 && r.Status != 431 {
		c.Errorf("a megabyte of credentials: %s", r)
	}
	c.sameTime(s, basicLine("nobody:"+wrong), basicLine(id+":"+wrong), basicLine(id+":"+token[:len(token)-1]+"a"))
	c.U1.Undialled()
}

// sameTime asserts that wrong credentials of any kind are refused in the same
// time, as far as a client on this machine can tell.
func (c *Case) sameTime(s *Session, kinds ...string) {
	c.Helper()
	const rounds = 60
	took := make([][]time.Duration, len(kinds))
	for range rounds {
		for i, line := range kinds {
			d := s.Door()
			began := time.Now()
			d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + line + "\r\n\r\n")
			_ = d.Response("CONNECT")
			took[i] = append(took[i], time.Since(began))
			d.Close()
		}
	}
	var medians []time.Duration
	for _, list := range took {
		slices.Sort(list)
		medians = append(medians, list[rounds/2])
	}
	if low, high := slices.Min(medians), slices.Max(medians); high > 3*low+time.Millisecond {
		c.Errorf("the refusals take %v", medians)
	}
}

func credentialsOfAnotherSession(c *Case) {
	s1, s2 := c.S1(), c.S2()
	// S2 may reach the host of S1, and is granted nothing there.
	s2.Each(Message{"GET", api, "/user", []string{bearer(c.P)}, ""}, func(r *Response) {
		c.Refused(r, 403, "no_grant")
	})
	// The credentials of one session are worth nothing at the door of the other.
	for _, at := range [][2]*Session{{s1, s2}, {s2, s1}} {
		d := at[0].Door()
		d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + at[1].Credentials() + "\r\n\r\n")
		c.asked(d, "CONNECT")
	}
	c.Equal(c.U1.Dials(), 0)
	c.Recorded(2, Want{"type": "deny", "code": "no_grant", "session": s2.ID(), "host": api})
	c.Recorded(0, Want{"type": "substitute"})
	// And S1 is served as before.
	c.Status(s1.Do(api, get("/user", api, bearer(c.P))), 200)
	c.Recorded(1, Want{"type": "substitute", "session": s1.ID(), "secret": "github"})
}

func theEndOfTheTime(c *Case) {
	// A tunnel that was opened in time is cut when the time is over.
	c.Rules.Profile("short: {secrets: [github], isolation: session, ttl: 3s}")
	early := c.Start(Start{Name: "early", Profile: "short"})
	open := early.Tunnel(api)
	open.Send(get("/in-time", api, bearer(c.P)))
	c.Status(open.Response("GET"), 200)

	s4 := c.S4()
	_, r := s4.Connect(api + ":443")
	c.Refused(r, 403, "grant_expired")
	d := s4.Door()
	d.Send("GET http://" + api + "/ HTTP/1.1\r\nHost: " + api + "\r\n" + s4.Credentials() + "\r\n\r\n")
	c.Refused(d.Response("GET"), 403, "grant_expired")

	// Setting the clock back revives nothing; setting it forward ends at once.
	k := c.newClock()
	late := k.Start(Start{Name: "late", Profile: "brief"})
	time.Sleep(1100 * time.Millisecond)
	for _, by := range []time.Duration{0, -time.Hour, -24 * time.Hour} {
		k.Move(by)
		_, r := late.Connect(api + ":443")
		c.Refused(r, 403, "grant_expired")
	}
	k.Move(0)
	ahead := k.Start(Start{Name: "ahead", Profile: "granted"})
	standing := ahead.Tunnel(api)
	standing.Send(get("/ahead", api, bearer(c.P)))
	c.Status(standing.Response("GET"), 200)
	k.Move(25 * time.Hour)
	standing.Send(get("/too-late", api, bearer(c.P)))
	if r := standing.Response("GET"); r.Err == nil {
		c.Refused(r, 403, "grant_expired")
	}
	_, r = ahead.Connect(api + ":443")
	c.Refused(r, 403, "grant_expired")

	_ = open.Closed()
	for _, q := range c.U1.Requests(2) {
		if q.Target != "/in-time" && q.Target != "/ahead" {
			c.Errorf("%s arrived", q.Target)
		}
	}
	c.Recorded(1, Want{"type": "revoke", "reason": "expired", "session": early.ID()})
	c.Recorded(2, Want{"type": "deny", "code": "grant_expired", "session": s4.ID()})
}

// attempt makes one request on a connection of its own, without a word to the
// test, and returns the status, 0 if there was none.
func (s *Session) attempt(authority, request string) int {
	n, err := net.DialTimeout("tcp", s.Proxy.Host, time.Second)
	if err != nil {
		return 0
	}
	defer n.Close()
	_ = n.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := fmt.Fprintf(n, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n%s\r\n\r\n", authority, authority, s.Credentials()); err != nil {
		return 0
	}
	if status := statusOf(n); status != 200 {
		return status
	}
	t := tls.Client(n, &tls.Config{RootCAs: s.Roots, ServerName: authority})
	if _, err := t.Write([]byte(request)); err != nil {
		return 0
	}
	return statusOf(t)
}

// statusOf reads the head of an answer, and not a byte more.
func statusOf(n net.Conn) int {
	res, err := http.ReadResponse(bufio.NewReaderSize(n, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return 0
	}
	return res.StatusCode
}

func theEndOfTheCommand(c *Case) {
	c.NoGateway()
	s := c.S1()
	open := s.Tunnel(api)
	open.Send(get("/before", api, bearer(c.P)))
	c.Status(open.Response("GET"), 200)

	// Clients go on asking while the command ends.
	var over atomic.Int64 // when run had returned, in nanoseconds
	var served, late atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 2000 {
				ended := over.Load()
				if s.attempt(api, get("/user", api, bearer(c.P))) == 200 {
					served.Add(1)
					if ended > 0 {
						late.Add(1)
					}
				}
				if ended > 0 {
					return
				}
			}
		})
	}
	c.Eventually("clients are served", func() bool { return served.Load() > 4 })
	c.Equal(s.End(), 0)
	over.Store(time.Now().UnixNano())
	arrived := len(c.U1.Received())
	time.Sleep(time.Millisecond)
	_, err := net.DialTimeout("tcp", s.Proxy.Host, time.Second)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		c.Errorf("something listens for the session after run returned: %v", err)
	}
	open.Send(get("/after", api, bearer(c.P)))
	if r := open.Response("GET"); r.Err == nil {
		c.Errorf("a tunnel of the session answers after run returned: %s", r)
	}
	clients.Wait()
	if late.Load() > 0 {
		c.Errorf("%d requests that began after run returned were served", late.Load())
	}
	if now := len(c.U1.Received()); now != arrived {
		c.Errorf("the upstream received %d requests before run returned and %d after", arrived, now-arrived)
	}
	if _, err := os.Stat(s.Env["STANDIN_CONTROL"]); !errors.Is(err, os.ErrNotExist) {
		c.Errorf("the control socket is still there: %v", err)
	}
	c.Recorded(1, Want{"type": "revoke", "session": s.ID(), "reason": "command ended"})
	c.Recorded(1, Want{"type": "close", "session": s.ID()})
	all := c.Records()
	closed := slices.IndexFunc(all, func(r map[string]any) bool { return has(r, Want{"type": "revoke"}) })
	for _, r := range all[max(closed, 0):] {
		if has(r, Want{"type": "substitute"}) {
			c.Errorf("a substitution is recorded after the revocation: %v", r)
		}
	}
}
