package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"standin/audit/segment"
)

const (
	reserveAhead = 256 << 10   // half of it is always there for substitutions
	noteRetry    = time.Second // between attempts that only notes wait for
	gatherWrites = 8           // for how many writes a batch waits for others, at most
	gatherMost   = 2 * time.Millisecond
	maxCrowd     = 32 // beyond it a share of a write costs next to nothing

	endedFull   = "full" // why a segment was followed by another
	endedFailed = "failed"
)

// A file is a segment being written; *segment.File, but in tests of what happens when a disk fails.
type file interface {
	Append(b []byte) error
	Reserve(ahead int64) error
	Check() error
	Size() int64
	GiveUp()
	Trim()
	Remove() error
	Close() error
}

// A writer is the one goroutine that writes a stream. Only it knows the chain and its key.
type writer struct {
	log    *Log
	create func(dir, name string) (file, error)
	dir    os.FileInfo   // the directory that the stream was opened in
	first  file          // kept open: its lock says that the stream is being written
	file   file          // nil after a failure
	lost   bool          // file is not where it was; nothing is written until it is back
	number int           // of the segment
	crowd  int           // how many callers there are, by what the last writes saw
	took   time.Duration // the last write
	chain  *chain

	kept    batch // notes of batches that failed
	out     []byte
	low     bool
	checked time.Time
	rotated time.Time // when a rotation failed
	tried   int       // highest number of a segment whose making failed
	givenUp uint64    // records of the batch that failed
	cause   error
}

// begin makes the first file, with the opening record in it.
func (w *writer) begin(text []byte) error {
	f, err := w.create(w.log.dir, segmentName(w.log.stream, 1))
	if err != nil {
		return err
	}
	if err := f.Append(text); err != nil {
		f.GiveUp()
		_ = f.Remove()
		return err
	}
	if w.dir, err = os.Lstat(w.log.dir); err != nil {
		_ = f.Close()
		return err
	}
	w.first, w.file, w.number = f, f, 1
	w.reserve()
	return nil
}

func segmentName(stream string, n int) string { return fmt.Sprintf("%s-%06d.jsonl", stream, n) }

func (w *writer) run() {
	l := w.log
	defer close(l.finished)
	defer w.end()
	spare := &batch{}
	for {
		due := false
		select {
		case <-l.wake:
		case <-l.due.C:
			due = true
		}
		l.mu.Lock()
		closing := l.closing
		if due {
			l.armed = false
			w.summaries()
		}
		b := l.pending
		if !due && !closing && b.waiting == 0 && len(b.bodies) < manyNotes {
			l.mu.Unlock()
			continue
		}
		if b.waiting > 0 && !closing {
			w.gather()
			b = l.pending
		}
		l.pending, spare = spare, b
		l.room.Broadcast()
		l.mu.Unlock()
		began := time.Now()
		err := w.commit(b)
		w.took = time.Since(began)
		w.count(b.waiting)
		b.reset()
		if closing {
			l.closeErr = err
			return
		}
	}
}

// count estimates how many callers there are: those that the last write has just released, and those who came while it
// lasted, are not the same. The estimate falls slowly, since a caller may be late once.
func (w *writer) count(released int) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	w.crowd = min(max(released+l.pending.waiting, w.crowd-w.crowd/8-1), maxCrowd)
}

// gather waits until all are there who lately were: the callers would else fall into groups, and each group have a
// write to itself while the others wait for it. A write costs more than anything else about a record. Who is alone
// never waits. It is called with mu held.
func (w *writer) gather() {
	l := w.log
	if l.pending.waiting >= w.crowd {
		return
	}
	l.enough = w.crowd
	timer := time.NewTimer(min(gatherWrites*w.took, gatherMost))
	defer timer.Stop()
	for late := false; !late && l.pending.waiting < l.enough && !l.closing; {
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-timer.C:
			late = true
		}
		l.mu.Lock()
	}
	l.enough = 0
}

// summaries writes out what was only counted, once a second, and sees to it that this function is called again.
func (w *writer) summaries() {
	l := w.log
	now := time.Now()
	if !l.flood.counted || l.closing {
		return
	}
	if now.Sub(l.flood.last) >= floodEvery {
		l.summarise(now, "")
	}
	l.arm()
}

// commit makes the batch durable and releases those who wait for it.
func (w *writer) commit(b *batch) error {
	err := w.write(b)
	l := w.log
	l.mu.Lock()
	closing := l.closing // then the seal is in this batch, and nothing may stand behind it
	l.down = err
	if err != nil {
		l.retryAt = time.Now().Add(retryDelay)
		l.full = len(w.kept.bodies) > maxPending
		if len(w.kept.ends) > 0 {
			l.armed = true // tries again without being asked: what was accepted must get out
			l.due.Reset(noteRetry)
		}
		l.room.Broadcast()
	}
	l.mu.Unlock()
	if b.result != nil {
		b.result.err = err
		close(b.result.done)
	}
	if err == nil && len(b.ends) > 0 {
		w.reserve()
		if w.file.Size() >= l.config.SegmentBytes && !closing {
			w.rotate()
		}
	}
	return err
}

func (w *writer) write(b *batch) error {
	if err := w.ready(); err != nil {
		w.keep(b)
		return err
	}
	if len(b.ends)+len(w.kept.ends) == 0 {
		return nil
	}
	before := w.chain.point
	w.out = w.out[:0]
	for _, part := range []*batch{&w.kept, b} {
		for i := range part.ends {
			start := len(w.out)
			w.out = w.chain.begin(w.out)
			w.out = append(w.out, part.body(i)...)
			w.out = w.chain.link(w.out, start)
		}
	}
	if err := w.file.Append(w.out); err != nil {
		w.givenUp, w.cause = w.chain.seq-before.seq, err
		w.chain.point = before
		w.abandon()
		w.keep(b)
		return err
	}
	clear(before.key[:])
	w.kept.reset()
	if cap(w.out) > 4*maxPending {
		defer func() { w.out = nil }()
	}
	w.durable(w.out)
	return nil
}

// durable moves the anchor to the last line of text.
func (w *writer) durable(text []byte) {
	l := w.log
	a := anchorOf(l.stream, w.chain.seq-1, text, l.wall())
	live := w.chain.liveKey()
	l.mu.Lock()
	l.anchor, l.live = a, live
	l.mu.Unlock()
	clear(live[:])
}

// keep saves the notes of a batch that failed; who waited is told, and asks again or does without.
func (w *writer) keep(b *batch) {
	for i := range b.ends {
		if b.noted[i] {
			w.kept.bodies = append(w.kept.bodies, b.body(i)...)
			w.kept.add(len(w.kept.bodies), true)
		}
	}
}

// ready sees to it that there is a file to write to, and that it is still the one in the directory.
func (w *writer) ready() error {
	now := time.Now()
	if w.file != nil && !w.lost && now.Sub(w.checked) < checkEvery {
		return nil
	}
	w.checked = now
	if w.file != nil {
		// A file that was taken away is not made good by a new one: somebody has laid hands on the log.
		err := w.file.Check()
		w.lost = err != nil
		return err
	}
	return w.next(endedFailed)
}

// next begins the next segment; its first record commits to the last one of the segment before.
func (w *writer) next(ended string) error {
	l := w.log
	if now, err := os.Lstat(l.dir); err != nil || !os.SameFile(now, w.dir) {
		return &segment.LostError{Path: l.dir, Problem: "the directory is gone or was replaced"}
	}
	n := max(w.number, w.tried) + 1
	before := w.chain.point
	text := appendHead(w.chain.begin(nil), l.wall(), time.Since(l.start), typeSegment)
	text = fmt.Appendf(text, `,"stream":"%s","segment":%d,"after":{"segment":%d,"seq":%d,"h":"%x"},"ended":"%s"`,
		l.stream, n, w.number, before.seq-1, before.h, ended)
	if ended == endedFailed {
		text = appendNumber(text, "given_up", int64(w.givenUp))
		text = appendText(text, "reason", w.cause.Error())
	}
	text = w.chain.link(text, 0)
	f, err := w.place(n, text)
	if err != nil {
		w.chain.point = before
		return err
	}
	clear(before.key[:])
	w.leave()
	w.file, w.number = f, n
	w.durable(text)
	return nil
}

// place makes segment n with its first line. A file that was touched in vain costs its number: nothing must be mistaken
// for what a broken disk may still bring back under its name.
func (w *writer) place(n int, text []byte) (file, error) {
	f, err := w.create(w.log.dir, segmentName(w.log.stream, n))
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			w.tried = n
		}
		return nil, err
	}
	if err := f.Append(text); err != nil {
		w.tried = n
		f.GiveUp()
		_ = f.Remove()
		return nil, err
	}
	return f, nil
}

// rotate begins a new segment where the current one is long enough. If that fails the current one grows on.
func (w *writer) rotate() {
	if time.Since(w.rotated) < time.Second {
		return
	}
	if w.next(endedFull) != nil {
		w.rotated = time.Now()
		return
	}
	w.reserve()
}

// abandon never touches the file again after a failed write or sync: what the kernel still knows of it is uncertain.
func (w *writer) abandon() {
	w.file.GiveUp()
	if w.file != w.first {
		_ = w.file.Close()
	}
	w.file = nil
}

// leave closes the file that a full segment ends with. The first one stays open for its lock.
func (w *writer) leave() {
	if w.file == nil {
		return
	}
	w.file.Trim()
	if w.file != w.first {
		_ = w.file.Close()
	}
}

// reserve keeps space for substitutions; while it cannot, refusals are only counted.
func (w *writer) reserve() {
	low := w.file.Reserve(reserveAhead) != nil
	if low != w.low {
		w.low = low
		w.log.mu.Lock()
		w.log.flood.low = low
		w.log.mu.Unlock()
	}
}

func (w *writer) end() {
	w.chain.wipe()
	clear(w.out)
	w.leave()
	_ = w.first.Close()
}
