package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"standin/launch"
	"standin/launch/netns"
	"standin/launch/netns/names"
	"standin/proxy"
	"standin/rules"
	"standin/vault"
)

// room is where the command of a session with isolation "netns" lives, and what
// the gateway serves in there.
type room struct {
	*netns.Room
	answers *names.Answers
	holes   proxy.Holes
	sockets []string // that stay
	serving sync.WaitGroup
}

// roomNotes is what was found out about a room, for "session show" and receipts.
type roomNotes struct {
	SelfTest []string `json:"self_test,omitempty"` // the tests that it passed
	Hidden   []string `json:"hidden_sockets,omitempty"`
	Open     []string `json:"open,omitempty"`
}

// openRoom begins to make the room before anything secret is read, so that a
// system that gives none says so at once. The vault is opened meanwhile.
func (r *running) openRoom() error {
	m := &room{answers: names.New(), holes: proxy.Holes{}}
	var ports []uint16
	for _, text := range r.f.open {
		if path, ok := strings.CutPrefix(text, "unix:"); ok {
			info, err := os.Stat(path)
			if err != nil || info.Mode()&fs.ModeSocket == 0 || !filepath.IsAbs(path) {
				return usageError("--open %s: there is no such socket; it takes an absolute path", text)
			}
			m.sockets = append(m.sockets, filepath.Clean(path))
			continue
		}
		a, err := rules.ParseAuthority(text)
		if err != nil {
			return usageError("--open %s: it takes HOST:PORT or unix:PATH", text)
		}
		if a.Port == 53 {
			return usageError("--open %s: names are answered by the gateway, and the port is taken", text)
		}
		for _, address := range m.addresses(a.Host) {
			m.holes[netip.AddrPortFrom(address, a.Port)] = a
		}
		if a.Port != 80 && a.Port != 443 && !slices.Contains(ports, a.Port) {
			ports = append(ports, a.Port)
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return roomError(fmt.Errorf("find the working directory: %w", err))
	}
	if m.Room, err = netns.Open(netns.Config{Ports: ports, Dir: dir, Environ: r.p.env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}); err != nil {
		return roomError(err)
	}
	r.room = m
	return nil
}

// ready waits until the room has its network.
func (m *room) ready() error {
	if m == nil {
		return nil
	}
	if err := m.Ready(); err != nil {
		return roomError(err)
	}
	return nil
}

// lookupPatience is how long the addresses of a hole are looked up.
const lookupPatience = 2 * time.Second

// addresses are those by which a client in the room knows a host: what it is
// told, and what its hosts file says.
func (m *room) addresses(host string) []netip.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	four, six := m.answers.Addresses(host)
	ctx, cancel := context.WithTimeout(context.Background(), lookupPatience)
	defer cancel()
	found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // a name that only a client's question has is enough
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return append(found, four, six)
}

// roomError gives the end of a run without its level a hint.
func roomError(err error) error {
	text := "standin run --isolation tree -- …"
	var lacking *netns.LackingError
	if errors.As(err, &lacking) && lacking.Fix != "" {
		text = lacking.Fix
	}
	return &hinted{fmt.Errorf("isolate the command: level %q is not to be had: %w", isolationNetns, err), text}
}

// serve answers names, and the connections of clients that name no proxy.
func (m *room) serve(g *gateway, gate *gate) {
	note := func(what string, err error) {
		if err != nil {
			g.log.Error("room", slog.String("where", what), slog.Any("cause", err))
		}
	}
	for _, l := range m.Direct {
		m.serving.Go(func() { note("direct", g.proxy.ServeDirect(judgedListener{l}, gate, m.holes)) })
	}
	for _, c := range m.Names {
		m.serving.Go(func() { note("names", m.answers.ServePackets(c)) })
	}
	for _, l := range m.Streams {
		m.serving.Go(func() { note("names", m.answers.ServeStreams(l)) })
	}
}

// close ends the room's network.
func (m *room) close() error {
	if m == nil {
		return nil
	}
	err := m.Close()
	m.serving.Wait()
	return err
}

// furnish makes the rest of the room, when the files of the session are there,
// and puts on record what it is.
func (r *running) furnish(h *hosted, files *launch.Files) error {
	f := netns.Furniture{Scratch: r.home.Runtime, Kept: []string{files.Dir}, Holes: r.room.sockets}
	for _, dir := range []string{r.home.Config, r.home.State, r.home.Runtime} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() && !slices.Contains(f.Private, dir) {
			f.Private = append(f.Private, dir)
		}
	}
	if _, err := os.Stat(h.deliveries()); err == nil {
		f.Kept = append(f.Kept, h.deliveries())
	}
	var err error
	if f.Blank, err = r.secretFiles(); err != nil {
		return roomError(err)
	}
	f.Trust = netns.Trust{Bundle: files.Bundle(), Java: files.Truststore()}
	f.Trust.Systems, f.Trust.Javas = launch.SystemStores(r.p.env)
	report, err := r.room.Furnish(f)
	rec := h.record("isolation")
	rec.Reason = "self-test passed: " + strings.Join(report.Tests, ", ")
	if len(r.f.open) > 0 {
		rec.Reason += "; open: " + strings.Join(r.f.open, ", ")
	}
	if err != nil {
		err = roomError(err)
		rec.Reason = err.Error()
	}
	h.furnished(roomNotes{SelfTest: report.Tests, Hidden: report.Hidden, Open: r.f.open})
	h.g.log.Info("room", slog.String("session", h.session.ID), slog.String("selftest", rec.Reason), slog.Any("hidden", report.Hidden))
	return errors.Join(err, h.g.record.Note(rec))
}

// secretFiles are those outside of the home that open the vault, or hold a value
// or a key themselves.
func (r *running) secretFiles() (paths []string, err error) {
	info, err := vault.Inspect(r.home.Vault())
	if err != nil {
		return nil, err
	}
	passphrase, _ := r.cmd.Flags().GetString("passphrase-file")
	candidates := []string{info.IdentityFile, passphrase, r.p.getenv("STANDIN_PASSPHRASE_FILE")}
	add := func(source string) {
		if path, ok := strings.CutPrefix(source, "file:"); ok {
			path, _, _ = strings.Cut(path, "#")
			candidates = append(candidates, path)
		}
	}
	for _, secret := range r.policy.Secrets {
		add(secret.Source)
	}
	for _, source := range r.policy.Sources {
		for _, setting := range source.Settings {
			add(setting)
		}
	}
	for _, up := range r.policy.Upstreams {
		candidates = append(candidates, up.ClientKey)
	}
	for _, path := range candidates {
		info, err := os.Stat(path)
		if path == "" || err != nil || !info.Mode().IsRegular() {
			continue
		}
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}
