package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
)

// early takes the signals of this process from before a session is opened: what
// is open then is ended in order, and on record, and not by a signal's default
// action. They stay taken.
type early struct {
	taken    chan os.Signal
	ctx      context.Context // ends with a signal that asks for it
	end      context.CancelCauseFunc
	stop     chan struct{}
	watching sync.WaitGroup
}

// interruption is the signal that ended the context of an early.
type interruption struct{ number syscall.Signal }

func (i interruption) Error() string { return "ended by a signal: " + i.number.String() }

// endingSignals ask a process to end.
var endingSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// takeSignals begins to take signals.
func takeSignals(signals []os.Signal) *early {
	keepBrokenPipes()
	e := &early{taken: make(chan os.Signal, 32), stop: make(chan struct{})}
	e.ctx, e.end = context.WithCancelCause(context.Background())
	signal.Notify(e.taken, signals...)
	e.watching.Go(e.watch)
	return e
}

func (e *early) watch() {
	for {
		select {
		case <-e.stop:
			return
		case got := <-e.taken:
			if slices.Contains(endingSignals, got) {
				e.end(interruption{got.(syscall.Signal)})
			}
		}
	}
}

// await waits until ended is closed, or a signal asks this process to end.
func (e *early) await(ended <-chan struct{}) {
	select {
	case <-ended:
	case <-e.ctx.Done():
	}
}

// handOver gives what comes from now on to whoever asks for it. Call it once.
func (e *early) handOver() chan os.Signal {
	close(e.stop)
	e.watching.Wait()
	return e.taken
}

// code is what a process ends with that was ended by the signal that came, or 0.
func (e *early) code() int {
	if i, ok := context.Cause(e.ctx).(interruption); ok {
		return 128 + int(i.number)
	}
	return 0
}
