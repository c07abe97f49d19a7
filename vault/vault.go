// Package vault keeps secrets: the type that does not print, the encrypted
// store on disk, and the other sources that a secret can come from.
//
// It does not decide who may use a secret, it never writes a value anywhere but
// into the encrypted file, and it has no way to show one: Secret.Reveal is the
// only door, and the program lists the files that may call it. It also holds
// the few file operations (replace, lock, read in private) that every file of
// state of the program is kept with, because they are what makes the store safe.
//
// Invariant: at every moment vault.age is a whole file of one writer, readable
// by its owner only, and no error, log line or temporary file holds a value.
//
// On Windows files carry no owner and mode in this sense: there ModeError is
// returned for links and special files only, and the folder's own access list
// is what keeps others out.
package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
)

const (
	vaultFile    = "vault.age"
	identityFile = "identity.age"

	// maxName and maxValue bound one secret. The largest credential seen in
	// use is a service account's JSON key of a few KiB.
	maxName  = 128
	maxValue = 64 << 10
	// maxFile bounds what is read into memory of any file of state.
	maxFile = 16 << 20
)

var secretName = regexp.MustCompile(`^[a-z0-9][a-z0-9_./-]*$`)

// CheckName refuses what cannot name a secret. The name is part of the error:
// do not call it on something that may be a value.
func CheckName(name string) error {
	if len(name) > maxName {
		return &NameError{Problem: fmt.Sprintf("is longer than %d characters", maxName)}
	}
	if !secretName.MatchString(name) {
		return &NameError{Problem: "must be of a-z 0-9 _ . / - and begin with a letter or digit"}
	}
	return nil
}

// NameError says that a text cannot name a secret. It does not hold the text:
// a value pasted in the wrong place would be printed.
type NameError struct{ Problem string }

func (e *NameError) Error() string { return "name secret: the name " + e.Problem }

// ErrPassphrase says that the passphrase is wrong, or that the wrapping of the
// identity was changed: the two cannot be told apart.
var ErrPassphrase = errors.New("unlock vault: wrong passphrase, or identity.age was changed")

// ErrUnchanged says that a rotation brought the value that is there already.
var ErrUnchanged = errors.New("the new value is the same as the old one")

// MissingError says that there is no vault at Path. It is fs.ErrNotExist.
// Identity is the identity.age that is there all the same, or "".
type MissingError struct{ Path, Identity string }

func (e *MissingError) Error() string        { return fmt.Sprintf("open vault %q: there is none", e.Path) }
func (e *MissingError) Is(target error) bool { return target == fs.ErrNotExist }

// IdentityFileError says that the file which holds the identity of the vault,
// outside of it, cannot be used.
type IdentityFileError struct {
	Path string
	Err  error
}

func (e *IdentityFileError) Error() string { return "open identity: " + e.Err.Error() }
func (e *IdentityFileError) Unwrap() error { return e.Err }

// ExistsError says that a vault, or a part of one, is at Path and is not overwritten.
type ExistsError struct{ Path string }

func (e *ExistsError) Error() string        { return fmt.Sprintf("make vault: %q is there already", e.Path) }
func (e *ExistsError) Is(target error) bool { return target == fs.ErrExist }

// CorruptError says that a file is not what was written: changed, cut, or made
// for another identity.
type CorruptError struct{ Path, Problem string }

func (e *CorruptError) Error() string { return fmt.Sprintf("open vault %q: %s", e.Path, e.Problem) }

// VersionError says that a newer program wrote the file. It is left untouched.
type VersionError struct {
	Path        string
	Have, Known int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("open vault %q: it has format %d, this program knows up to %d", e.Path, e.Have, e.Known)
}

// RollbackError says that the file went back to an older state while it was
// open: an older copy was put in its place.
type RollbackError struct {
	Path       string
	Have, Seen uint64
}

func (e *RollbackError) Error() string {
	return fmt.Sprintf("read vault %q: it is an older copy (write %d after write %d was seen)", e.Path, e.Have, e.Seen)
}

// NotFoundError says that the vault has no secret of this name.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("find secret %q: not in the vault", e.Name)
}

// WeakError says why a value is refused: it could not be told apart from
// ordinary text, and so not be scrubbed from a response. It never holds the value.
type WeakError struct{ Reason string }

func (e *WeakError) Error() string { return "check value: " + e.Reason }

// KeyringError says that the keyring of the system cannot be used.
type KeyringError struct{ Err error }

func (e *KeyringError) Error() string { return "use the system keyring: " + e.Err.Error() }
func (e *KeyringError) Unwrap() error { return e.Err }
