package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"standin/launch/peer"
)

// maxFollowers is how many may follow sessions of one gateway.
const maxFollowers = 1024

// follow shows a session again and again: now, whenever grants are taken from it,
// and when it has ended. Those who have a part of it take the same from theirs.
func (c *controlServer) follow(w http.ResponseWriter, r *http.Request) {
	h := c.find(w, r)
	if h == nil {
		return
	}
	defer c.followers.Add(-1)
	if c.followers.Add(1) > maxFollowers {
		http.Error(w, `{"error":"too many followers"}`, http.StatusServiceUnavailable)
		return
	}
	line := http.NewResponseController(w)
	if line.SetReadDeadline(time.Time{}) != nil { // it is held for as long as the follower lives
		return
	}
	w.Header().Set("Content-Type", "application/json")
	for {
		changed, view := h.change(), h.view()
		if line.SetWriteDeadline(time.Now().Add(5*time.Second)) != nil || json.NewEncoder(w).Encode(view) != nil || line.Flush() != nil || view.Ended != "" {
			return
		}
		select {
		case <-changed:
		case <-h.session.Ended():
		case <-r.Context().Done():
			return
		}
	}
}

// follow calls next with each state of a session until that is false, ctx ends, or
// the gateway is gone.
func (c *controlClient) follow(ctx context.Context, id string, next func(sessionView) bool) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://standin/v1/sessions/"+id+"/follow", nil)
	if err != nil {
		return err
	}
	held := *c.http
	held.Timeout = 0
	resp, err := held.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("follow session %q: the gateway answered %d", id, resp.StatusCode)
	}
	states := json.NewDecoder(resp.Body)
	for {
		var v sessionView
		if err := states.Decode(&v); err != nil {
			return err
		}
		if !next(v) {
			return io.EOF
		}
	}
}

// self is this process.
func self() processID {
	start, _ := peer.Started(os.Getpid()) // 0 where processes cannot be seen
	return processID{os.Getpid(), start}
}
