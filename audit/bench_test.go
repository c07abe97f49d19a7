package audit

import (
	"context"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"standin/audit/segment"
)

// BenchmarkAppend counts durable appends a second with 1, 8 and 64 callers at once.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := newHouse(b).open(b, Config{})
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			start := time.Now()
			for range writers {
				all.Go(func() {
					r := substitution(1)
					for next.Add(1) <= int64(b.N) {
						if err := l.Append(context.Background(), r); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "appends/s")
		})
	}
}

// BenchmarkRecord is what a record costs besides the disk: encoding, chaining, MAC, next key.
func BenchmarkRecord(b *testing.B) {
	c, r, now := newChain(point{seq: 1}), substitution(1), time.Now()
	var buf, out []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendRecord(buf[:0], now, time.Second, r)
		out = append(c.begin(out[:0]), buf...)
		out = c.link(out, 0)
	}
}

// A quick file takes everything at once: what remains is the cost of the log itself.
type quick struct{ size int64 }

func (q *quick) Append(b []byte) error { q.size += int64(len(b)); return nil }
func (q *quick) Reserve(int64) error   { return nil }
func (q *quick) Check() error          { return nil }
func (q *quick) Size() int64           { return q.size }
func (q *quick) GiveUp()               {}
func (q *quick) Trim()                 {}
func (q *quick) Remove() error         { return fs.ErrInvalid }
func (q *quick) Close() error          { return nil }

func BenchmarkAppendWithoutDisk(b *testing.B) {
	h := newHouse(b)
	l, err := open(h.dir, h.keys, Config{SegmentBytes: 1 << 50}, func(string, string) (file, error) { return &quick{}, nil })
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := substitution(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNote(b *testing.B) {
	h := newHouse(b)
	l, err := open(h.dir, h.keys, Config{SegmentBytes: 1 << 50}, func(string, string) (file, error) { return &quick{}, nil })
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := substitution(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Note(r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDisk is the reference for BenchmarkAppend: the same bytes, written and synced with nothing around them.
func BenchmarkDisk(b *testing.B) {
	f, err := segment.Create(b.TempDir(), "reference")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	line := make([]byte, 700)
	b.ResetTimer()
	start := time.Now()
	for range b.N {
		if err := f.Append(line); err != nil {
			b.Fatal(err)
		}
		f.Reserve(256 << 10)
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "appends/s")
}

// BenchmarkMillion verifies and searches a log of a million records, and reports the most heap in use meanwhile.
func BenchmarkMillion(b *testing.B) {
	h := newHouse(b)
	l := h.open(b, Config{})
	for i := range 1_000_000 {
		r := substitution(i)
		if i%1000 != 0 {
			r.Uses[0].Secret = "other"
		}
		if err := l.Note(r); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for name, work := range map[string]func() error{
		"verify": func() error {
			r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery})
			if err == nil && r.Code != Unproven {
				b.Fatalf("code %d: %v", r.Code, r.Problems)
			}
			return err
		},
		"query one secret": func() error { return Query(h.dir, Filter{Secret: "github"}, func(*Entry) error { return nil }) },
		"query everything": func() error { return Query(h.dir, Filter{}, func(*Entry) error { return nil }) },
	} {
		b.Run(name, func(b *testing.B) {
			peak := watchHeap()
			for b.Loop() {
				if err := work(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(peak(), "heap-MiB")
		})
	}
}

// watchHeap returns a function that gives the most heap in use since.
func watchHeap() func() float64 {
	stop, result := make(chan struct{}), make(chan float64)
	runtime.GC()
	go func() {
		var peak uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			select {
			case <-stop:
				result <- float64(peak) / (1 << 20)
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() float64 { close(stop); return <-result }
}
