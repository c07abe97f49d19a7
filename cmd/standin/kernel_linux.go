package main

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The identity of an unlocked vault is a key of the kernel's. Only who finds it in
// a keyring that he has may read it: its owner's number alone is not enough.

// keyType is what the kernel does not look into.
const keyType = "user"

func keyName(id string) string { return "standin:" + id }

// rings are where a key is looked for: the keyring of the login session, which
// also leads to the user's on most systems, and the user's.
var rings = []int{unix.KEY_SPEC_SESSION_KEYRING, unix.KEY_SPEC_USER_KEYRING}

// holdIdentity keeps an identity for a while: in the session's keyring if this
// login has one of its own, which other logins do not reach.
func holdIdentity(id string, identity []byte, life time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring := unix.KEY_SPEC_USER_KEYRING
	session, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoKernelKeyring, err)
	}
	if usual, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_SESSION_KEYRING, false); err == nil && usual != session {
		ring = unix.KEY_SPEC_SESSION_KEYRING
	}
	// The kernel tells nobody when it will drop a key.
	text := strconv.AppendInt(append(bytes.Clone(identity), 0), time.Now().Add(life).Unix(), 10)
	defer clear(text)
	key, err := unix.AddKey(keyType, keyName(id), text, ring)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoKernelKeyring, err)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, key, int(life/time.Second), 0, 0); err != nil {
		dropIdentity(id)
		return fmt.Errorf("%w: %w", errNoKernelKeyring, err)
	}
	return nil
}

// heldIdentity is the identity that is held, or nil.
func heldIdentity(id string) []byte {
	identity, _, _ := bytes.Cut(heldText(id), []byte{0})
	return identity
}

// heldUntil is when the kernel drops the identity that is held; zero: it is not
// known.
func heldUntil(id string) time.Time {
	text := heldText(id)
	defer clear(text)
	_, until, _ := bytes.Cut(text, []byte{0})
	seconds, err := strconv.ParseInt(string(until), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

func heldText(id string) []byte {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, ring := range rings {
		// Linked to this thread the key is its own, also where its keyring is not.
		key, err := unix.KeyctlSearch(ring, keyType, keyName(id), unix.KEY_SPEC_THREAD_KEYRING)
		if err != nil {
			continue
		}
		buf := make([]byte, 4096)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, key, buf, 0)
		if err == nil && n <= len(buf) {
			return buf[:n]
		}
	}
	return nil
}

// dropIdentity forgets it, and says whether it was held.
func dropIdentity(id string) (held bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, ring := range rings {
		key, err := unix.KeyctlSearch(ring, keyType, keyName(id), unix.KEY_SPEC_THREAD_KEYRING)
		if err != nil {
			continue
		}
		if _, err := unix.KeyctlInt(unix.KEYCTL_REVOKE, key, 0, 0, 0); err == nil {
			held = true
		}
	}
	return held
}
