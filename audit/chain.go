package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"filippo.io/age"

	"standin/audit/segment"
)

// What stands behind the body of a line: ,"h":"64 hex","mac":"64 hex"} and a line feed.
const (
	hOpen     = `,"h":"`
	macOpen   = `","mac":"`
	lineClose = "\"}\n"
	suffixLen = len(hOpen) + 64 + len(macOpen) + 64 + len(lineClose)
)

const (
	nextKeyLabel     = "standin audit next key"
	openingLabel     = "standin audit opening record v1"
	fingerprintLabel = "standin audit fingerprint v1"
	vaultMACOpen     = `,"vault_mac":"`
)

// A point is a place between two records: the number of the next one, the h of the last one, the key of the next one.
type point struct {
	seq uint64
	h   [32]byte
	key [32]byte
}

// A chain makes lines out of bodies. Its key is replaced with each line.
type chain struct {
	point
	digest hash.Hash
	label  []byte // here, like pad and sum, so that a record costs no allocation, and to be wiped
	pad    [64]byte
	sum    [32]byte
}

func newChain(at point) *chain {
	return &chain{point: at, digest: sha256.New(), label: []byte(nextKeyLabel)}
}

// begin appends what a line begins with.
func (c *chain) begin(b []byte) []byte {
	return append(strconv.AppendUint(append(b, `{"seq":`...), c.seq, 10), ',')
}

// link completes the line that begins at start of b: b[start:] is its body, from the brace on. It allocates nothing.
func (c *chain) link(b []byte, start int) []byte {
	c.digest.Reset()
	c.digest.Write(c.h[:])
	c.digest.Write(b[start:])
	c.digest.Sum(c.h[:0])
	mac := c.mac(&c.key, c.h[:])
	b = append(b, hOpen...)
	b = hex.AppendEncode(b, c.h[:])
	b = append(b, macOpen...)
	b = hex.AppendEncode(b, mac[:])
	b = append(b, lineClose...)
	c.step()
	return b
}

// step forgets the key of the record that was just made.
func (c *chain) step() {
	c.seq++
	c.key = c.mac(&c.key, c.label)
}

// mac is HMAC-SHA256. It is written out so that no copy of the key remains in an object that cannot be wiped.
func (c *chain) mac(key *[32]byte, message []byte) [32]byte {
	for i := range c.pad {
		c.pad[i] = 0x36
	}
	subtle.XORBytes(c.pad[:32], c.pad[:32], key[:])
	c.digest.Reset()
	c.digest.Write(c.pad[:])
	c.digest.Write(message)
	c.digest.Sum(c.sum[:0])
	for i := range c.pad {
		c.pad[i] ^= 0x36 ^ 0x5c
	}
	c.digest.Reset()
	c.digest.Write(c.pad[:])
	c.digest.Write(c.sum[:])
	c.digest.Sum(c.sum[:0])
	clear(c.pad[:])
	return c.sum
}

func (c *chain) wipe() {
	clear(c.key[:])
	clear(c.sum[:])
	c.digest.Reset()
}

// subkey derives a key for one purpose from the vault's.
func subkey(vault []byte, label string) (sub [32]byte) {
	var key [32]byte
	copy(key[:], vault)
	c := newChain(point{})
	sub = c.mac(&key, []byte(label))
	clear(key[:])
	return sub
}

// Fingerprint names a value so that "was this very value used?" can be answered from the log by whoever has the vault's
// key, and by nobody else: 16 hex digits.
func Fingerprint(vaultKey, value []byte) string {
	key := subkey(vaultKey, fingerprintLabel)
	return fingerprint(&key, value)
}

func fingerprint(key *[32]byte, value []byte) string {
	c := newChain(point{})
	sum := c.mac(key, value)
	return hex.EncodeToString(sum[:8])
}

// A line is a line taken apart; body, h and mac lie in it.
type line struct {
	body   []byte // what h covers, from the brace on
	seq    uint64
	h, mac [32]byte
	hHex   []byte
}

var errForm = errors.New("not in the form of a record")

// parseLine takes a whole line, with its line feed, apart. It accepts exactly what link makes: no byte is free.
func parseLine(text []byte) (l line, err error) {
	if len(text) < suffixLen+len(`{"seq":0,`) || len(text) > maxLine {
		return l, errForm
	}
	l.body = text[:len(text)-suffixLen]
	tail := text[len(l.body):]
	hHex := tail[len(hOpen) : len(hOpen)+64]
	macAt := len(hOpen) + 64 + len(macOpen)
	h, hOK := parseHex(hHex)
	mac, macOK := parseHex(tail[macAt : macAt+64])
	if !hOK || !macOK || string(tail[:len(hOpen)]) != hOpen || string(tail[len(hOpen)+64:macAt]) != macOpen ||
		string(tail[macAt+64:]) != lineClose {
		return l, errForm
	}
	l.h, l.mac, l.hHex = h, mac, hHex
	rest, ok := bytes.CutPrefix(l.body, []byte(`{"seq":`))
	digits := bytes.IndexByte(rest, ',')
	if !ok || digits < 1 || digits > 19 || rest[0] == '0' {
		return l, errForm
	}
	l.seq, err = strconv.ParseUint(string(rest[:digits]), 10, 64)
	if err != nil {
		return l, errForm
	}
	for _, c := range l.body {
		if c < 0x20 || c > 0x7e {
			return l, errForm
		}
	}
	return l, nil
}

// parseHex reads 64 lower-case digits: upper case would be a second spelling of the same line.
func parseHex[T string | []byte](s T) (out [32]byte, ok bool) {
	if len(s) != 64 {
		return out, false
	}
	for i := range out {
		high, low := hexDigit[s[2*i]], hexDigit[s[2*i+1]]
		if high|low > 15 {
			return out, false
		}
		out[i] = high<<4 | low
	}
	return out, true
}

var hexDigit = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range []byte("0123456789abcdef") {
		t[c] = byte(i)
	}
	return t
}()

// sealKey encrypts the first key of a stream to the recovery key.
func sealKey(to age.Recipient, key *[32]byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(key[:]); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func unsealKey(sealed []byte, with []age.Identity) (key [32]byte, err error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), with...)
	if err != nil {
		return key, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, 33))
	if err == nil && len(plain) != len(key) {
		err = errForm
	}
	copy(key[:], plain)
	clear(plain)
	return key, err
}

func parseRecoveryKey(text string) ([]age.Identity, error) {
	id, err := age.ParseX25519Identity(strings.TrimSpace(text))
	if err != nil {
		return nil, &KeyError{"recovery", "it is malformed"} // the cause could quote a part of it
	}
	return []age.Identity{id}, nil
}

func equal(a, b *[32]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

// A FirstKey is the key of the first record of a stream, in hex. Whoever has it can check the stream with any program,
// and could forge it: it is for a stream that has ended.
type FirstKey struct {
	Stream string `json:"stream"`
	Key    string `json:"key"`
}

// FirstKeys unseals the first keys of the streams in dir.
func FirstKeys(dir, recoveryKey string) ([]FirstKey, error) {
	identities, err := parseRecoveryKey(recoveryKey)
	if err != nil {
		return nil, fmt.Errorf("read audit keys: %w", err)
	}
	streams, _, err := scan(dir)
	if err != nil {
		return nil, fmt.Errorf("read audit keys: %w", err)
	}
	var keys []FirstKey
	for _, s := range streams {
		f, _, err := segment.Read(s.path(dir, 1))
		if err != nil {
			return nil, fmt.Errorf("read audit keys: %w", err)
		}
		text, err := firstLine(f)
		f.Close()
		o, parseErr := parseOpening(text, s.id)
		if err != nil || parseErr != nil {
			continue
		}
		sealed, _ := base64.StdEncoding.DecodeString(o.Key)
		key, err := unsealKey(sealed, identities)
		if err != nil {
			return nil, fmt.Errorf("read audit keys: stream %q: %w", s.id, &KeyError{"recovery", "it does not open this stream"})
		}
		keys = append(keys, FirstKey{s.id, hex.EncodeToString(key[:])})
	}
	return keys, nil
}

// A lineReader reads lines of up to maxLine bytes without keeping more than one in memory.
type lineReader struct {
	r    *bufio.Reader
	long []byte
}

func newLineReader() *lineReader { return &lineReader{r: bufio.NewReaderSize(nil, 64<<10)} }

func (l *lineReader) reset(r io.Reader) { l.r.Reset(r) }

// next returns a line with its line feed, valid until the next call; io.ErrUnexpectedEOF where the last one has none.
func (l *lineReader) next() ([]byte, error) {
	text, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], text...)
		for errors.Is(err, bufio.ErrBufferFull) && len(l.long) <= maxLine {
			text, err = l.r.ReadSlice('\n')
			l.long = append(l.long, text...)
		}
		text = l.long
		if len(text) > maxLine {
			return nil, errForm
		}
	}
	if errors.Is(err, io.EOF) && len(text) > 0 {
		return text, io.ErrUnexpectedEOF
	}
	return text, err
}

// rest returns how many bytes are left.
func (l *lineReader) rest() int64 {
	n, _ := io.Copy(io.Discard, l.r)
	return n
}
