package main

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"standin/rules"
)

// reload reads the rules again. What they no longer allow is taken from every
// session, new and old, without a question; what they add is for new sessions, and
// only once they are trusted. Rules that cannot be read change nothing. Where
// nobody has asked for it, nothing is said of rules that are as they were.
func (c *controlServer) reload(asked bool) {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	now := c.g.edition()
	c.read = c.g.look()
	file, err := readRules(now.policy.Path)
	if err != nil {
		c.g.log.Warn("rules are not taken", slog.Any("cause", err), slog.String("hint", hint(err)))
		return
	}
	known := file.Hash == now.file.Hash
	if !asked && known && file.Hash == now.policy.Hash {
		return
	}
	// First what is taken away.
	c.g.current.Store(now.limited(file))
	for _, h := range c.all() {
		h.session.Limit(file)
	}
	if err = c.g.trustedNow(file); err != nil && !asked && known {
		return
	}
	if err == nil && file.Hash != now.policy.Hash {
		var next *edition
		if next, err = c.g.newEdition(context.Background(), file); err == nil {
			c.g.current.Store(next)
		}
	}
	if err != nil {
		c.g.log.Warn("rules: what they take away is taken, what they add is not", slog.String("rules", file.Hash),
			slog.Any("cause", err), slog.String("hint", hint(err)))
		return
	}
	c.g.log.Info("rules are taken, and what they add for new sessions", slog.String("rules", file.Hash))
}

// trustLag is how long the vault may not know yet what was written to its file.
const trustLag = 600 * time.Millisecond

// trustedNow is trusted, also right after somebody has said so.
func (g *gateway) trustedNow(file *rules.Policy) error {
	err := trusted(g.store, file)
	if vault := g.look().vault; err != nil && vault != nil && time.Since(vault.ModTime()) < trustLag {
		time.Sleep(trustLag)
		err = trusted(g.store, file)
	}
	return err
}

// watchEvery is how often the rules file is looked at. It is read when it has
// stayed the same for as long: one that is being written is not yet meant.
const watchEvery = 500 * time.Millisecond

// watch reloads the rules when their file has changed, and what waits for trust
// when the vault, which keeps that, has.
func (c *controlServer) watch(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	var last looks
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.g.record.Look() // for streams of others
		now := c.g.look()
		if now.alike(last) && c.unread(now) {
			c.reloadAlone()
		}
		last = now
	}
}

// unread says whether something has changed since the rules were last read that
// could make a difference.
func (c *controlServer) unread(now looks) bool {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	if e := c.g.edition(); e.file.Hash == e.policy.Hash {
		now.vault = c.read.vault // nothing waits for trust
	}
	return !now.alike(c.read)
}

// reloadAlone reloads on nobody's word. A fault of it costs that change only.
func (c *controlServer) reloadAlone() {
	defer c.g.contain("reload")
	c.reload(false)
}

// looks is what the system says of the files that decide, nil of one that is not
// there.
type looks struct{ rules, vault fs.FileInfo }

func (g *gateway) look() (now looks) {
	if info, err := os.Stat(g.edition().policy.Path); err == nil {
		now.rules = info
	}
	if info, err := os.Stat(filepath.Join(g.home.Vault(), "vault.age")); err == nil {
		now.vault = info
	}
	return now
}

// alike says whether the files are as they were, by what costs nothing to know.
func (l looks) alike(other looks) bool {
	same := func(a, b fs.FileInfo) bool {
		if a == nil || b == nil {
			return a == b
		}
		return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
	}
	return same(l.rules, other.rules) && same(l.vault, other.vault)
}
