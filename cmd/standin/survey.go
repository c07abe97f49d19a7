package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"standin/control"
	"standin/launch/peer"
)

// answered is what a gateway says of itself, or that it says nothing.
type answered struct {
	gateway *controlClient
	status  gatewayStatus
	views   []sessionView
	silent  bool // somebody listens there, and gave no answer in time
	awaited bool // the caller had to know
}

// Patience with the gateways of a home: all are asked at once, since anybody of
// this user can put silent sockets there.
const (
	surveyTime  = time.Second
	awaitedTime = 5 * time.Second // for those that must be heard
)

// survey asks every gateway of a home. Those of which awaited is true, by their
// socket and by who listens there, get more time. A socket that nobody listens on
// was left behind by a gateway that was killed, and is not in the answer.
func survey(h home, awaited func(path string, pid int) bool) ([]*answered, error) {
	gateways, err := gatewaysOf(h)
	if err != nil {
		return nil, err
	}
	found := make([]*answered, len(gateways))
	var asking sync.WaitGroup
	for i, g := range gateways {
		asking.Go(func() { found[i] = g.survey(awaited) })
	}
	asking.Wait()
	return slices.DeleteFunc(found, func(a *answered) bool { return a == nil }), nil
}

func (c *controlClient) survey(awaited func(path string, pid int) bool) *answered {
	began := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), began.Add(surveyTime))
	defer cancel()
	conn, err := control.Dial(ctx, c.path)
	if err != nil {
		return nil
	}
	listener, _ := control.PeerOf(conn) // 0 where it cannot be seen
	conn.Close()
	a := &answered{gateway: c}
	if a.awaited = awaited(c.path, listener.PID); a.awaited {
		ctx, cancel = context.WithDeadline(context.Background(), began.Add(awaitedTime))
		defer cancel()
	}
	a.silent = c.ask(ctx, "GET", "/v1/status", "", &a.status) != nil || c.ask(ctx, "GET", "/v1/sessions", "", &a.views) != nil
	return a
}

// nearness is where in a line of ancestors the first of some processes stands, -1
// if none does.
func nearness(line []int, of []processID) int {
	return slices.IndexFunc(line, func(pid int) bool {
		return slices.ContainsFunc(of, func(p processID) bool {
			if p.PID != pid {
				return false
			}
			start, err := peer.Started(pid)
			return err == nil && start == p.Start
		})
	})
}

// lineOf is a process and those above it, the nearest first.
func lineOf(pid int) []int { return append([]int{pid}, peer.Ancestors(pid)...) }
