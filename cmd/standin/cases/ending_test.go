//go:build linux

package cases

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// A gateway in its grace time says so to whoever wants a session, or its place.
func TestAGatewayThatIsEndingSaysSo(t *testing.T) {
	c := newCase(t, "ending")
	c.NoGateway()
	g := c.Serve("--grace", "60s")
	release := make(chan struct{})
	c.U1.Handle(func(http.ResponseWriter, *http.Request) { <-release })
	under := g.Session(Start{Name: "S1"}).Tunnel(api)
	under.Send(get("/under-way", api, bearer(c.P)))
	c.Eventually("it has arrived", func() bool { return len(c.U1.Received()) == 1 })
	g.gone = true
	g.Signal(syscall.SIGTERM)
	run := []string{"run", "--gateway", g.Socket, "--profile", "granted", "--", "true"}
	c.Eventually("nothing new is let in", func() bool { return c.Standin(run...).Code == 125 })
	for _, is := range []struct {
		args []string
		code int
	}{{run, 125}, {[]string{"session", "token"}, 1}, {[]string{"serve", "--rules", c.Rules.Path}, 1}} {
		r := c.Standin(is.args...)
		c.ErrorAndHint(r, is.code, "it is ending, and opens no session any more", "hint: wait until it has ended; then: standin serve")
		if strings.Contains(r.Err, "use it") || strings.Contains(r.Err, "no gateway serves") {
			c.Errorf("it is told something else as well: %s", r.description)
		}
	}
	close(release)
	c.Status(under.Response("GET"), 200)
	c.Equal(g.wait(), 0)
	c.U1.Requests(1)
}
