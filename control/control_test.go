package control

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// talk has one conversation over a real socket. Between has its way with it.
func talk(t *testing.T, callerName string, callerKey []byte, held func(string) []byte, between func(net.Conn) net.Conn) (called, answered error) {
	t.Helper()
	own, err := Certificate()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		c, name, err := Answer(conn, own, held)
		if err == nil {
			var said string
			if err = c.Receive(&said); err == nil && (said != "hello" || name != callerName) {
				err = errors.New("it heard something else")
			}
			c.Close()
		}
		conn.Close()
		done <- err
	}()
	conn, err := Dial(t.Context(), listener.(*privateListener).path)
	if err != nil {
		t.Fatal(err)
	}
	if between != nil {
		conn = between(conn)
	}
	c, called := Call(conn, callerName, callerKey)
	if called == nil {
		called = c.Send("hello")
	}
	conn.Close()
	return called, <-done
}

func keyOf(name string, key []byte) func(string) []byte {
	return func(asked string) []byte {
		if asked == name {
			return key
		}
		return nil
	}
}

func TestBothEndsProveTheKey(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	if called, answered := talk(t, "vault", key, keyOf("vault", key), nil); called != nil || answered != nil {
		t.Fatalf("with one key: %v, %v", called, answered)
	}
	for name, held := range map[string]func(string) []byte{"another key": keyOf("vault", other), "no such key": keyOf("token", key)} {
		called, answered := talk(t, "vault", key, held, nil)
		if !errors.Is(called, ErrProof) {
			t.Errorf("%s: the caller says %v", name, called)
		}
		if answered == nil {
			t.Errorf("%s: the gateway is content", name)
		}
	}
}

func TestAProofOfOneEndIsNoneOfTheOther(t *testing.T) {
	key, bound := bytes.Repeat([]byte{1}, 32), []byte("connection")
	gateway, caller := mac(key, gatewayLabel, "vault", bound), mac(key, callerLabel, "vault", bound)
	if bytes.Equal(gateway, caller) || bytes.Equal(gateway, mac(key, gatewayLabel, "vault", []byte("another"))) || bytes.Equal(gateway, mac(key, gatewayLabel, "token", bound)) {
		t.Fatal("a proof is worth something elsewhere")
	}
	// No two ways of cutting name and connection give the same proof.
	if bytes.Equal(mac(key, gatewayLabel, "vaultc", []byte("onnection")), gateway) {
		t.Fatal("the parts of a proof run together")
	}
}

// TestAProofThatIsPassedOnIsWorthNothing: a man in the middle ends TLS on both
// sides and passes on what he hears. The values that bind the proofs differ.
func TestAProofThatIsPassedOnIsWorthNothing(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	own, err := Certificate()
	if err != nil {
		t.Fatal(err)
	}
	outer, inner := net.Pipe()
	real, far := net.Pipe()
	answered := make(chan error, 1)
	go func() {
		_, _, err := Answer(far, own, keyOf("vault", key))
		far.Close()
		answered <- err
	}()
	go func() { // the man in the middle
		defer inner.Close()
		defer real.Close()
		theirs := &Conn{tls: serverOf(inner, own)}
		ours := &Conn{tls: clientOf(real)}
		var hello greeting
		var shown proof
		if theirs.Receive(&hello) == nil && ours.Send(hello) == nil && ours.Receive(&shown) == nil {
			_ = theirs.Send(shown)
			var back proof
			if theirs.Receive(&back) == nil {
				_ = ours.Send(back)
			}
		}
	}()
	if _, err := Call(outer, "vault", key); !errors.Is(err, ErrProof) {
		t.Errorf("the caller is content with a proof that was passed on: %v", err)
	}
	outer.Close()
	if err := <-answered; err == nil {
		t.Error("the gateway is content with a caller that is somebody else")
	}
}

func TestASocketThatSomebodyHasTakenAwayIsNoError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Errorf("close a listener without its file: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of another is gone: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

func TestSweepTakesOnlyWhatNobodyListensOn(t *testing.T) {
	dir := t.TempDir()
	dead, live, file := filepath.Join(dir, "dead"), filepath.Join(dir, "live"), filepath.Join(dir, "file")
	left, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	listener, err := Listen(live)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dead); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dead); err != nil {
		t.Errorf("a socket that may be about to be listened on is gone: %v", err)
	}
	past := time.Now().Add(-time.Minute)
	for _, path := range []string{dead, live, file} {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
		if err := Sweep(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); (err == nil) == (path == dead) {
			t.Errorf("%s after the sweep: %v", filepath.Base(path), err)
		}
	}
}
