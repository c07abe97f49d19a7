package vault

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
)

// freshness is how long vault.age is not looked at again: what another process
// rotates shows within twice this time.
const freshness = 500 * time.Millisecond

// Store is an opened vault.age. It is safe for concurrent use, by several
// processes, too.
type Store struct {
	path     string
	identity *age.X25519Identity
	start    time.Time
	next     atomic.Int64 // when to look at the file again, in ns after start
	state    atomic.Pointer[state]
	reading  sync.Mutex // held while state is replaced
}

// state is what was last read: immutable. If err is set the file has become
// unusable, and no value is given out until it is mended.
type state struct {
	err      error
	file     fs.FileInfo
	writes   uint64
	created  time.Time
	recovery string
	master   Secret
	entries  []Entry
	values   map[string]value
	notes    map[string][]byte
}

type value struct {
	secret  Secret
	version string
}

// Entry is one secret, without its value.
type Entry struct {
	Name             string
	Version          string
	Created, Updated time.Time
}

// Named is a value and the name to keep it under.
type Named struct {
	Name  string
	Value Secret
}

// Open opens the vault in dir. The error is *MissingError, ErrPassphrase,
// *CorruptError, *VersionError, *ModeError or *KeyringError where it is one of these.
func Open(dir string, u Unlock) (*Store, error) {
	identity, err := unlock(dir, u)
	if err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(dir, vaultFile), identity: identity, start: time.Now()}
	now, err := s.read()
	if err != nil {
		return nil, err
	}
	s.keep(now)
	return s, nil
}

// read reads and decrypts the file as it is now.
func (s *Store) read() (*state, error) {
	p, file, err := s.load()
	if err != nil {
		return nil, err
	}
	return newState(p, file), nil
}

func (s *Store) load() (*payload, fs.FileInfo, error) {
	// What is looked at first can only be older than what is read: at worst
	// the file is read once more.
	file, err := os.Lstat(s.path)
	if err != nil {
		return nil, nil, &MissingError{Path: s.path}
	}
	data, err := ReadPrivate(s.path)
	if err != nil {
		return nil, nil, err
	}
	p, err := unseal(s.path, data, s.identity)
	if err != nil {
		return nil, nil, err
	}
	if seen := s.state.Load(); seen != nil && p.Writes < seen.writes {
		return nil, nil, &RollbackError{Path: s.path, Have: p.Writes, Seen: seen.writes}
	}
	return p, file, nil
}

func newState(p *payload, file fs.FileInfo) *state {
	n := &state{file: file, writes: p.Writes, created: p.Created, recovery: p.Recovery, master: NewSecret(p.Master),
		entries: make([]Entry, 0, len(p.Secrets)), values: make(map[string]value, len(p.Secrets)), notes: p.Notes}
	for _, e := range p.Secrets {
		version := strconv.Itoa(e.Version)
		n.entries = append(n.entries, Entry{e.Name, version, e.Created, e.Updated})
		n.values[e.Name] = value{NewSecret(e.Value), version}
	}
	p.wipe()
	return n
}

func (p *payload) wipe() {
	clear(p.Master)
	for _, e := range p.Secrets {
		clear(e.Value)
	}
}

func (s *Store) keep(now *state) {
	s.state.Store(now)
	s.next.Store(int64(time.Since(s.start) + freshness))
}

// current is what the file holds, as of at most freshness ago. Only one caller
// looks at the file; the others go on with what is known meanwhile.
func (s *Store) current() (*state, error) {
	if int64(time.Since(s.start)) >= s.next.Load() && s.reading.TryLock() {
		s.refresh()
		s.reading.Unlock()
	}
	now := s.state.Load()
	return now, now.err
}

func (s *Store) refresh() {
	old := s.state.Load()
	if file, err := os.Lstat(s.path); err == nil && old.err == nil && sameFile(file, old.file) {
		s.keep(old)
		return
	}
	now, err := s.read()
	if err != nil {
		failed := *old // the counter that was seen stays, so that an older copy is known
		failed.err = err
		now = &failed
	}
	s.keep(now)
}

// sameFile says that nobody wrote, or changed owner or mode, in between: each
// write is a new file.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

// Secret returns the value of a name and its version ("1", "2", …), which no
// other value of this name ever has. The error is *NotFoundError, or says why
// the file can no longer be used.
func (s *Store) Secret(name string) (Secret, string, error) {
	now, err := s.current()
	if err != nil {
		return Secret{}, "", err
	}
	v, ok := now.values[name]
	if !ok {
		return Secret{}, "", &NotFoundError{name}
	}
	return v.secret, v.version, nil
}

// List returns all secrets by name. The caller may keep it.
func (s *Store) List() ([]Entry, error) {
	now, err := s.current()
	if err != nil {
		return nil, err
	}
	return append([]Entry(nil), now.entries...), nil
}

// Key derives 32 bytes for one purpose: the same for the life of the vault,
// and nothing that is known of one tells anything of another.
func (s *Store) Key(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s.state.Load().master.Reveal(), nil, "standin vault key 1: "+purpose, 32)
	if err != nil {
		// Only a length above 255 blocks, or FIPS mode with a short key, ends
		// here: both are constants above.
		return nil
	}
	return key
}

// RecoveryRecipient is the public half (age1…) of the recovery key.
func (s *Store) RecoveryRecipient() string { return s.state.Load().recovery }

// Writes counts the writes since the vault was made. A lower number than was
// seen before means that an older copy was put in its place.
func (s *Store) Writes() uint64 { return s.state.Load().writes }

// Refresh reads the file as it is now, and returns what Writes then does.
func (s *Store) Refresh() (uint64, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.refresh()
	now := s.state.Load()
	return now.writes, now.err
}

// Renumber counts a write of its own and moves the count to at least writes: an
// older copy that was put back on purpose is then newer than the one it replaced.
func (s *Store) Renumber(writes uint64) error {
	return s.update(func(p *payload, _ time.Time) error {
		p.Writes = max(p.Writes, writes-1)
		return nil
	})
}

// Note returns what was last kept under a name with KeepNote, or nil. The caller
// does not change it.
func (s *Store) Note(name string) ([]byte, error) {
	now, err := s.current()
	if err != nil {
		return nil, err
	}
	return now.notes[name], nil
}

// KeepNote puts what change makes of a note in its place: a small text of another
// part of the program, which is no secret but must not be older than the vault is,
// nor written by anybody who cannot open it.
func (s *Store) KeepNote(name string, change func(old []byte) ([]byte, error)) error {
	return s.update(func(p *payload, _ time.Time) error {
		note, err := change(p.Notes[name])
		if err != nil {
			return err
		}
		if p.Notes == nil {
			p.Notes = make(map[string][]byte)
		}
		p.Notes[name] = note
		return nil
	})
}

// Created is when the vault was made.
func (s *Store) Created() time.Time { return s.state.Load().created }

// Set keeps a value under a name, which may be there already: it then has a new
// version. The error is *WeakError where the value could not be scrubbed.
func (s *Store) Set(name string, v Secret) error { return s.SetAll([]Named{{name, v}}) }

// SetAll keeps all values, or none.
func (s *Store) SetAll(all []Named) error {
	for _, n := range all {
		if err := checkNew(n.Name, n.Value); err != nil {
			return err
		}
	}
	return s.update(func(p *payload, now time.Time) error {
		for _, n := range all {
			p.put(n.Name, n.Value.Reveal(), now)
		}
		return nil
	})
}

// Rotate puts a new value in place of one that is there: *NotFoundError,
// ErrUnchanged or *WeakError otherwise. Who asks while it runs gets the old
// value or the new one.
func (s *Store) Rotate(name string, v Secret) error {
	if err := checkNew(name, v); err != nil {
		return err
	}
	return s.update(func(p *payload, now time.Time) error {
		i, found := p.index(name)
		if !found {
			return &NotFoundError{name}
		}
		if subtle.ConstantTimeCompare(p.Secrets[i].Value, v.Reveal()) == 1 {
			return fmt.Errorf("rotate secret %q: %w", name, ErrUnchanged)
		}
		p.put(name, v.Reveal(), now)
		return nil
	})
}

// Remove removes a secret: *NotFoundError if it is not there.
func (s *Store) Remove(name string) error {
	return s.update(func(p *payload, _ time.Time) error {
		if !p.remove(name) {
			return &NotFoundError{name}
		}
		return nil
	})
}

func checkNew(name string, v Secret) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if v.Len() > maxValue {
		return fmt.Errorf("keep secret %q: the value is longer than %d KiB", name, maxValue>>10)
	}
	return CheckStrength(v.Reveal())
}

// update reads the file under the lock, changes it and puts it back: what other
// processes wrote before is kept. If anything fails the old file is in place.
func (s *Store) update(change func(*payload, time.Time) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	return WithLock(ctx, s.path, func() error {
		p, _, err := s.load()
		if err != nil {
			return err
		}
		defer p.wipe()
		if err := change(p, time.Now().UTC().Truncate(time.Second)); err != nil {
			return err
		}
		p.Writes++
		sealed, err := p.seal(s.identity.Recipient())
		if err != nil {
			return errors.New("encrypt vault: " + err.Error())
		}
		if err := ReplaceFile(s.path, sealed); err != nil {
			return err
		}
		file, err := os.Lstat(s.path)
		if err != nil {
			return &MissingError{Path: s.path}
		}
		s.reading.Lock()
		defer s.reading.Unlock()
		s.keep(newState(p, file))
		return nil
	})
}
