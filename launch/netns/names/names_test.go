package names

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func question(t testing.TB, name string, kind dnsmessage.Type, class dnsmessage.Class) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: class}}}
	text, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func ask(t testing.TB, a *Answers, name string, kind dnsmessage.Type) dnsmessage.Message {
	t.Helper()
	out, err := a.answer(question(t, name, kind, dnsmessage.ClassINET))
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(out); err != nil {
		t.Fatal(err)
	}
	if !m.Response || m.ID != 7 || m.RCode != dnsmessage.RCodeSuccess {
		t.Errorf("%s: %+v", name, m.Header)
	}
	return m
}

func TestEachNameHasAnAddressOfItsOwn(t *testing.T) {
	a := New()
	seen := map[string]string{}
	for _, name := range []string{"api.example.com.", "b.example.com.", "example.com.", "_odd.name.", "x.", "xn--bcher-kva.test."} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			m := ask(t, a, name, kind)
			if len(m.Answers) != 1 {
				t.Fatalf("%s has %d addresses", name, len(m.Answers))
			}
			address := m.Answers[0].Body.GoString()
			if other, taken := seen[address]; taken {
				t.Errorf("%s and %s share %s", name, other, address)
			}
			seen[address] = name
		}
	}
	four, six := a.Addresses("API.example.com")
	again := ask(t, a, "api.EXAMPLE.com.", dnsmessage.TypeA)
	if again.Answers[0].Body.(*dnsmessage.AResource).A != four.As4() {
		t.Error("a name has another address in another case")
	}
	if !netip.MustParsePrefix("198.18.0.0/15").Contains(four) || !netip.MustParsePrefix("fd00::/8").Contains(six) {
		t.Errorf("the addresses mean something: %v, %v", four, six)
	}
}

func TestOtherQuestionsHaveNoAnswer(t *testing.T) {
	a := New()
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeMX, dnsmessage.TypeTXT, dnsmessage.TypePTR, dnsmessage.TypeSRV, dnsmessage.TypeALL, 65} {
		if m := ask(t, a, "api.example.com.", kind); len(m.Answers) != 0 {
			t.Errorf("type %v is answered", kind)
		}
	}
	for _, malformed := range [][]byte{nil, {0}, question(t, "a.test.", dnsmessage.TypeA, dnsmessage.ClassINET)[:14]} {
		if out, err := a.answer(malformed); err == nil {
			t.Errorf("%x is answered: %x", malformed, out)
		}
	}
	own, err := a.answer(question(t, "a.test.", dnsmessage.TypeA, dnsmessage.ClassINET))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := a.answer(own); err == nil {
		t.Errorf("an answer is answered: %x", out)
	}
}

func TestNoTwoOfManyNamesShareAnAddress(t *testing.T) {
	a := New()
	seen := map[netip.Addr]bool{}
	for i := range 20000 {
		four, _ := a.Addresses(string(rune('a'+i%26)) + netip.AddrFrom4([4]byte{byte(i >> 8), byte(i)}).String())
		if seen[four] {
			t.Fatal("two names share an address")
		}
		seen[four] = true
	}
}

func TestQuestionsAreAnsweredOverUDPAndTCP(t *testing.T) {
	a := New()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- a.ServePackets(packets) }()
	go func() { done <- a.ServeStreams(streams) }()
	resolve := func(network, address string) {
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		text := question(t, "api.example.com.", dnsmessage.TypeA, dnsmessage.ClassINET)
		if network == "tcp" {
			text = append([]byte{0, byte(len(text))}, text...)
		}
		if _, err := conn.Write(text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 512)
		n, err := conn.Read(got)
		if err != nil || n < 12 {
			t.Errorf("%s: %d bytes, %v", network, n, err)
		}
	}
	resolve("udp", packets.LocalAddr().String())
	resolve("tcp", streams.Addr().String())
	packets.Close()
	streams.Close()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// FuzzAnswer: whatever comes, an answer is one that clients can read, to the
// question that was asked.
func FuzzAnswer(f *testing.F) {
	f.Add(question(f, "api.example.com.", dnsmessage.TypeA, dnsmessage.ClassINET))
	f.Add(question(f, "api.example.com.", dnsmessage.TypeAAAA, dnsmessage.ClassCHAOS))
	f.Add([]byte{0, 7, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, message []byte) {
		out, err := New().answer(message)
		if err != nil {
			return
		}
		var asked, answered dnsmessage.Parser
		before, err := asked.Start(message)
		if err != nil {
			t.Fatal("what cannot be read is answered")
		}
		after, err := answered.Start(out)
		if err != nil || !after.Response || after.ID != before.ID {
			t.Fatalf("the answer is %+v, %v", after, err)
		}
		if before.OpCode != 0 {
			return
		}
		q, err := asked.Question()
		if err != nil {
			t.Fatal("a question that cannot be read is answered")
		}
		if r, err := answered.Question(); err != nil || r != q {
			t.Fatalf("the answer is to %v, not %v", r, q)
		}
	})
}
