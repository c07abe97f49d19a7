package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestALargeHeapIsCollectedSooner(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 3 << 20: 400, 6 << 20: 200, 16 << 20: 75, 1 << 30: 75} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d bytes alive it may grow by %d %%, want %d", live, got, want)
		}
	}
}

// The pace follows the heap, in every collection.
func TestPaceFollowsTheHeap(t *testing.T) {
	defer debug.SetGCPercent(100)
	pace()
	percent := func() int { // by setting it, which the next collection does again
		before := debug.SetGCPercent(100)
		debug.SetGCPercent(before)
		return before
	}
	becomes := func(what string, holds func(int) bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !holds(percent()); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: the heap may grow by %d %%", what, percent())
			}
			runtime.GC()
		}
	}
	small := percent()
	large := make([]byte, 64<<20)
	becomes("64 MiB", func(percent int) bool { return percent == 75 })
	runtime.KeepAlive(large)
	becomes("without them", func(percent int) bool { return percent >= small && percent > 75 })
}
