package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// spare is by how much the heap of a gateway may grow before it is collected. It
// is small and its garbage short-lived: collecting it at every doubling of a few
// MiB would cost a fifth of the time of a request. One that is larger, with many
// tunnels, may still grow by three quarters.
const spare = 12 << 20

// pace fits Go's runtime to a gateway.
func pace() {
	setSpare()
	// What nothing points to is finalised in every collection, if it asks again.
	var again func(*[16]*byte)
	again = func(sentinel *[16]*byte) {
		setSpare()
		runtime.SetFinalizer(sentinel, again)
	}
	runtime.SetFinalizer(new([16]*byte), again)
}

// setSpare says when the heap is collected next.
func setSpare() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(gcPercent(live[0].Value.Uint64()))
}

// gcPercent is by how much a heap may grow of which so many bytes live.
func gcPercent(live uint64) int {
	const least, most = 75, 400
	return int(min(max(spare*100/max(live, 1), least), most))
}

// besideProcessors is how many processors a gateway has that works beside the
// command which it serves: it leaves half of them to that. What a request costs
// most is threads that wake each other: with one processor of two a small request
// costs a fifth less, and takes no longer. 0 if $GOMAXPROCS says how many.
func besideProcessors() int {
	if os.Getenv("GOMAXPROCS") != "" {
		return 0
	}
	return max(1, runtime.GOMAXPROCS(0)/2)
}
