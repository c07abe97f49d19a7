package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"standin/audit"
	"standin/vault"
)

// maxPassphrase bounds what is read as a passphrase, in bytes.
const maxPassphrase = 4096

// errNoTerminal says that nobody can be asked.
var errNoTerminal = errors.New("ask for the passphrase: there is no terminal")

// passphraseFlag gives a command that opens the vault its flag.
func passphraseFlag(cmd *cobra.Command) {
	cmd.Flags().String("passphrase-file", "", "read the passphrase of the vault from `FILE` (also $STANDIN_PASSPHRASE_FILE)")
}

// openVault opens the vault of a home, unless it is older than the audit log has
// seen it: nothing may be granted by such a copy, nor written on top of it.
func (p *program) openVault(cmd *cobra.Command, h home) (*vault.Store, error) {
	store, err := p.openVaultAsItIs(cmd, h)
	if err != nil {
		return nil, err
	}
	seen, err := audit.SeenVaultWrites(h.Audit(), store.Key(auditKey))
	if err != nil {
		return nil, err
	}
	if store.Writes() < seen { // another process may have written since it was read
		have, err := store.Refresh()
		if err == nil && have < seen {
			err = &audit.OlderVaultError{Have: have, Seen: seen}
		}
		if err != nil {
			return nil, err
		}
	}
	return store, nil
}

// openVaultAsItIs opens also an older copy. The passphrase comes from
// --passphrase-file, $STANDIN_PASSPHRASE_FILE or the terminal, and is asked for
// only where the identity is wrapped by one.
func (p *program) openVaultAsItIs(cmd *cobra.Command, h home) (*vault.Store, error) {
	u := p.unlocking(cmd)
	if p.passphraseFile(cmd) == "" { // else it is meant to be read
		u.Held = heldIdentity
	}
	return vault.Open(h.Vault(), u)
}

func (p *program) unlocking(cmd *cobra.Command) vault.Unlock {
	return vault.Unlock{Passphrase: func() ([]byte, error) { return p.passphrase(cmd) }, Unwrap: p.unwrapInChild}
}

// passphraseFile is the file that holds the passphrase, or "".
func (p *program) passphraseFile(cmd *cobra.Command) string {
	if flag := cmd.Flags().Lookup("passphrase-file"); flag != nil && flag.Value.String() != "" {
		return flag.Value.String()
	}
	return p.getenv("STANDIN_PASSPHRASE_FILE")
}

// passphrase reads the passphrase.
func (p *program) passphrase(cmd *cobra.Command) ([]byte, error) {
	if path := p.passphraseFile(cmd); path != "" {
		return readPassphrase(path)
	}
	return askHidden("Passphrase of the vault: ")
}

// readPassphrase takes a private file, or a pipe, and drops one newline.
func readPassphrase(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read passphrase file: %w", err)
	}
	var text []byte
	if info.Mode().IsRegular() {
		if file, err := filepath.EvalSymlinks(path); err == nil && isLink(path) {
			return nil, &hinted{fmt.Errorf("read passphrase file %q: it is a symbolic link", path), "name the file itself: " + shellWord(file)}
		}
		text, err = vault.ReadPrivate(path)
	} else {
		text, err = readPipe(path)
	}
	if err != nil {
		return nil, err
	}
	if len(text) > maxPassphrase {
		return nil, fmt.Errorf("read passphrase file %q: longer than %d bytes", path, maxPassphrase)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), nil
}

// isLink says whether a path is one, as /dev/stdin is, whatever is behind it.
func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

func readPipe(path string) ([]byte, error) {
	pipe, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read passphrase file: %w", err)
	}
	defer pipe.Close()
	return io.ReadAll(io.LimitReader(pipe, maxPassphrase+1))
}

// unwrapCommand is the name by which this program runs itself for one scrypt.
const unwrapCommand = "unwrap-identity"

// wrappedIdentity is what the child reads.
type wrappedIdentity struct{ Wrapped, Passphrase []byte }

// unwrapInChild runs scrypt in a process of its own: the 256 MiB that it takes
// are gone with it, instead of staying with the gateway for hours.
func (p *program) unwrapInChild(wrapped, passphrase []byte) ([]byte, error) {
	input, err := json.Marshal(wrappedIdentity{wrapped, passphrase})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	var out bytes.Buffer
	child := &exec.Cmd{Path: self, Args: []string{os.Args[0], unwrapCommand}, Env: []string{}, Stdin: bytes.NewReader(input), Stdout: &out}
	err = child.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == unwrapWrong:
		return nil, vault.ErrPassphrase
	case errors.As(err, &exit) && exit.ExitCode() == unwrapCorrupt:
		return nil, &vault.CorruptError{Path: "identity.age", Problem: "it is damaged"}
	case err != nil:
		return nil, fmt.Errorf("open identity: %w", err)
	}
	return out.Bytes(), nil
}

// The child's exit codes for a wrong passphrase, and for an identity that is
// damaged.
const (
	unwrapWrong   = 3
	unwrapCorrupt = 4
)

func newUnwrapCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use: unwrapCommand, Hidden: true, Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			var in wrappedIdentity
			if err := json.NewDecoder(io.LimitReader(p.in, 1<<20)).Decode(&in); err != nil {
				return errors.New("read wrapped identity: malformed")
			}
			identity, err := vault.UnwrapIdentity(in.Wrapped, in.Passphrase)
			if errors.Is(err, vault.ErrPassphrase) {
				return exitError(unwrapWrong, nil)
			}
			if err != nil {
				return exitError(unwrapCorrupt, nil)
			}
			_, err = p.out.Write(identity)
			return err
		},
	}
}
