package dial

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a connection that takes a write when it is told to.
type slow struct {
	net.Conn
	next   chan error // how the next write ends
	mu     sync.Mutex
	writes [][]byte
	closed bool
}

func (s *slow) Write(p []byte) (int, error) {
	if err := <-s.next; err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, bytes.Clone(p))
	return len(p), nil
}

func (s *slow) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *slow) SetWriteDeadline(time.Time) error { return nil }

func gathered(t *testing.T) (*Gathered, *slow) {
	t.Helper()
	s := &slow{next: make(chan error, 100)}
	g := NewGathered(s)
	g.Gather()
	return g, s
}

func write(t *testing.T, g *Gathered, text string) {
	t.Helper()
	if n, err := g.Write([]byte(text)); n != len(text) || err != nil {
		t.Errorf("write %q: %d, %v", text, n, err)
	}
}

func TestWhatIsWrittenDuringAWriteLeavesTogetherAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := gathered(t)
		write(t, g, "one ")
		synctest.Wait() // the first write is under way
		write(t, g, "two ")
		write(t, g, "three ")
		s.next <- nil
		s.next <- nil
		synctest.Wait()
		if len(s.writes) != 2 || string(s.writes[0]) != "one " || string(s.writes[1]) != "two three " {
			t.Errorf("the network was given %q", s.writes)
		}
	})
}

func TestALongWriteWaitsForTheShortOnesBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := gathered(t)
		write(t, g, "short")
		long := bytes.Repeat([]byte("x"), gatherShort+1)
		done := false
		go func() {
			write(t, g, string(long))
			done = true
		}()
		synctest.Wait()
		if done {
			t.Error("the long write returned before it was sent")
		}
		s.next <- nil
		s.next <- nil
		synctest.Wait()
		if !done || len(s.writes) != 2 || string(s.writes[0]) != "short" || !bytes.Equal(s.writes[1], long) {
			t.Errorf("returned %v; %d writes", done, len(s.writes))
		}
	})
}

func TestWritersWaitWhenTheNetworkTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := gathered(t)
		piece := string(bytes.Repeat([]byte("y"), gatherShort))
		written := 0
		go func() {
			for range 40 {
				write(t, g, piece)
				written++
			}
		}()
		synctest.Wait()
		if most := 2 * (gatherMost/gatherShort + 1); written > most { // in two buffers
			t.Errorf("%d writes of %d bytes returned though nothing was sent", written, gatherShort)
		}
		for range 40 {
			s.next <- nil
		}
		synctest.Wait()
		total := 0
		for _, w := range s.writes {
			total += len(w)
		}
		if written != 40 || total != 40*gatherShort {
			t.Errorf("%d writes returned, %d bytes were sent", written, total)
		}
	})
}

func TestAnErrorOfTheNetworkClosesTheConnectionAndIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := gathered(t)
		broken := errors.New("broken")
		write(t, g, "lost")
		s.next <- broken
		synctest.Wait()
		if !s.closed {
			t.Error("the connection is still open")
		}
		for _, size := range []int{1, gatherShort + 1} {
			if _, err := g.Write(make([]byte, size)); !errors.Is(err, broken) {
				t.Errorf("a later write of %d bytes: %v", size, err)
			}
		}
	})
}

func TestNothingIsGatheredUnderADeadlineNorBeforeItIsAskedFor(t *testing.T) {
	s := &slow{next: make(chan error, 100)}
	g := NewGathered(s)
	at := func(when string) {
		s.next <- io.ErrClosedPipe
		if _, err := g.Write([]byte("now")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v", when, err)
		}
	}
	at("before Gather")
	g.Gather()
	g.SetWriteDeadline(time.Now().Add(time.Hour))
	at("under a deadline")
}
