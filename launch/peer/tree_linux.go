package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
)

// Bounds of what one tree keeps and does.
const (
	maxKnown   = 32   // processes that are remembered
	maxSeekers = 16   // connections that wait while the whole machine is looked through
	maxDepth   = 1024 // generations
	maxTree    = 4096 // processes of the tree that are looked into
)

// Tree is the tree of one command. It may be used concurrently.
type Tree struct {
	cfg  Config
	self int // the launcher; 0 if there is none
	uid  int

	life   sync.RWMutex // held while root and above are read
	root   *process     // nil when closed
	above  *process     // the launcher, where it is another process
	mu     sync.Mutex
	known  []member // those that were placed, the latest last
	seek   sync.Mutex
	queued chan struct{}
}

// member is a process that was shown to be in the tree.
type member struct {
	pid   int
	start uint64
	depth int
}

// New makes the tree of a command that runs. A launcher that is another process
// must be the command's parent. Close must be called.
func New(cfg Config) (*Tree, error) {
	root, err := openProcess(cfg.PID)
	if err != nil {
		return nil, err
	}
	if root.start != cfg.Start {
		root.close()
		return nil, fmt.Errorf("open process %d: it is not the one that started at %d", cfg.PID, cfg.Start)
	}
	t := &Tree{cfg: cfg, uid: os.Getuid(), root: root, queued: make(chan struct{}, maxSeekers)}
	switch launcher := cfg.Launcher; {
	case launcher.None:
	case launcher.PID == 0:
		t.self = os.Getpid()
	default:
		if err := t.launchedBy(launcher); err != nil {
			root.close()
			return nil, err
		}
	}
	return t, nil
}

// launchedBy holds on to the launcher, and checks that the command is its child.
func (t *Tree) launchedBy(launcher Launcher) error {
	above, err := openProcess(launcher.PID)
	if err != nil {
		return err
	}
	if above.start != launcher.Start || t.root.parent != launcher.PID {
		above.close()
		return fmt.Errorf("open process %d: it is not a child of process %d", t.root.pid, launcher.PID)
	}
	t.self, t.above = launcher.PID, above
	return nil
}

// Close ends the tree: everybody is a stranger from then on.
func (t *Tree) Close() error {
	t.life.Lock()
	defer t.life.Unlock()
	if t.root != nil {
		t.root.close()
		t.root = nil
	}
	if t.above != nil {
		t.above.close()
		t.above = nil
	}
	return nil
}

// Command is the process at the top of the tree.
func (t *Tree) Command() Process {
	t.life.RLock()
	defer t.life.RUnlock()
	if t.root == nil {
		return Process{}
	}
	return t.describe(t.root, t.uid, 0)
}

// Owner returns the process at the other end of an accepted connection, if it
// is of the tree. Errors are *StrangerError, or say that the system could not
// be asked.
func (t *Tree) Owner(conn net.Conn) (Process, error) {
	socket, err := t.cfg.Sockets.Other(conn)
	if errors.Is(err, ErrNoSocket) {
		return Process{}, &StrangerError{Reason: reasonGone}
	}
	if err != nil {
		return Process{}, err
	}
	t.life.RLock()
	defer t.life.RUnlock()
	if err := t.alive(); err != nil {
		return Process{}, err
	}
	// Only root may look into the processes of others.
	if socket.UID != t.uid && t.uid != 0 {
		return Process{}, &StrangerError{Process{UID: socket.UID}, reasonUser}
	}
	holder, depth, err := t.holder(socket)
	if err != nil {
		return Process{}, err
	}
	defer holder.close()
	if socket.UID != t.uid && holder.user() != socket.UID {
		return Process{}, &StrangerError{t.describe(holder, socket.UID, depth), reasonUser}
	}
	if err := t.alive(); err != nil { // it may have ended meanwhile
		return Process{}, err
	}
	return t.describe(holder, socket.UID, depth), nil
}

func (t *Tree) alive() error {
	if t.root == nil {
		return &StrangerError{Reason: reasonEnded}
	}
	for _, p := range []*process{t.root, t.above} {
		if p == nil {
			continue
		}
		now := *p // look writes, and others read
		if now.look() != nil || now.ended {
			return &StrangerError{Reason: reasonEnded}
		}
	}
	return nil
}

func (t *Tree) describe(p *process, uid, depth int) Process {
	return Process{PID: p.pid, Start: p.start, Exe: p.exe(), UID: uid, Depth: depth}
}

// holder looks for a process of the tree that holds the socket: first among
// those that it knows, then down the tree, and at last everywhere, to find one
// that the way down missed, or the stranger's name.
func (t *Tree) holder(socket Socket) (*process, int, error) {
	for _, m := range t.members() {
		p, err := openProcess(m.pid)
		if err != nil || p.start != m.start {
			t.forget(m)
		} else if p.holds(socket.Inode) {
			t.remember(m)
			return p, m.depth, nil
		}
		if err == nil {
			p.close()
		}
	}
	for _, tops := range []func() []int{t.command, t.orphans} {
		found, depth, ok := t.search(t.below(tops()), socket.Inode)
		if ok {
			return found, depth, nil
		}
		if found != nil {
			found.close()
		}
	}
	return t.anywhere(socket)
}

// search returns the first of the processes that holds the socket and is in
// the tree, or else the first that holds it, and how far below the command.
func (t *Tree) search(pids []int, inode uint32) (found *process, depth int, ok bool) {
	for _, pid := range pids {
		p, err := openProcess(pid)
		if err != nil {
			continue
		}
		if !p.holds(inode) {
			p.close()
			continue
		}
		at, in := t.descent(p)
		if in {
			if found != nil {
				found.close()
			}
			t.remember(member{p.pid, p.start, at})
			return p, at, true
		}
		if found != nil {
			p.close()
			continue
		}
		found, depth = p, at
	}
	return found, depth, false
}

// anywhere looks through all processes of the machine. Strangers may force it
// at will: so one connection does it at a time, few wait for it, and the rest
// is refused unnamed.
func (t *Tree) anywhere(socket Socket) (*process, int, error) {
	select {
	case t.queued <- struct{}{}:
		defer func() { <-t.queued }()
	default:
		return nil, 0, &StrangerError{Process{UID: socket.UID}, reasonBusy}
	}
	t.seek.Lock()
	defer t.seek.Unlock()
	pids, err := numbers()
	if err != nil {
		return nil, 0, err
	}
	found, depth, ok := t.search(pids, socket.Inode)
	if ok {
		return found, depth, nil
	}
	if found == nil {
		return nil, 0, &StrangerError{Process{UID: socket.UID}, reasonGone}
	}
	defer found.close()
	stranger := &StrangerError{t.describe(found, socket.UID, depth), reasonOutside}
	if depth > 0 {
		stranger.Reason = reasonChild
	}
	return nil, 0, stranger
}

// numbers are the processes of the machine, the newest most likely first.
func numbers() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return pids, nil
}

func (t *Tree) command() []int { return []int{t.root.pid} }

// orphans are the children of the launcher that the command left behind.
func (t *Tree) orphans() []int {
	if t.cfg.Alone || t.self == 0 {
		return nil
	}
	own, err := openProcess(t.self)
	if err != nil {
		return nil
	}
	defer own.close()
	var found []int
	for _, pid := range own.children() {
		if p, err := openProcess(pid); err == nil {
			if pid != t.root.pid && t.orphan(p) {
				found = append(found, pid)
			}
			p.close()
		}
	}
	return found
}

// orphan reports whether a child of the launcher was left behind by the
// command, and is no helper of that program.
func (t *Tree) orphan(p *process) bool { return t.placed(p) || p.marked(t.cfg.Mark) }

// below lists those processes and what seems to descend from them, the newest
// most likely first. Who is in the tree is decided by descent alone.
func (t *Tree) below(tops []int) []int {
	found := tops
	for i := 0; i < len(found) && len(found) < maxTree && !t.cfg.Alone; i++ {
		if p, err := openProcess(found[i]); err == nil {
			found = append(found, p.children()...)
			p.close()
		}
	}
	slices.Reverse(found)
	return found
}

// descent reports whether p is in the tree, and how far below the command: zero
// for a stranger, and more for a child where only the command itself counts.
func (t *Tree) descent(p *process) (depth int, ok bool) {
	for range 3 { // a parent that ends on the way is a reason to look again
		depth, ok, again := t.ascend(p)
		if !again {
			return depth, ok && (depth == 0 || !t.cfg.Alone)
		}
		if p.look() != nil || p.ended {
			break
		}
	}
	return 0, false
}

// ascend walks from p up to the command. Each parent is opened first, and then
// its child is asked once more who its parent is. If the answer is the same,
// the number meant the same process all the time, since a process that is given
// to a new parent is given to one that lived before.
func (t *Tree) ascend(p *process) (depth int, ok, again bool) {
	child := p
	defer func() {
		if child != p {
			child.close()
		}
	}()
	for depth = 0; depth < maxDepth; depth++ {
		if child.pid == t.root.pid && child.start == t.root.start {
			return depth, true, false
		}
		if t.self != 0 && child.parent == t.self {
			if !t.orphan(child) {
				return 0, false, false
			}
			return depth + 1, true, false
		}
		if child.parent <= 1 {
			return 0, false, false
		}
		parent, err := openProcess(child.parent)
		if err != nil {
			return 0, false, true
		}
		if err := child.look(); err != nil || child.ended || child.parent != parent.pid {
			parent.close()
			return 0, false, true
		}
		if child != p {
			child.close()
		}
		child = parent
	}
	return 0, false, false
}

// members are those that were placed, the latest first.
func (t *Tree) members() []member {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Clone(t.known)
	slices.Reverse(list)
	return list
}

func (t *Tree) placed(p *process) bool {
	return slices.ContainsFunc(t.members(), func(m member) bool { return m.pid == p.pid && m.start == p.start })
}

func (t *Tree) remember(m member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = append(slices.DeleteFunc(t.known, func(k member) bool { return k.pid == m.pid }), m)
	if len(t.known) > maxKnown {
		t.known = slices.Delete(t.known, 0, 1)
	}
}

func (t *Tree) forget(m member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = slices.DeleteFunc(t.known, func(k member) bool { return k == m })
}
