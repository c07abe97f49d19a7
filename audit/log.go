package audit

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"filippo.io/age"

	"standin/audit/segment"
)

const (
	noteDelay   = 100 * time.Millisecond // after which a noted record is made durable even if nobody waits
	retryDelay  = 100 * time.Millisecond // between two attempts to write again
	checkEvery  = 250 * time.Millisecond // between two looks at whether the file is still where it was
	maxJump     = 2 * time.Second        // between the two clocks, from one record to the next
	manyNotes   = 64 << 10               // bytes that do not wait for the delay
	maxPending  = 1 << 20                // bytes that wait for the disk; then Note waits, or fails
	segmentSize = 64 << 20
)

// A Log is a stream that this process writes. It is safe for concurrent use.
type Log struct {
	dir    string
	stream string
	prints [32]byte // key of fingerprints
	config Config
	start  time.Time

	wake     chan struct{}
	due      *time.Timer // when notes have waited long enough
	finished chan struct{}

	mu       sync.Mutex
	room     sync.Cond // signalled when pending was taken
	pending  *batch
	armed    bool // due is running
	enough   int  // how many must wait before the writer, which gathers them, is roused
	flood    flood
	drift    time.Duration // wall clock minus monotonic clock at the last record
	down     error         // why nothing can be written now
	retryAt  time.Time
	full     bool // while down, as many notes are kept as may be
	closing  bool
	anchor   Anchor
	newest   string    // stream that was seen in the directory
	looked   time.Time // when the directory had changed last
	live     [32]byte  // proves that this log is alive at its anchor; zero after Close
	closeErr error
}

// A batch is what goes to the disk together.
type batch struct {
	bodies  []byte // of the records, without seq
	ends    []int  // where each ends
	noted   []bool // nobody waits for it: it must not get lost
	waiting int
	result  *result // nil while nobody waits
}

// A result is what those who wait for a batch wait for; the batch itself is used again meanwhile.
type result struct {
	done chan struct{}
	err  error
}

func (b *batch) add(end int, noted bool) {
	b.ends = append(b.ends, end)
	b.noted = append(b.noted, noted)
	if !noted {
		b.waiting++
	}
}

func (b *batch) body(i int) []byte {
	if i == 0 {
		return b.bodies[:b.ends[0]]
	}
	return b.bodies[b.ends[i-1]:b.ends[i]]
}

func (b *batch) reset() {
	*b = batch{bodies: b.bodies[:0], ends: b.ends[:0], noted: b.noted[:0]}
}

// Open begins a new stream in dir, which it makes where it is missing. Without both keys, or in a directory that is not
// private, there is no log.
func Open(dir string, keys Keys, config Config) (*Log, error) {
	return open(dir, keys, config, createSegment)
}

func createSegment(dir, name string) (file, error) { return segment.Create(dir, name) }

func open(dir string, keys Keys, config Config, create func(dir, name string) (file, error)) (*Log, error) {
	now := (&Log{config: config}).wall()
	checked, err := config.Retain.checked(dir, keys.Vault, now)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	b, err := prepare(dir, keys, config)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	b.create = create
	defer b.unlock.Close()
	defer clear(b.vault[:])
	streams, _, err := scan(dir)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	b.opening.Retired, err = config.Retain.choose(dir, streams, now)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	b.opening.Retired = slices.DeleteFunc(b.opening.Retired, func(t tip) bool { return !slices.Contains(checked, t) })
	l, err := b.begin(streams)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	remove(dir, streams, b.opening.Retired)
	return l, nil
}

// A beginning is a log that has no file yet.
type beginning struct {
	log      *Log
	opening  opening
	vault    [32]byte // key of opening records
	recovery age.Recipient
	create   func(dir, name string) (file, error)
	unlock   interface{ Close() error }
}

func prepare(dir string, keys Keys, config Config) (*beginning, error) {
	if len(keys.Vault) != 32 || [32]byte(keys.Vault) == [32]byte{} {
		return nil, &KeyError{"vault", "it is missing"}
	}
	if keys.Recovery == "" {
		return nil, &KeyError{"recovery", "its public half is missing"}
	}
	recovery, err := age.ParseX25519Recipient(keys.Recovery)
	if err != nil {
		return nil, &KeyError{"recovery", "its public half is malformed"}
	}
	if config.SegmentBytes <= 0 {
		config.SegmentBytes = segmentSize
	}
	if err := segment.PrivateDir(dir); err != nil {
		return nil, err
	}
	unlock, err := segment.Lock(filepath.Join(dir, lockName), lockWait)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, config: config, start: time.Now(), prints: subkey(keys.Vault, fingerprintLabel),
		wake: make(chan struct{}, 1), due: time.NewTimer(time.Hour), finished: make(chan struct{}), pending: &batch{}}
	l.room.L = &l.mu
	l.flood.init()
	return &beginning{log: l, vault: subkey(keys.Vault, openingLabel), recovery: recovery, create: createSegment, unlock: unlock}, nil
}

// begin writes the opening record and starts the writer.
func (b *beginning) begin(streams []*stream) (*Log, error) {
	l, o := b.log, &b.opening
	newest, err := newestVouched(l.dir, streams, &b.vault, o.Archive != nil)
	if err == nil {
		err = errors.Join(b.watchVault(newest), b.follow(streams, newest))
	}
	if err != nil {
		return nil, err
	}
	o.Stream, o.Version, o.Process = l.stream, l.config.Version, self()
	if o.Archive == nil {
		o.Reason = l.config.Reason
	}
	if err := o.present(l.dir, streams, &b.vault); err != nil {
		return nil, err
	}
	first := point{seq: 1}
	rand.Read(first.key[:])
	sealed, err := sealKey(b.recovery, &first.key)
	if err != nil {
		return nil, err
	}
	o.Key = base64.StdEncoding.EncodeToString(sealed)
	wall := l.wall()
	l.drift = wall.Sub(l.start.Round(0))
	w := &writer{log: l, create: b.create, chain: newChain(first)}
	text := w.chain.link(appendOpening(nil, o, wall, &b.vault), 0)
	clear(first.key[:])
	if len(text) > maxLine {
		return nil, fmt.Errorf("commit to %d streams: too many for one record", len(streams))
	}
	if err := w.begin(text); err != nil {
		w.chain.wipe()
		return nil, err
	}
	l.anchor, l.live = anchorOf(l.stream, 1, text, wall), w.chain.liveKey()
	go w.run()
	return l, nil
}

func self() Process {
	exe, _ := os.Executable()
	return Process{PID: os.Getpid(), Exe: exe, UID: os.Getuid()}
}

func (l *Log) wall() time.Time {
	if l.config.Now != nil {
		return l.config.Now().Round(0)
	}
	return time.Now().Round(0)
}

// Append returns when the record is durable. Any error means that it may not be, so what it would record must not happen:
// *UnavailableError, also where ctx ended. A refusal that is part of a flood is counted, and its number recorded within
// seconds; Append then returns nil at once. r may be used again after the return.
func (l *Log) Append(ctx context.Context, r *Record) error {
	l.mu.Lock()
	if l.down != nil && time.Now().Before(l.retryAt) {
		defer l.mu.Unlock()
		return &UnavailableError{l.dir, l.down}
	}
	counted, err := l.add(r, false)
	result := l.pending.result
	rouse := l.pending.waiting >= l.enough
	l.mu.Unlock()
	if err != nil {
		return &UnavailableError{l.dir, err}
	}
	if counted {
		return nil
	}
	if rouse {
		l.signal()
	}
	select {
	case <-result.done:
	case <-ctx.Done():
		return &UnavailableError{l.dir, ctx.Err()}
	}
	if result.err != nil {
		return &UnavailableError{l.dir, result.err}
	}
	return nil
}

// Note puts the record in its place in the chain and returns; it is durable with the next batch, within about 100 ms.
// A record that was accepted is not dropped when the disk fails: it is written when the log recovers. Note waits while
// very much is pending, and returns *UnavailableError where the log is down and can keep no more, or is closed.
func (l *Log) Note(r *Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.down == nil && !l.closing && len(l.pending.bodies) > maxPending {
		l.room.Wait()
	}
	if l.down != nil && (l.full || len(l.pending.bodies) > maxPending) {
		return &UnavailableError{l.dir, l.down}
	}
	if _, err := l.add(r, true); err != nil {
		return &UnavailableError{l.dir, err}
	}
	if len(l.pending.bodies) >= manyNotes {
		l.signal()
	}
	return nil
}

// add encodes the record into the pending batch, or counts it. It is called with mu held.
func (l *Log) add(r *Record, noted bool) (counted bool, err error) {
	if l.closing {
		return false, ErrClosed
	}
	now := time.Now()
	if l.flood.counts(r, now) {
		l.arm()
		return true, nil
	}
	if r.Type == TypeClose {
		l.summarise(now, r.Session)
	}
	return false, l.encode(r, now, noted)
}

func (l *Log) encode(r *Record, now time.Time, noted bool) error {
	p := l.pending
	wall, mono := now.Round(0), now.Sub(l.start)
	if l.config.Now != nil {
		wall = l.wall()
	}
	start := len(p.bodies)
	drift := wall.Sub(l.start.Round(0)) - mono
	if jump := drift - l.drift; jump > maxJump || jump < -maxJump {
		p.bodies = appendNumber(appendHead(p.bodies, wall, mono, typeClockJump), "jump_ms", jump.Milliseconds())
		p.add(len(p.bodies), true)
		start = len(p.bodies)
	}
	l.drift = drift
	p.bodies = appendRecord(p.bodies, wall, mono, r)
	if len(p.bodies)-start > maxRecord {
		p.bodies = p.bodies[:start]
		return errors.New("the record is too long")
	}
	p.add(len(p.bodies), noted)
	switch {
	case noted:
		l.arm()
	case p.result == nil:
		p.result = &result{done: make(chan struct{})}
	}
	return nil
}

func (l *Log) arm() {
	if !l.armed {
		l.armed = true
		l.due.Reset(noteDelay)
	}
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Fingerprint names a value by a key that never leaves the vault and this process: 16 hex digits.
// After Close it is empty.
func (l *Log) Fingerprint(value []byte) string {
	l.mu.Lock()
	key, closed := l.prints, l.prints == [32]byte{}
	l.mu.Unlock()
	if closed {
		return ""
	}
	defer clear(key[:])
	return fingerprint(&key, value)
}

// Anchor returns the last durable record; after Close, the seal.
func (l *Log) Anchor() Anchor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.anchor
}

// Mark records that the log is alive, and sends the new anchor to the journal.
func (l *Log) Mark(ctx context.Context) (Anchor, error) {
	if err := l.Append(ctx, &Record{Type: TypeMark}); err != nil {
		return Anchor{}, err
	}
	a := l.Anchor()
	if l.config.Journal != nil {
		if err := l.config.Journal.Send(a); err != nil {
			return a, fmt.Errorf("send anchor to the journal: %w", err)
		}
	}
	return a, nil
}

// Close writes what is pending and the seal, and forgets the keys. A second Close returns what the first returned.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closing
	if first {
		now := time.Now()
		l.summarise(now, "")
		_ = l.encode(&Record{Type: typeSeal}, now, true)
		l.closing = true
		l.room.Broadcast()
	}
	l.mu.Unlock()
	l.signal()
	<-l.finished
	l.mu.Lock()
	clear(l.prints[:])
	clear(l.live[:])
	l.mu.Unlock()
	if first && l.closeErr == nil && l.config.Journal != nil {
		_ = l.config.Journal.Send(l.Anchor()) // the journal is one witness of several; the log is whole without it
	}
	return l.closeErr
}

func anchorOf(stream string, seq uint64, text []byte, at time.Time) Anchor {
	tail := text[len(text)-suffixLen:]
	mac := tail[len(hOpen)+64+len(macOpen):]
	return Anchor{Stream: stream, Seq: seq, H: string(tail[len(hOpen) : len(hOpen)+64]), MAC: string(mac[:64]), Time: at}
}
