package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"github.com/zalando/go-keyring"
)

// newVault makes a vault with an identity file, which costs no scrypt.
func newVault(t testing.TB) (dir string, s *Store) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, Wrap{IdentityFile: filepath.Join(t.TempDir(), "identity")}); err != nil {
		t.Fatal(err)
	}
	return dir, open(t, dir)
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func set(t testing.TB, s *Store, name, value string) {
	t.Helper()
	if err := s.Set(name, NewSecret([]byte(value))); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, s *Store, name, value, version string) {
	t.Helper()
	got, v, err := s.Secret(name)
	if err != nil || string(got.Reveal()) != value || v != version {
		t.Fatalf("%s: got version %q, error %v", name, v, err)
	}
}

func TestVaultKeepsWhatIsSet(t *testing.T) {
	t.Parallel()
	dir, s := newVault(t)
	set(t, s, "github/token", canary)
	set(t, s, "a", "other-Value-4711")
	expect(t, s, "github/token", canary, "1")
	if err := s.Rotate("github/token", NewSecret([]byte(canary+"x"))); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "github/token", canary+"x", "2")
	if err := s.Rotate("github/token", NewSecret([]byte(canary+"x"))); !errors.Is(err, ErrUnchanged) {
		t.Errorf("rotation to the same value: %v", err)
	}
	var missing *NotFoundError
	if err := s.Rotate("none", NewSecret([]byte(canary))); !errors.As(err, &missing) {
		t.Errorf("rotation of nothing: %v", err)
	}
	again := open(t, dir)
	expect(t, again, "github/token", canary+"x", "2")
	if err := again.Remove("github/token"); err != nil {
		t.Fatal(err)
	}
	if err := again.Remove("github/token"); !errors.As(err, &missing) {
		t.Errorf("removal of nothing: %v", err)
	}
	set(t, again, "github/token", canary)
	expect(t, again, "github/token", canary, "3") // never a version twice
	list, err := again.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "github/token" || list[1].Version != "3" {
		t.Errorf("list: %v %v", list, err)
	}
	if got := again.Writes(); got != 6 {
		t.Errorf("%d writes counted, want 6", got)
	}
	data, _ := os.ReadFile(filepath.Join(dir, "vault.age"))
	if bytes.Contains(data, []byte("github")) || leaks(data) != "" {
		t.Error("the file shows what it holds")
	}
}

func TestKeysAreStableAndApart(t *testing.T) {
	t.Parallel()
	dir, s := newVault(t)
	key := s.Key("audit")
	set(t, s, "a", canary)
	if len(key) != 32 || !bytes.Equal(key, open(t, dir).Key("audit")) {
		t.Error("the key changed")
	}
	if bytes.Equal(key, s.Key("trust")) {
		t.Error("two purposes share a key")
	}
	_, other := newVault(t)
	if bytes.Equal(key, other.Key("audit")) {
		t.Error("two vaults share a key")
	}
}

func TestRecoveryKeyIsReturnedOnceAndStoredNowhere(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "home")
	recovery, err := Create(dir, Wrap{IdentityFile: filepath.Join(t.TempDir(), "identity")})
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.ParseX25519Identity(string(recovery.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if s.RecoveryRecipient() != identity.Recipient().String() {
		t.Error("the vault names another recipient")
	}
	p, _, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := p.encode()
	if bytes.Contains(plain, recovery.Reveal()) {
		t.Error("the vault holds the private half")
	}
}

func TestCreateOverwritesNothing(t *testing.T) {
	t.Parallel()
	dir, s := newVault(t)
	set(t, s, "a", canary)
	var exists *ExistsError
	if _, err := Create(dir, Wrap{IdentityFile: filepath.Join(t.TempDir(), "i")}); !errors.As(err, &exists) {
		t.Errorf("over a vault: %v", err)
	}
	os.Remove(filepath.Join(dir, "vault.age"))
	if _, err := Create(dir, Wrap{IdentityFile: filepath.Join(t.TempDir(), "i")}); !errors.As(err, &exists) {
		t.Errorf("over an identity: %v", err)
	}
	var missing *MissingError
	if _, err := Open(dir, Unlock{}); !errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open without a vault: %v", err)
	}
	if _, err := Create(t.TempDir(), Wrap{}); err == nil {
		t.Error("a vault without a way to keep its identity was made")
	}
	var weak *WeakError
	if _, err := Create(t.TempDir(), Wrap{Passphrase: []byte("short")}); !errors.As(err, &weak) {
		t.Errorf("short passphrase: %v", err)
	}
}

func TestPassphraseWrapsTheIdentity(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, Wrap{Passphrase: []byte("correct horse"), work: 10}); err != nil {
		t.Fatal(err)
	}
	ask := func(text string) Unlock {
		return Unlock{Passphrase: func() ([]byte, error) { return []byte(text), nil }}
	}
	s, err := Open(dir, ask("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	set(t, s, "a", canary)
	for _, wrong := range []string{"", "x", "correct hors", "correct horse "} {
		if _, err := Open(dir, ask(wrong)); err != ErrPassphrase {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	hooked := ask("correct horse")
	called := false
	hooked.Unwrap = func(w, p []byte) ([]byte, error) { called = true; return UnwrapIdentity(w, p) }
	if _, err := Open(dir, hooked); err != nil || !called {
		t.Errorf("with a hook: %v %v", called, err)
	}
	hooked.Passphrase = func() ([]byte, error) { return nil, fs.ErrPermission }
	if _, err := Open(dir, hooked); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the error of the asking was lost: %v", err)
	}
	if info, err := Inspect(dir); err != nil || info.Kept != "passphrase" {
		t.Errorf("inspect: %v %v", info, err)
	}
}

func TestPassphraseCostsWhatTheFormatSays(t *testing.T) {
	if testing.Short() {
		t.Skip("scrypt takes a second and 256 MiB")
	}
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, Wrap{Passphrase: []byte("correct horse")}); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(filepath.Join(dir, "identity.age"))
	if line := strings.Split(string(data), "\n")[1]; !strings.HasPrefix(line, "-> scrypt ") || !strings.HasSuffix(line, " 18") {
		t.Errorf("identity.age is wrapped by %q", line)
	}
	if _, err := Open(dir, Unlock{Passphrase: func() ([]byte, error) { return []byte("correct horse"), nil }}); err != nil {
		t.Error(err)
	}
}

// Not parallel: the keyring's fake belongs to the whole process.
func TestKeyringKeepsTheIdentity(t *testing.T) {
	keyring.MockInit()
	dir := filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, Wrap{Keyring: true}); err != nil {
		t.Fatal(err)
	}
	set(t, open(t, dir), "a", canary)
	expect(t, open(t, dir), "a", canary, "1")
	data, _ := os.ReadFile(filepath.Join(dir, "identity.age"))
	if bytes.Contains(data, []byte("AGE-SECRET")) {
		t.Error("the identity lies beside the vault")
	}
	keyring.MockInitWithError(errors.New("no bus"))
	var trouble *KeyringError
	if _, err := Open(dir, Unlock{}); !errors.As(err, &trouble) {
		t.Errorf("without a keyring: %v", err)
	}
	if _, err := Create(filepath.Join(t.TempDir(), "x"), Wrap{Keyring: true}); !errors.As(err, &trouble) {
		t.Errorf("making one without a keyring: %v", err)
	}
}

// H27: what is changed, cut or exchanged is refused, with a text that tells nothing.
func TestChangedFilesAreRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, Wrap{Passphrase: []byte("correct horse"), work: 10}); err != nil {
		t.Fatal(err)
	}
	u := Unlock{Passphrase: func() ([]byte, error) { return []byte("correct horse"), nil }}
	s, err := Open(dir, u)
	if err != nil {
		t.Fatal(err)
	}
	set(t, s, "a", canary)
	for _, name := range []string{"vault.age", "identity.age"} {
		path := filepath.Join(dir, name)
		whole, _ := os.ReadFile(path)
		try := func(what string, data []byte) {
			os.WriteFile(path, data, 0o600)
			_, err := Open(dir, u)
			var corrupt *CorruptError
			if err == nil || !errors.As(err, &corrupt) && !errors.Is(err, ErrPassphrase) {
				t.Errorf("%s %s: %v", name, what, err)
			} else if leaks([]byte(err.Error())) != "" {
				t.Errorf("%s %s: the error leaks", name, what)
			}
		}
		try("emptied", nil)
		try("cut", whole[:len(whole)-1])
		try("half", whole[:len(whole)/2])
		try("longer", append(bytes.Clone(whole), 'x'))
		try("scrypt made cheap", bytes.Replace(bytes.Replace(whole, []byte(" 10\n"), []byte(" 2\n"), 1), []byte("X25519"), []byte("X25518"), 1))
		try("scrypt made dear", bytes.Replace(bytes.Replace(whole, []byte(" 10\n"), []byte(" 30\n"), 1), []byte("X25519"), []byte("X25518"), 1))
		for i := 0; i < len(whole); i += 7 {
			changed := bytes.Clone(whole)
			changed[i] ^= 1
			try(fmt.Sprintf("changed at %d", i), changed)
		}
		os.WriteFile(path, whole, 0o600)
	}
	other, _ := newVault(t)
	foreign, _ := os.ReadFile(filepath.Join(other, "vault.age"))
	os.WriteFile(filepath.Join(dir, "vault.age"), foreign, 0o600)
	var corrupt *CorruptError
	if _, err := Open(dir, u); !errors.As(err, &corrupt) {
		t.Errorf("a vault of another identity: %v", err)
	}
}

// H27: an older copy put in place while a gateway lives is noticed.
func TestOlderCopyIsNoticed(t *testing.T) {
	t.Parallel()
	dir, _ := newVault(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir)
		path := filepath.Join(dir, "vault.age")
		set(t, s, "a", "old-Vague-4711")
		old, _ := os.ReadFile(path)
		set(t, s, "a", canary)
		newest, _ := os.ReadFile(path)
		if err := ReplaceFile(path, old); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var back *RollbackError
		if _, _, err := s.Secret("a"); !errors.As(err, &back) {
			t.Fatalf("an older copy was taken: %v", err)
		}
		if err := s.Set("b", NewSecret([]byte(canary))); !errors.As(err, &back) {
			t.Fatalf("an older copy was written on: %v", err)
		}
		ReplaceFile(path, newest)
		time.Sleep(time.Second)
		expect(t, s, "a", canary, "2")
	})
}

// H28: a newer format is refused and not rewritten.
func TestNewerFormatIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	dir, s := newVault(t)
	path := filepath.Join(dir, "vault.age")
	plain, _ := json.Marshal(map[string]any{"format": format + 1, "new": []int{1}})
	var sealed bytes.Buffer
	w, _ := age.Encrypt(&sealed, s.identity.Recipient())
	w.Write(plain)
	w.Close()
	ReplaceFile(path, sealed.Bytes())
	var newer *VersionError
	if _, err := Open(dir, Unlock{}); !errors.As(err, &newer) || newer.Have != format+1 {
		t.Errorf("open: %v", err)
	}
	if err := s.Set("a", NewSecret([]byte(canary))); !errors.As(err, &newer) {
		t.Errorf("set: %v", err)
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, sealed.Bytes()) {
		t.Error("the file was rewritten")
	}
}

// G20: what another process rotates shows within a second, whole.
func TestRotationShowsWithinASecond(t *testing.T) {
	t.Parallel()
	dir, _ := newVault(t)
	synctest.Test(t, func(t *testing.T) {
		gateway, user := open(t, dir), open(t, dir)
		set(t, user, "a", canary)
		time.Sleep(time.Second)
		expect(t, gateway, "a", canary, "1")
		if err := user.Rotate("a", NewSecret([]byte("another-Value-4711"))); err != nil {
			t.Fatal(err)
		}
		expect(t, gateway, "a", canary, "1")
		time.Sleep(time.Second)
		expect(t, gateway, "a", "another-Value-4711", "2")
		os.Chmod(filepath.Join(dir, "vault.age"), 0o644)
		time.Sleep(time.Second)
		var mode *ModeError
		if _, _, err := gateway.Secret("a"); !errors.As(err, &mode) {
			t.Errorf("a vault that others can read goes on: %v", err)
		}
		os.Remove(filepath.Join(dir, "vault.age"))
		time.Sleep(time.Second)
		if _, _, err := gateway.Secret("a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a vault that is gone goes on: %v", err)
		}
	})
}

func TestNamesAndValuesAreChecked(t *testing.T) {
	t.Parallel()
	_, s := newVault(t)
	for _, name := range []string{"", "A", "-a", "a b", "a\n", "ä", "/a", strings.Repeat("a", 129), canary} {
		err := s.Set(name, NewSecret([]byte(canary)))
		var bad *NameError
		if !errors.As(err, &bad) {
			t.Errorf("name %q: %v", name, err)
		} else if leaks([]byte(err.Error())) != "" {
			t.Errorf("name %q: the error shows it", name)
		}
	}
	if err := s.Set("a", NewSecret(bytes.Repeat([]byte("aB3$x"), maxValue/5+1))); err == nil {
		t.Error("a value of more than 64 KiB was taken")
	}
	err := s.SetAll([]Named{{"good", NewSecret([]byte(canary))}, {"weak", NewSecret([]byte("password"))}})
	var weak *WeakError
	if !errors.As(err, &weak) {
		t.Errorf("weak value: %v", err)
	}
	if _, _, err := s.Secret("good"); err == nil {
		t.Error("half of a list was kept")
	}
}

func BenchmarkStoreSecret(b *testing.B) {
	_, s := newVault(b)
	set(b, s, "a", canary)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.Secret("a"); err != nil {
			b.Fatal(err)
		}
	}
}
