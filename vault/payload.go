package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sort"
	"strconv"
	"time"

	"filippo.io/age"
)

// format is the newest form of the content that this program reads, and the one it writes.
const format = 1

// payload is what vault.age holds, as JSON, once decrypted.
type payload struct {
	Format   int       `json:"format"`
	Writes   uint64    `json:"writes"`   // rises by one with each write; an older copy shows by it
	Master   []byte    `json:"master"`   // what Key derives from
	Recovery string    `json:"recovery"` // public half of the recovery key
	Created  time.Time `json:"created"`
	Secrets  []stored  `json:"secrets"`
	// Retired keeps the last version of removed names, so that a version
	// in the audit log never means two values.
	Retired map[string]int `json:"retired,omitempty"`
	// Notes are what other parts of the program keep here, so that it is as old
	// as the values, and nobody else can write it.
	Notes map[string][]byte `json:"notes,omitempty"`
}

type stored struct {
	Name    string    `json:"name"`
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Value   []byte    `json:"value"`
}

const masterSize = 32

// index is the place of name in the sorted list, and whether it is there.
func (p *payload) index(name string) (int, bool) {
	i := sort.Search(len(p.Secrets), func(i int) bool { return p.Secrets[i].Name >= name })
	return i, i < len(p.Secrets) && p.Secrets[i].Name == name
}

// put stores a value under a new version.
func (p *payload) put(name string, value []byte, now time.Time) {
	i, found := p.index(name)
	if !found {
		p.Secrets = append(p.Secrets, stored{})
		copy(p.Secrets[i+1:], p.Secrets[i:])
		p.Secrets[i] = stored{Name: name, Version: p.Retired[name], Created: now}
		delete(p.Retired, name)
	}
	s := &p.Secrets[i]
	s.Version++
	s.Updated = now
	s.Value = bytes.Clone(value)
}

func (p *payload) remove(name string) bool {
	i, found := p.index(name)
	if !found {
		return false
	}
	if p.Retired == nil {
		p.Retired = make(map[string]int)
	}
	p.Retired[name] = p.Secrets[i].Version
	p.Secrets = append(p.Secrets[:i], p.Secrets[i+1:]...)
	return true
}

// check refuses content that no program of ours wrote.
func (p *payload) check() error {
	if len(p.Master) != masterSize {
		return errors.New("the master key is missing")
	}
	if _, err := age.ParseX25519Recipient(p.Recovery); err != nil {
		return errors.New("the recovery recipient is missing")
	}
	for i, s := range p.Secrets {
		switch {
		case CheckName(s.Name) != nil:
			return errors.New("a secret has a bad name")
		case i > 0 && p.Secrets[i-1].Name >= s.Name:
			return errors.New("the secrets are not in order")
		case s.Version < 1 || len(s.Value) == 0 || len(s.Value) > maxValue:
			return errors.New("secret " + strconv.Quote(s.Name) + " is incomplete")
		}
	}
	for name, version := range p.Retired {
		if _, found := p.index(name); found || CheckName(name) != nil || version < 1 {
			return errors.New("the removed names are inconsistent")
		}
	}
	return nil
}

func (p *payload) encode() ([]byte, error) { return json.Marshal(p) }

// decodePayload reads the content. The error never quotes it: what stands
// there are values. path is for the error.
func decodePayload(path string, data []byte) (*payload, error) {
	var head struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(data, &head) != nil || head.Format < 1 {
		return nil, &CorruptError{path, "its content is not that of a vault"}
	}
	if head.Format > format {
		return nil, &VersionError{Path: path, Have: head.Format, Known: format}
	}
	p := new(payload)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if d.Decode(p) != nil {
		return nil, &CorruptError{path, "its content cannot be read"}
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, &CorruptError{path, "something follows its content"}
	}
	if err := p.check(); err != nil {
		return nil, &CorruptError{path, err.Error()}
	}
	return p, nil
}

// seal encrypts the content to the identity's public half.
func (p *payload) seal(to age.Recipient) ([]byte, error) {
	plain, err := p.encode()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unseal decrypts and reads what seal wrote. Any changed byte is found by age.
func unseal(path string, data []byte, with age.Identity) (*payload, error) {
	if len(data) == 0 {
		return nil, &CorruptError{path, "it is empty"}
	}
	r, err := age.Decrypt(bytes.NewReader(data), with)
	var other *age.NoIdentityMatchError
	if errors.As(err, &other) {
		return nil, &CorruptError{path, "it was made for another identity, or changed"}
	}
	if err != nil {
		return nil, &CorruptError{path, "it is damaged or was changed"}
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxFile))
	defer clear(plain)
	if err != nil {
		return nil, &CorruptError{path, "it is damaged, cut or was changed"}
	}
	return decodePayload(path, plain)
}
