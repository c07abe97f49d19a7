// Package control is the private way between a gateway and those who may have
// sessions of it: a unix socket that only its user can reach, and on it a
// conversation in which both ends prove that they hold the same key before
// either says anything else.
//
// It opens no session and knows no secret's name. It does not decide what a
// caller may do either: whoever reaches the socket without a key gets what the
// owner of the socket answers to everybody.
//
// Invariant: a key never travels. Each proof is a MAC over a value that only the
// two ends of this very TLS 1.3 connection can compute (RFC 9266), with a label
// of its own for each end: what is said to one end is worth nothing at another,
// also when somebody in between passes it on.
package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"
)

// patience is how long the other end has for its part of the handshake.
const patience = 10 * time.Second

// maxMessage bounds a message, in bytes. The largest holds an environment.
const maxMessage = 8 << 20

// ErrProof says that the other end does not hold the key.
var ErrProof = errors.New("prove the key: the other end does not hold it")

// Conn is a conversation whose two ends have proved their key. Send and Receive
// may be called concurrently with each other.
type Conn struct {
	tls     *tls.Conn
	sending sync.Mutex
}

// Labels keep the proofs of the two ends apart, and from everything else.
const (
	exporter     = "EXPORTER-standin-control-1"
	gatewayLabel = "standin control 1: gateway\x00"
	callerLabel  = "standin control 1: caller\x00"
)

// greeting is the caller's first message: which key it holds.
type greeting struct {
	Key string `json:"key"`
}

// proof is a MAC over the label of its sender, the name of the key, and the
// connection.
type proof struct {
	MAC []byte `json:"mac"`
}

// Call begins a conversation as the caller. Key names the key that both ends
// hold. The gateway proves it first: who only sits at the socket's path learns
// nothing. The error is ErrProof where it cannot.
func Call(conn net.Conn, name string, key []byte) (*Conn, error) {
	c := &Conn{tls: clientOf(conn)}
	conn.SetDeadline(time.Now().Add(patience))
	defer conn.SetDeadline(time.Time{})
	bound, err := c.handshake()
	if err != nil {
		return nil, err
	}
	var theirs proof
	if err := c.Send(greeting{name}); err != nil {
		return nil, err
	}
	if err := c.Receive(&theirs); err != nil {
		return nil, ErrProof // a gateway that does not know the key ends here
	}
	if !hmac.Equal(theirs.MAC, mac(key, gatewayLabel, name, bound)) {
		return nil, ErrProof
	}
	return c, c.Send(proof{mac(key, callerLabel, name, bound)})
}

// Answer takes a conversation as the gateway. Key is called with the name that
// the caller gave, and answers nil if there is no such key. Name is the key that
// the caller has proved.
func Answer(conn net.Conn, own tls.Certificate, key func(name string) []byte) (c *Conn, name string, err error) {
	c = &Conn{tls: serverOf(conn, own)}
	conn.SetDeadline(time.Now().Add(patience))
	defer conn.SetDeadline(time.Time{})
	bound, err := c.handshake()
	if err != nil {
		return nil, "", err
	}
	var hello greeting
	if err := c.Receive(&hello); err != nil {
		return nil, "", err
	}
	held := key(hello.Key)
	if len(held) == 0 {
		return nil, "", ErrProof
	}
	if err := c.Send(proof{mac(held, gatewayLabel, hello.Key, bound)}); err != nil {
		return nil, "", err
	}
	var theirs proof
	if err := c.Receive(&theirs); err != nil {
		return nil, "", ErrProof
	}
	if !hmac.Equal(theirs.MAC, mac(held, callerLabel, hello.Key, bound)) {
		return nil, "", ErrProof
	}
	return c, hello.Key, nil
}

// clientOf takes any certificate: the proof says who it is.
func clientOf(conn net.Conn) *tls.Conn {
	return tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
}

func serverOf(conn net.Conn, own tls.Certificate) *tls.Conn {
	return tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, SessionTicketsDisabled: true})
}

// handshake returns what binds a proof to this connection.
func (c *Conn) handshake() ([]byte, error) {
	if err := c.tls.Handshake(); err != nil {
		return nil, fmt.Errorf("begin conversation: %w", err)
	}
	state := c.tls.ConnectionState()
	return state.ExportKeyingMaterial(exporter, nil, 32)
}

func mac(key []byte, label, name string, bound []byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range [][]byte{[]byte(label), []byte(name), bound} {
		binary.Write(h, binary.BigEndian, uint32(len(part)))
		h.Write(part)
	}
	return h.Sum(nil)
}

// Send sends a message.
func (c *Conn) Send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if len(text) > maxMessage {
		return fmt.Errorf("send message: it is longer than %d MiB", maxMessage>>20)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	_, err = c.tls.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// Receive waits for a message. io.EOF says that the other end is gone.
func (c *Conn) Receive(v any) error {
	var head [4]byte
	if _, err := io.ReadFull(c.tls, head[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length > maxMessage {
		return fmt.Errorf("receive message: it is longer than %d MiB", maxMessage>>20)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(c.tls, text); err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// Close ends the conversation.
func (c *Conn) Close() error { return c.tls.Close() }

// Certificate makes the certificate that a gateway shows. It says nothing: the
// proof does.
func Certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
