package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/zalando/go-keyring"
)

const (
	// workFactor is log2 of scrypt's cost: about a second and 256 MiB. It is
	// age's own default, and maxWork bounds what a changed file can ask for.
	workFactor = 18
	maxWork    = 20

	minPassphrase = 8

	// keyringService is the name that the system's keyring shows.
	keyringService = "standin"

	// pointer begins an identity.age that says where the identity is.
	pointer = "standin identity 1\n"

	lockPatience = 15 * time.Second
)

// Wrap says how the identity of a new vault is kept: exactly one is set.
type Wrap struct {
	Passphrase   []byte // wrapped in identity.age with scrypt
	Keyring      bool   // in the keyring of the system
	IdentityFile string // in this file, made if it is missing, else one age identity

	work int // scrypt's work factor in tests, 0: workFactor
}

// Unlock says how the identity is had. Which field is needed depends on how it
// is kept; see Inspect.
type Unlock struct {
	Passphrase   func() ([]byte, error)                           // asked only if it is needed
	Unwrap       func(wrapped, passphrase []byte) ([]byte, error) // nil: UnwrapIdentity in this process
	IdentityFile string                                           // "": the file that identity.age names
	// Held is the identity that Unwrapped gave to somebody who holds it for a
	// while, or nil. It is asked before the passphrase; id says which it must be.
	Held func(id string) []byte
}

// Info is what can be said of a vault that is not opened.
type Info struct {
	Kept         string // passphrase, keyring or file: how the identity is kept
	IdentityFile string // where, for file
	account      string
}

// Inspect reads how the identity of the vault in dir is kept. It checks owner
// and mode of what it touches, and needs no key.
func Inspect(dir string) (Info, error) {
	info, _, err := inspect(dir)
	return info, err
}

func inspect(dir string) (Info, []byte, error) {
	path := filepath.Join(dir, identityFile)
	if err := checkVault(dir); err != nil {
		return Info{}, nil, err
	}
	data, err := ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, nil, &CorruptError{path, "it is missing, and vault.age cannot be opened without it"}
	}
	if err != nil {
		return Info{}, nil, err
	}
	if bytes.HasPrefix(data, []byte("age-encryption.org/")) {
		return Info{Kept: "passphrase"}, data, nil
	}
	rest, ok := strings.CutPrefix(string(data), pointer)
	kind, place, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
	switch {
	case !ok || place == "" || strings.ContainsAny(place, "\n\x00"):
	case kind == "keyring":
		return Info{Kept: "keyring", account: place}, nil, nil
	case kind == "file" && filepath.IsAbs(place):
		return Info{Kept: "file", IdentityFile: place}, nil, nil
	}
	return Info{}, nil, &CorruptError{path, "it is not an identity file of standin"}
}

// checkVault says whether there is a vault in a private folder.
func checkVault(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, vaultFile)); errors.Is(err, fs.ErrNotExist) {
		missing := &MissingError{Path: filepath.Join(dir, vaultFile)}
		if path := filepath.Join(dir, identityFile); exists(path) {
			missing.Identity = path
		}
		return missing
	}
	return checkDir(dir)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Create makes vault.age and identity.age in dir, and returns the private half
// of the recovery key, which is stored nowhere. It never overwrites: *ExistsError.
func Create(dir string, w Wrap) (recoveryKey Secret, err error) {
	if err := w.check(); err != nil {
		return Secret{}, err
	}
	if err := PrivateDir(dir); err != nil {
		return Secret{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	err = WithLock(ctx, filepath.Join(dir, vaultFile), func() error {
		for _, name := range []string{vaultFile, identityFile} {
			path := filepath.Join(dir, name)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return &ExistsError{path}
			}
		}
		recoveryKey, err = create(dir, w)
		return err
	})
	return recoveryKey, err
}

// Discard removes a vault that was made a moment ago and whose recovery key could
// not be handed over. A file that holds its identity stays for the next one.
func Discard(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	return WithLock(ctx, filepath.Join(dir, vaultFile), func() error {
		return errors.Join(os.Remove(filepath.Join(dir, identityFile)), os.Remove(filepath.Join(dir, vaultFile)))
	})
}

func create(dir string, w Wrap) (Secret, error) {
	identity, err := w.identity()
	if err != nil {
		return Secret{}, err
	}
	recovery, err := age.GenerateX25519Identity()
	if err != nil {
		return Secret{}, fmt.Errorf("make recovery key: %w", err)
	}
	p := &payload{Format: format, Writes: 1, Master: make([]byte, masterSize),
		Recovery: recovery.Recipient().String(), Created: time.Now().UTC().Truncate(time.Second)}
	rand.Read(p.Master)
	sealed, err := p.seal(identity.Recipient())
	if err != nil {
		return Secret{}, fmt.Errorf("encrypt vault: %w", err)
	}
	wrapped, err := w.wrap(identity)
	if err != nil {
		return Secret{}, err
	}
	// The identity goes last: a vault.age alone holds nothing yet, while an
	// identity.age alone could be the key to a vault that was moved away.
	path := filepath.Join(dir, vaultFile)
	if err := ReplaceFile(path, sealed); err != nil {
		return Secret{}, err
	}
	if err := ReplaceFile(filepath.Join(dir, identityFile), wrapped); err != nil {
		os.Remove(path) // ours, made a moment ago under the lock, and without its key
		return Secret{}, err
	}
	return NewSecret([]byte(recovery.String())), nil
}

func (w Wrap) check() error {
	ways := 0
	for _, set := range []bool{w.Passphrase != nil, w.Keyring, w.IdentityFile != ""} {
		if set {
			ways++
		}
	}
	switch {
	case ways != 1:
		return errors.New("make vault: keep its identity in one of passphrase, keyring, identity file")
	case w.Passphrase != nil && len(w.Passphrase) < minPassphrase:
		return &WeakError{fmt.Sprintf("a passphrase needs at least %d characters", minPassphrase)}
	case w.IdentityFile != "" && !filepath.IsAbs(w.IdentityFile):
		return fmt.Errorf("make vault: identity file %q is not an absolute path", w.IdentityFile)
	}
	return nil
}

// identity is a new one, or the one in the identity file that is there already.
func (w Wrap) identity() (*age.X25519Identity, error) {
	if w.IdentityFile != "" {
		identity, err := readIdentity(w.IdentityFile)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return identity, err
		}
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return identity, nil
}

// wrap puts the identity where it is to be kept, and returns what identity.age says.
func (w Wrap) wrap(identity *age.X25519Identity) ([]byte, error) {
	switch {
	case w.Keyring:
		account := "vault-" + rand.Text()
		if err := keyring.Set(keyringService, account, identity.String()); err != nil {
			return nil, &KeyringError{err}
		}
		return []byte(pointer + "keyring " + account + "\n"), nil
	case w.IdentityFile != "":
		if _, err := os.Lstat(w.IdentityFile); errors.Is(err, fs.ErrNotExist) {
			if err := ReplaceFile(w.IdentityFile, []byte(identity.String()+"\n")); err != nil {
				return nil, err
			}
		}
		return []byte(pointer + "file " + w.IdentityFile + "\n"), nil
	}
	r, err := age.NewScryptRecipient(string(w.Passphrase))
	if err != nil {
		return nil, fmt.Errorf("wrap identity: %w", err)
	}
	if w.work != 0 {
		r.SetWorkFactor(w.work)
	}
	var out bytes.Buffer
	to, err := age.Encrypt(&out, r)
	if err == nil {
		_, err = io.WriteString(to, identity.String()+"\n")
	}
	if err == nil {
		err = to.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("wrap identity: %w", err)
	}
	return out.Bytes(), nil
}

// UnwrapIdentity opens the content of an identity.age that a passphrase wraps.
// It takes a second and 256 MiB; a caller that lives on runs it in a child.
// The error is ErrPassphrase, or says that the wrapping is damaged.
func UnwrapIdentity(wrapped, passphrase []byte) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, ErrPassphrase
	}
	with, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, ErrPassphrase
	}
	with.SetMaxWorkFactor(maxWork)
	r, err := age.Decrypt(bytes.NewReader(wrapped), with)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, &CorruptError{identityFile, "it is damaged or was changed"}
	}
	identity, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return nil, &CorruptError{identityFile, "it is damaged, cut or was changed"}
	}
	return identity, nil
}

// unlock brings the identity of the vault in dir.
func unlock(dir string, u Unlock) (*age.X25519Identity, error) {
	info, wrapped, err := inspect(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, identityFile)
	switch info.Kept {
	case "file":
		if u.IdentityFile != "" {
			info.IdentityFile = u.IdentityFile
		}
		identity, err := readIdentity(info.IdentityFile)
		if err != nil {
			err = &IdentityFileError{info.IdentityFile, err}
		}
		return identity, err
	case "keyring":
		text, err := keyring.Get(keyringService, info.account)
		if err != nil {
			return nil, &KeyringError{err}
		}
		return parseIdentity(path, []byte(text))
	}
	if u.Held != nil {
		if text := u.Held(wrappedID(wrapped)); text != nil {
			defer clear(text)
			return parseIdentity(path, text)
		}
	}
	text, err := u.unwrap(wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	return parseIdentity(path, text)
}

// unwrap asks for the passphrase.
func (u Unlock) unwrap(wrapped []byte) ([]byte, error) {
	if u.Passphrase == nil {
		return nil, ErrPassphrase
	}
	passphrase, err := u.Passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	if u.Unwrap == nil {
		return UnwrapIdentity(wrapped, passphrase)
	}
	return u.Unwrap(wrapped, passphrase)
}

// wrappedID names an identity by how it is wrapped: another passphrase, another id.
func wrappedID(wrapped []byte) string {
	sum := sha256.Sum256(wrapped)
	return hex.EncodeToString(sum[:16])
}

// WrappedID is the id of the identity of the vault in dir, "" if no passphrase
// wraps it.
func WrappedID(dir string) (string, error) {
	info, wrapped, err := inspect(dir)
	if err != nil || info.Kept != "passphrase" {
		return "", err
	}
	return wrappedID(wrapped), nil
}

// Unwrapped is the identity of the vault in dir, and its id, for somebody who holds
// it for a while. The vault itself is opened with it, so that it is the right one.
func Unwrapped(dir string, u Unlock) (id string, identity Secret, err error) {
	if id, err = WrappedID(dir); err != nil || id == "" {
		return "", Secret{}, err
	}
	s, err := Open(dir, u)
	if err != nil {
		return "", Secret{}, err
	}
	return id, NewSecret([]byte(s.identity.String())), nil
}

// readIdentity reads a file that holds one age identity and comments, as age-keygen writes it.
func readIdentity(path string) (*age.X25519Identity, error) {
	data, err := ReadPrivate(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return parseIdentity(path, data)
}

// parseIdentity never quotes what it cannot read: age's own errors may.
func parseIdentity(path string, data []byte) (*age.X25519Identity, error) {
	all, err := age.ParseIdentities(bytes.NewReader(data))
	if err == nil && len(all) == 1 {
		if identity, ok := all[0].(*age.X25519Identity); ok {
			return identity, nil
		}
	}
	return nil, &CorruptError{path, "it does not hold exactly one age X25519 identity"}
}
