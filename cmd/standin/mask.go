package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"standin/grant/scrub"
	"standin/launch"
)

// masks stand between a command and what it prints to: values that were delivered
// to it become their placeholders. The nil masks are none.
type masks struct {
	theirs  []*os.File // the command's ends
	ours    []*os.File
	copying sync.WaitGroup
}

// masks puts pipes in place of the command's outputs that are no terminals, if it
// is asked for and there is something to mask.
func (r *running) masks(o *outfit, spec *launch.Spec) (*masks, error) {
	if !r.f.mask || len(o.Delivered) == 0 {
		return nil, nil
	}
	var values []scrub.Value
	for placeholder, value := range o.Delivered {
		values = append(values, scrub.Value{Text: value, Placeholder: placeholder})
	}
	m := &masks{}
	scrubber := scrub.New(values)
	for _, file := range []**os.File{&spec.Stdout, &spec.Stderr} {
		to := *file
		if term.IsTerminal(int(to.Fd())) {
			continue
		}
		ours, theirs, err := os.Pipe()
		if err != nil {
			m.started()
			m.close()
			return nil, fmt.Errorf("mask output: %w", err)
		}
		m.ours, m.theirs = append(m.ours, ours), append(m.theirs, theirs)
		*file = theirs
		m.copying.Go(func() {
			mask(to, ours, scrubber)
			ours.Close()
		})
	}
	return m, nil
}

// started lets go of the command's ends, so that their end is seen.
func (m *masks) started() {
	if m == nil {
		return
	}
	for _, file := range m.theirs {
		file.Close()
	}
}

// lastOutput is how long what the command left behind may go on to print.
const lastOutput = 2 * time.Second

// close waits for the rest of the output.
func (m *masks) close() {
	if m == nil {
		return
	}
	for _, file := range m.ours {
		_ = file.SetReadDeadline(time.Now().Add(lastOutput)) // fails where it was closed, at its end
	}
	m.copying.Wait()
}

// maskPatience is how long the beginning of what could be a value is held back: a
// prompt must not wait for what its reader types.
const maskPatience = 200 * time.Millisecond

// mask copies, with placeholders where values stand, however the output is cut.
func mask(to, from *os.File, values *scrub.Scrubber) {
	chunks := make(chan []byte)
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				chunks <- b[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	patience := time.NewTimer(maskPatience)
	defer patience.Stop()
	body := scrub.Body{Scrubber: values}
	defer body.Free()
	put := func(out []byte) {
		if _, err := to.Write(out); err != nil {
			from.Close() // the command learns of it as it would without a mask
		}
	}
	for {
		select {
		case chunk, ok := <-chunks:
			for len(chunk) > 0 {
				n := copy(body.Room(), chunk)
				put(body.Take(n, false))
				chunk = chunk[n:]
			}
			if !ok {
				body.Room()
				put(body.Take(0, true))
				return
			}
			patience.Reset(maskPatience)
		case <-patience.C:
			if body.Waits() {
				put(body.Release())
			}
		}
	}
}
