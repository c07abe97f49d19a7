//go:build linux

package cases

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOddTextInTheRecord: what a command calls itself and asks for cannot move
// the terminal of whoever reads the record, nor make a line of it that is none.
func TestOddTextInTheRecord(t *testing.T) {
	t.Parallel()
	c := newCase(t, "odd")
	tool, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	if tool, err = filepath.EvalSymlinks(tool); err != nil {
		t.Fatal(err)
	}
	const name = "odd\x1b[31m\u202e\a\"\\n"
	folder := filepath.Join(c.Dir, "a\nb\x1b]0;title\a")
	own := filepath.Join(folder, name)
	data, err := os.ReadFile(tool)
	if err := errors.Join(err, os.Mkdir(folder, 0o700), os.WriteFile(own, data, 0o700)); err != nil {
		t.Fatal(err)
	}
	c.NoGateway()
	script := `"$0" -s -o "$1" -H "Authorization: Bearer $GITHUB_TOKEN" "https://` + api + `/x/%1b%5b31m/%e2%80%ae"`
	r := c.launch(nil, "--isolation", "tree")("sh", "-c", script, own, os.DevNull)
	c.Exit(r, 0)
	c.arrived(c.U1, 1)
	s := c.S1()
	long := strings.Repeat("a", 16<<10)
	for _, line := range []string{
		"CONNECT " + long + ":443 HTTP/1.1", "CONNECT \x1b[2J.test:443 HTTP/1.1", "CONNECT \u202e.test:443 HTTP/1.1", "CONNECT " + long + "." + api + ":443 HTTP/1.1",
	} {
		d := s.Door()
		d.Send(line + "\r\nHost: x\r\n" + s.Credentials() + "\r\n\r\n")
		if r := d.Response("CONNECT"); r.Status < 400 || r.Status >= 500 {
			c.Errorf("%.40q: %s", line, r)
		}
	}
	tunnel := s.Tunnel(api)
	tunnel.Send(get("/"+c.P+"/%1b%5b2J", api))
	c.Status(tunnel.Response("GET"), 403)
	c.Equal(s.End(), 0)

	found := c.Recorded(1, Want{"type": "substitute"})
	if process, ok := found[0]["process"].(map[string]any); !ok || process["exe"] != own {
		c.Errorf("the process is recorded as %v", found[0]["process"])
	}
	for _, args := range [][]string{{"show"}, {"show", "--json"}, {"show", "--summary"}, {"tail"}, {"verify"}, {"export"}, {"show", "--process", name}, {"show", "--host", "\x1b[31m"}, {"show", "--outcome", "\x1b[31m"}} {
		r := c.Standin(append([]string{"audit"}, args...)...)
		for _, text := range []string{r.Out, r.Err} {
			for _, b := range text {
				if b != '\n' && (b < ' ' || b > '~') {
					c.Errorf("audit %q prints %q", args, b)
					break
				}
			}
		}
		if args[0] == "show" && len(args) == 3 && args[2] == name && !strings.Contains(r.Out, "substitute") {
			c.Errorf("its executable's name does not find it: %s", r.description)
		}
	}
	for _, path := range c.segments() {
		for _, line := range readLines(c, path) {
			if len(line) > 8<<10 {
				c.Errorf("a record of %d bytes: %.200q", len(line), line)
			}
		}
	}
}
