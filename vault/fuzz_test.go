package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"filippo.io/age"
)

func samplePayload() *payload {
	p := &payload{Format: format, Writes: 7, Master: bytes.Repeat([]byte{1}, masterSize),
		Recovery: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudmxg5kqz0zg5r", Created: time.Unix(1700000000, 0).UTC()}
	identity, _ := age.GenerateX25519Identity()
	p.Recovery = identity.Recipient().String()
	p.put("github/token", []byte(canary), p.Created)
	p.put("b", []byte("x"), p.Created)
	p.put("gone", []byte("y"), p.Created)
	p.remove("gone")
	return p
}

// Property: what is read as a payload is in order, and written and read again
// the same; what is not is refused with a typed error that shows nothing of it.
func FuzzPayload(f *testing.F) {
	seed, err := samplePayload().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	for _, s := range []string{`{}`, `{"format":1}`, `{"format":2}`, `{"format":1}{}`, `[]`, `null`, ``, `{"format":1e9}`,
		string(seed) + " ", string(seed) + "1", string(bytes.Replace(seed, []byte(`"b"`), []byte(`"z"`), 1)),
		string(bytes.Replace(seed, []byte(`"writes"`), []byte(`"other"`), 1))} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePayload("f", bytes.Clone(data))
		if err != nil {
			var corrupt *CorruptError
			var newer *VersionError
			if !errors.As(err, &corrupt) && !errors.As(err, &newer) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		once, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodePayload("f", once)
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if twice, _ := again.encode(); !bytes.Equal(once, twice) {
			t.Fatal("written and read again it differs")
		}
		if !json.Valid(once) || again.Writes != p.Writes || len(again.Secrets) != len(p.Secrets) {
			t.Fatal("something was lost")
		}
	})
}

// Property: a vault file with any byte changed, cut or added is refused; only
// the very bytes that were written open.
func FuzzVaultFile(f *testing.F) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	whole, err := samplePayload().seal(identity.Recipient())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, byte(1), []byte(nil), len(whole))
	f.Add(len(whole)-1, byte(128), []byte("x"), len(whole))
	f.Add(30, byte(0), []byte(nil), len(whole))
	f.Add(30, byte(0), []byte(nil), 10)
	f.Fuzz(func(t *testing.T, at int, flip byte, tail []byte, keep int) {
		data := bytes.Clone(whole)
		if at >= 0 && at < len(data) {
			data[at] ^= flip
		}
		if keep >= 0 && keep < len(data) {
			data = data[:keep]
		}
		data = append(data, tail...)
		p, err := unseal("f", data, identity)
		if bytes.Equal(data, whole) {
			if err != nil || len(p.Secrets) != 2 || string(p.Secrets[1].Value) != canary {
				t.Fatalf("the file as written does not open: %v", err)
			}
			return
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Fatalf("a changed file opens: %v", err)
		}
		if leaks([]byte(err.Error())) != "" {
			t.Fatal("the error shows the value")
		}
	})
}

// B29: content that cannot be read is not quoted.
func TestErrorsOfThePayloadShowNoValue(t *testing.T) {
	t.Parallel()
	good, _ := samplePayload().encode()
	for _, bad := range [][]byte{
		[]byte(`{"format":1,"` + canary + `":1}`), []byte(canary), []byte(`{"format":"` + canary + `"}`),
		[]byte(`{"format":1,"master":"` + canary + `"}`), append(good, canary...),
		bytes.Replace(good, []byte("github/token"), []byte(canary), 1),
	} {
		_, err := decodePayload("f", bad)
		if err == nil || leaks([]byte(err.Error())) != "" {
			t.Errorf("error %v", err)
		}
	}
	if _, err := parseIdentity("f", []byte("AGE-SECRET-KEY-"+canary)); err == nil || leaks([]byte(err.Error())) != "" {
		t.Errorf("identity: %v", err)
	}
	if _, err := ParseSource(canary); err == nil || leaks([]byte(err.Error())) != "" {
		t.Errorf("source: %v", err)
	}
	if _, err := ParseSource("env:" + canary + "-"); err == nil || leaks([]byte(err.Error())) != "" {
		t.Errorf("source: %v", err)
	}
}
