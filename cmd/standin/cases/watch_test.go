//go:build linux

package cases

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAChangedRulesFileIsTakenWithoutASignal by the gateway of a run and by one
// that serves: what narrows counts within moments and for good, what widens when
// it is trusted, and what is broken not at all.
func TestAChangedRulesFileIsTakenWithoutASignal(t *testing.T) {
	c := newCase(t, "rules-watched")
	const at = "paths: [/b], substitute: [{secret: github, in: header Authorization}]"
	c.Rules.Add("{name: b, hosts: [" + api + "], " + at + "}")
	c.Rules.Write()
	whole := c.Rules.Text()
	narrow := strings.Replace(whole, at, "paths: [/b]", 1)
	wide := strings.Replace(whole, at, strings.Replace(at, "in: header Authorization", "in: [header Authorization, header X-Wide]", 1), 1)
	g := c.Serve()
	own, served := c.Start(Start{Name: "own"}), g.Session(Start{Name: "served"})
	b := func(s *Session, header string) int { return s.attempt(api, get("/b", api, header+": "+c.P)) }
	said := func(text string) (n int) {
		for _, path := range []string{own.Log, g.Log} {
			log, err := os.ReadFile(path)
			if err != nil {
				c.Fatal(err)
			}
			n += strings.Count(string(log), text)
		}
		return n
	}
	// Each state is put in place of the one before, or written over it.
	put := func(text string, over bool) {
		path := c.Rules.Path
		if !over {
			path = filepath.Join(c.Dir, "next.yaml")
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			c.Fatal(err)
		}
		if !over {
			if err := os.Rename(path, c.Rules.Path); err != nil {
				c.Fatal(err)
			}
		}
	}
	for _, s := range []*Session{own, served} {
		c.Equal(b(s, "Authorization: Bearer"), 200)
	}
	// A file in the middle of being written is not what anybody means.
	put("", true)
	put(whole, true)
	put("version: 1\nrules: [", false)
	c.Eventually("both say that the rules are broken", func() bool { return said("rules are not taken") == 2 })
	put(wide, true)
	c.Eventually("both say that more is not taken", func() bool { return said("what they add is not") == 2 })
	time.Sleep(1500 * time.Millisecond)
	c.Equal(said("rules are not taken")+said("what they add is not"), 4) // once each
	for _, s := range []*Session{own, served} {
		c.Equal(b(s, "Authorization: Bearer"), 200)
		c.Equal(b(s, "X-Wide"), 403)
	}
	c.Rules.Trust()
	c.Eventually("both take what is trusted", func() bool { return said("what they add for new sessions") == 2 })
	late := g.Session(Start{Name: "late"})
	c.Equal(b(late, "X-Wide"), 200)
	put(narrow, false)
	c.Eventually("less counts", func() bool {
		return b(own, "Authorization: Bearer") == 403 && b(served, "Authorization: Bearer") == 403 && b(late, "Authorization: Bearer") == 403
	})
	c.Equal(said("what they take away is taken"), 4)
	c.U1.Received()
	c.wired = true
}
