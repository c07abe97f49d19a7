package vault

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every printer gets instead of a value.
const redacted = "[secret]"

var errNoMarshal = errors.New("a secret cannot be written out")

// Secret is a credential's value. It holds a closure and no string: a printer
// that walks unexported fields by reflection finds the address of a function.
// The zero Secret has no value. A Secret is safe for concurrent use.
type Secret struct{ reveal func() []byte }

// NewSecret copies value, which the caller may then wipe.
func NewSecret(value []byte) Secret {
	kept := bytes.Clone(value)
	if kept == nil {
		kept = []byte{}
	}
	return Secret{reveal: func() []byte { return kept }}
}

// Reveal returns the value, nil for the zero Secret. The caller must not modify it.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Len is the length of the value in bytes.
func (s Secret) Len() int { return len(s.Reveal()) }

// IsZero says whether there is no value, or an empty one.
func (s Secret) IsZero() bool { return s.Len() == 0 }

// Equal compares two values in a time that does not depend on where they differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1
}

// String, GoString, Format and LogValue all show the same fixed text.
func (s Secret) String() string   { return redacted }
func (s Secret) GoString() string { return redacted }

// Format answers every verb of package fmt, %x, %s and %d of the value included.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is what log/slog writes.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText, and the others below, refuse: a secret that is silently written
// as something else would be lost, one that is written as it is would leak.
func (s Secret) MarshalText() ([]byte, error)   { return nil, errNoMarshal }
func (s Secret) MarshalJSON() ([]byte, error)   { return nil, errNoMarshal }
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errNoMarshal }
func (s Secret) MarshalYAML() (any, error)      { return nil, errNoMarshal }
func (s Secret) GobEncode() ([]byte, error)     { return nil, errNoMarshal }
