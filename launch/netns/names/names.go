// Package names answers, in a room without a network, every question for the
// address of a name, so that clients go on and connect: the name itself is
// judged when they do.
//
// It resolves nothing, passes nothing on, and keeps no question: a name that is
// asked for reaches nobody. Each name gets an address of its own, since clients
// use one HTTP/2 connection for names that share one.
package names

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of what a command can make it hold.
const (
	maxNames    = 1 << 16 // that get an address which no other has
	maxStreams  = 64
	streamQuiet = 5 * time.Second
	ttl         = 60 // seconds
)

// Addresses that mean nothing: 198.18.0.0/15 is for measurements within one
// network (RFC 2544), fd00::/8 is local (RFC 4193).
const first4, count4 = uint32(198<<24 | 18<<16), uint32(1 << 17)

var prefix6 = [8]byte{0xfd, 's', 't', 'a', 'n', 'd', 'i', 'n'}

// Answers gives names their addresses. It may be used concurrently.
type Answers struct {
	mu    sync.Mutex
	names map[string]uint32
	taken map[uint32]bool
}

// New makes Answers without a name.
func New() *Answers { return &Answers{names: map[string]uint32{}, taken: map[uint32]bool{}} }

// Addresses are those of a name, one of each family.
func (a *Answers) Addresses(name string) (four, six netip.Addr) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761, 6.3
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // a hash takes all
	sum := h.Sum64()
	var wide [16]byte
	copy(wide[:], prefix6[:])
	binary.BigEndian.PutUint64(wide[8:], sum)
	return a.four(name, sum), netip.AddrFrom16(wide)
}

func (a *Answers) four(name string, sum uint64) netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, known := a.names[name]
	if !known {
		at = uint32(sum) % count4
		if len(a.names) < maxNames {
			for a.taken[at] || at == 0 || at == count4-1 {
				at = (at + 1) % count4
			}
			a.names[name], a.taken[at] = at, true
		}
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], first4+at)
	return netip.AddrFrom4(b)
}

// answer answers one message.
func (a *Answers) answer(message []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(message)
	if err != nil {
		return nil, err
	}
	if head.Response {
		return nil, errors.New("it is no question")
	}
	out := dnsmessage.Header{ID: head.ID, Response: true, OpCode: head.OpCode, RecursionDesired: head.RecursionDesired, RecursionAvailable: true}
	if head.OpCode != 0 {
		out.RCode = dnsmessage.RCodeNotImplemented
		b := dnsmessage.NewBuilder(nil, out)
		return b.Finish()
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, out)
	b.EnableCompression()
	if err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers()); err != nil {
		return nil, err
	}
	if q.Class == dnsmessage.ClassINET {
		four, six := a.Addresses(q.Name.String())
		record := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}
		switch q.Type {
		case dnsmessage.TypeA:
			err = b.AResource(record, dnsmessage.AResource{A: four.As4()})
		case dnsmessage.TypeAAAA:
			err = b.AAAAResource(record, dnsmessage.AAAAResource{AAAA: six.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// ServePackets answers over UDP until the connection is closed. The address
// that a question was for comes as ancillary data, and goes back with the
// answer, so that this is where it comes from.
func (a *Answers) ServePackets(conn net.PacketConn) error {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return errors.New("answer names: not a UDP socket")
	}
	message, extra := make([]byte, 4096), make([]byte, 256)
	for {
		n, extras, _, from, err := udp.ReadMsgUDPAddrPort(message, extra)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue // that of an answer before, which nobody took
		}
		if out, err := a.answer(message[:n]); err == nil {
			_, _, _ = udp.WriteMsgUDPAddrPort(out, extra[:extras], from) // who asked may be gone
		}
	}
}

// ServeStreams answers over TCP until the listener is closed, and waits for
// what it started.
func (a *Answers) ServeStreams(l net.Listener) error {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, maxStreams)
	for {
		free <- struct{}{}
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			<-free
			time.Sleep(10 * time.Millisecond) // too many descriptors are open
			continue
		}
		running.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			for a.stream(conn) == nil {
				continue
			}
		})
	}
}

// stream answers one question.
func (a *Answers) stream(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(streamQuiet)); err != nil {
		return err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, message); err != nil {
		return err
	}
	out, err := a.answer(message)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	return err
}
