package answer

import (
	"errors"
	"time"
)

const (
	// moment is how long a source may pause before what is held back is let go, and
	// longMoment how long when it is so much of a value that chance is out of the
	// question: networks lose packets, and take a second to notice.
	moment     = 500 * time.Millisecond
	longMoment = 1500 * time.Millisecond
	certain    = 8
	// opening is how long the first bytes of a coded body are waited for before the
	// answer begins: until then, one that is not what it says can be refused.
	opening = 3 * time.Second
	// soon is how long a piece of a body of known length may wait for more, so that
	// large bodies go on in large pieces.
	soon = 5 * time.Millisecond
	// enough is a piece that need not wait for more.
	enough = 32 << 10
)

// wait sets the clock before the source is read.
func (c *copier) wait() {
	c.due = time.Time{}
	waits := c.soon || c.stage.Waits() || c.opens()
	if !waits && c.how.Idle == 0 {
		return
	}
	now := time.Now()
	if waits {
		c.due = now.Add(c.patience())
	}
	if c.how.Idle > 0 {
		c.limit = now.Add(c.how.Idle)
	}
	c.set(now)
}

// opens says whether the answer waits to begin for the first bytes of a coded body.
func (c *copier) opens() bool { return !c.begun && !c.soon && c.coded() && !c.stage.Waits() }

// patience is how long what waits may wait.
func (c *copier) patience() time.Duration {
	switch {
	case c.soon:
		return soon
	case c.body.Held() >= certain:
		return longMoment
	}
	return moment
}

// set makes the clock ring in time. It is not set anew for every piece: one that
// rings early is set again.
func (c *copier) set(now time.Time) {
	next := c.limit
	if next.IsZero() || !c.due.IsZero() && c.due.Before(next) {
		next = c.due
	}
	switch {
	case next.IsZero():
	case c.clock == nil:
		c.clock = time.AfterFunc(next.Sub(now), c.ring)
		c.rings = next
	case c.rings.IsZero() || next.Before(c.rings):
		c.clock.Reset(next.Sub(now))
		c.rings = next
	}
}

// ring lets go of what has been held back for a moment, and gives up a source
// that has been idle for too long.
func (c *copier) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.fault != nil {
		return
	}
	defer func() {
		if recover() != nil {
			c.fault = errPanic
		}
	}()
	now := time.Now()
	c.rings = time.Time{}
	switch {
	case !c.limit.IsZero() && !now.Before(c.limit):
		c.fault = ErrIdle
		c.src.Close() // ends the read
		return
	case !c.due.IsZero() && !now.Before(c.due) && c.opens() && now.Sub(c.src.asked()) < opening:
		c.due = now.Add(moment) // it is not the source that takes long
	case !c.due.IsZero() && !now.Before(c.due):
		c.due = time.Time{}
		c.fault = c.late(now)
	}
	c.set(now)
}

// late is called when nothing has come for as long as something may wait for it.
func (c *copier) late(now time.Time) (err error) {
	switch {
	case c.soon:
		err = c.take(Pause)
		c.soon = false
		if c.stage.Waits() {
			c.due = now.Add(c.patience())
		}
	case c.stage.Waits():
		err = c.hand(c.stage.Release(), Pause)
	case !c.begun:
		c.begun = true
		err = c.sink.Pass(nil, Pause)
	}
	return err
}

var errPanic = errors.New("panic while a body was passed on")

// end stops the clock: nothing is handed on after it.
func (c *copier) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.clock != nil {
		c.clock.Stop()
	}
	c.stage.Free()
}
