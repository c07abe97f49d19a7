package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// Errors of a handshake. They hold nothing of its fields.
var (
	ErrRequest = errors.New("the request is no handshake of RFC 6455")
	ErrAnswer  = errors.New("the answer does not fit the handshake")
)

// CheckRequest says whether a request asks for a WebSocket in the one way that
// both ends read alike (RFC 6455, 4.2.1).
func CheckRequest(r *http.Request) error {
	h := r.Header
	key, err := base64.StdEncoding.DecodeString(h.Get("Sec-Websocket-Key"))
	switch {
	case r.Method != http.MethodGet, r.ProtoMajor != 1 || r.ProtoMinor != 1,
		r.ContentLength != 0, len(r.TransferEncoding) > 0,
		!slices.Contains(tokens(h["Connection"], strings.ToLower), "upgrade"),
		!slices.Equal(tokens(h["Upgrade"], strings.ToLower), []string{"websocket"}),
		!slices.Equal(h["Sec-Websocket-Version"], []string{"13"}),
		len(h["Sec-Websocket-Key"]) != 1, err != nil, len(key) != 16:
		return ErrRequest
	}
	return nil
}

// Offer makes h, without the fields of one hop, ask for a WebSocket without any
// extension: what is compressed could not be looked into message by message.
func Offer(h http.Header) {
	h["Connection"] = []string{"Upgrade"}
	h["Upgrade"] = []string{"websocket"}
	delete(h, "Sec-Websocket-Extensions")
}

// CheckAnswer says whether an answer with the status 101 accepts what was asked
// for (RFC 6455, 4.1), and no more: an extension, or a subprotocol that was not
// offered, is refused.
func CheckAnswer(asked, answered http.Header) error {
	chosen := answered["Sec-Websocket-Protocol"]
	switch {
	case !slices.Contains(tokens(answered["Connection"], strings.ToLower), "upgrade"),
		!slices.Equal(tokens(answered["Upgrade"], strings.ToLower), []string{"websocket"}),
		!slices.Equal(answered["Sec-Websocket-Accept"], []string{accept(asked.Get("Sec-Websocket-Key"))}),
		len(tokens(answered["Sec-Websocket-Extensions"], nil)) > 0,
		len(chosen) > 1,
		len(chosen) == 1 && !slices.Contains(tokens(asked["Sec-Websocket-Protocol"], nil), chosen[0]):
		return ErrAnswer
	}
	return nil
}

// accept is the proof that a server read the key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// tokens are the elements of a list that may stand in several lines.
func tokens(lines []string, fold func(string) string) []string {
	var all []string
	for _, line := range lines {
		for token := range strings.SplitSeq(line, ",") {
			if token = strings.TrimSpace(token); token == "" {
				continue
			}
			if fold != nil {
				token = fold(token)
			}
			all = append(all, token)
		}
	}
	return all
}
