package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"strings"
	"sync"

	"standin/audit"
)

// Credentials is the gate of isolation "session": a connection belongs to the
// session whose id and token it shows. Tokens are kept as hashes, in memory only.
type Credentials struct {
	mu   sync.RWMutex
	byID map[string]credential
}

type credential struct {
	hash   [sha256.Size]byte
	client *Client
}

// NewCredentials makes a gate that admits nobody.
func NewCredentials() *Credentials { return &Credentials{byID: map[string]credential{}} }

// Add admits connections that show the token of c's session.
func (g *Credentials) Add(c *Client, token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.byID[c.Session.ID] = credential{sha256.Sum256([]byte(token)), c}
}

// Remove forgets a session: its credentials are wrong from then on.
func (g *Credentials) Remove(session string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.byID, session)
}

// Admit takes the session from "Basic" credentials. What is wrong with them is
// not said, and takes no different time.
func (g *Credentials) Admit(_ net.Conn, lines []string) (*Client, audit.Process, error) {
	id, token := "", ""
	if len(lines) == 1 {
		id, token = basicCredentials(lines[0])
	}
	g.mu.RLock()
	known := g.byID[id]
	g.mu.RUnlock()
	shown := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(shown[:], known.hash[:]) != 1 || known.client == nil {
		return nil, audit.Process{}, ErrCredentials
	}
	return known.client, audit.Process{}, nil
}

func basicCredentials(line string) (user, password string) {
	scheme, coded, ok := strings.Cut(line, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") || len(coded) > 1024 {
		return "", ""
	}
	plain, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		return "", ""
	}
	user, password, _ = strings.Cut(string(plain), ":")
	return user, password
}
