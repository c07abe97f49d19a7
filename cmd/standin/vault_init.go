package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"standin/vault"
)

type vaultInit struct {
	keyring      bool
	identityFile string
	recoveryOut  string
	asJSON       bool
}

func newVaultInit(p *program) *cobra.Command {
	var o vaultInit
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the vault and the recovery key of the audit log",
		Long: `Make the vault. Its identity is wrapped by a passphrase, or kept in the keyring
of the system, or in a file of its own.

The recovery key of the audit log is made with it and printed once: only with it
can "standin audit verify" prove that nothing was changed. Nothing on this machine
can bring it back. Keep it elsewhere.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(p, cmd) },
	}
	passphraseFlag(cmd)
	cmd.Flags().BoolVar(&o.keyring, "keyring", false, "keep the identity in the keyring of the system")
	cmd.Flags().StringVar(&o.identityFile, "identity-file", "", "keep the identity in `FILE`: made if it is missing, else an age identity")
	cmd.Flags().StringVar(&o.recoveryOut, "recovery-key-out", "", "write the recovery key to the new `FILE` instead of printing it")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

func (o *vaultInit) run(p *program, cmd *cobra.Command) error {
	h, err := p.home(cmd)
	if err != nil {
		return err
	}
	_, err = vault.Inspect(h.Vault()) // before anything is asked
	var missing *vault.MissingError
	if !errors.As(err, &missing) {
		if err == nil {
			err = &vault.ExistsError{Path: filepath.Join(h.Vault(), "vault.age")}
		}
		return err
	}
	keepBrokenPipes()
	wrap, err := o.wrap(p, cmd)
	if err != nil {
		return err
	}
	defer clear(wrap.Passphrase)
	if err := os.MkdirAll(filepath.Dir(h.Vault()), 0o700); err != nil {
		return fmt.Errorf("make folder %q: %w", filepath.Dir(h.Vault()), errors.Unwrap(err))
	}
	// The file is made first: a vault whose recovery key could not be handed
	// over would be worthless for the log.
	var out *os.File
	if o.recoveryOut != "" {
		if out, err = newPrivateFile(o.recoveryOut); err != nil {
			return err
		}
		defer out.Close()
	}
	key, err := vault.Create(h.Vault(), wrap)
	if err != nil {
		if out != nil {
			os.Remove(o.recoveryOut)
		}
		var weak *vault.WeakError
		if errors.As(err, &weak) {
			return &hinted{err, "take a longer passphrase: whoever copies the files can try as many as they like"}
		}
		return err
	}
	if out != nil {
		err = writeRecoveryKey(out, key)
	}
	if err != nil {
		fmt.Fprintf(p.out, "%s\n", key.Reveal()) // the last chance to keep it
		return fmt.Errorf("write recovery key %q (it is printed instead): %w", o.recoveryOut, err)
	}
	err = o.tell(p, h, wrap, key)
	if err != nil && out == nil {
		return &hinted{errors.Join(fmt.Errorf("show the recovery key: %w", err), vault.Discard(h.Vault())), "nothing was made; write the key to a file: --recovery-key-out FILE"}
	}
	return err
}

// goesNowhere says whether what is written there is lost: to the null device, which
// also takes the place of an output that was closed.
func goesNowhere(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	null, nullErr := os.Stat(os.DevNull)
	return err == nil && nullErr == nil && os.SameFile(info, null)
}

func (o *vaultInit) wrap(p *program, cmd *cobra.Command) (vault.Wrap, error) {
	file := cmd.Flag("passphrase-file").Value.String()
	switch {
	case o.keyring && o.identityFile != "", file != "" && (o.keyring || o.identityFile != ""):
		return vault.Wrap{}, usageError("take one of --passphrase-file, --keyring, --identity-file")
	case o.keyring:
		return vault.Wrap{Keyring: true}, nil
	case o.identityFile != "":
		path, err := filepath.Abs(o.identityFile)
		if err != nil {
			return vault.Wrap{}, fmt.Errorf("find identity file %q: %w", o.identityFile, err)
		}
		return vault.Wrap{IdentityFile: path}, nil
	}
	passphrase, err := p.newPassphrase(file)
	if err == nil && passphrase == nil {
		passphrase = []byte{} // given, and refused for its length
	}
	return vault.Wrap{Passphrase: passphrase}, err
}

// newPrivateFile makes a file that is not there yet, with mode 0600.
func newPrivateFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, &hinted{fmt.Errorf("make file %q: it is there already", path), "name a new file for the recovery key"}
	}
	if err != nil {
		return nil, fmt.Errorf("make file %q: %w", path, errors.Unwrap(err))
	}
	if err := f.Chmod(0o600); err != nil { // whatever the umask took away
		return nil, errors.Join(fmt.Errorf("make file %q: %w", path, err), f.Close())
	}
	return f, nil
}

func writeRecoveryKey(f *os.File, key vault.Secret) error {
	_, err := fmt.Fprintf(f, "# recovery key of the audit log of standin: keep it away from this machine\n%s\n", key.Reveal())
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	return err
}

// madeVault is what "vault init --json" prints.
type madeVault struct {
	Vault        string `json:"vault"`
	Identity     string `json:"identity"`
	RecoveryFile string `json:"recovery_key_file,omitempty"`
	RecoveryKey  string `json:"recovery_key,omitempty"`
}

func (o *vaultInit) tell(p *program, h home, wrap vault.Wrap, key vault.Secret) error {
	made := madeVault{Vault: filepath.Join(h.Vault(), "vault.age"), Identity: "passphrase", RecoveryFile: o.recoveryOut}
	kept := "wrapped by the passphrase"
	switch {
	case wrap.Keyring:
		made.Identity, kept = "keyring", "in the keyring of the system"
	case wrap.IdentityFile != "":
		made.Identity, kept = "file", "in "+wrap.IdentityFile
	}
	if o.recoveryOut == "" {
		made.RecoveryKey = string(key.Reveal())
	}
	to := p.out
	if o.recoveryOut == "" && goesNowhere(to) {
		to = p.err // what is shown once is shown where it may be seen
	}
	if o.asJSON {
		return printJSON(to, made)
	}
	recovery := fmt.Sprintf("\nThe recovery key of the audit log, shown this once. Keep it elsewhere:\n\n  %s\n\n", made.RecoveryKey)
	if o.recoveryOut != "" {
		recovery = fmt.Sprintf("wrote the recovery key of the audit log to %s: move it to another place\n", harmless(o.recoveryOut))
	}
	_, err := fmt.Fprintf(to, "made %s; its identity is %s\n%snext: standin vault set NAME, or standin vault import FILE\n", harmless(made.Vault), harmless(kept), recovery)
	return err
}
