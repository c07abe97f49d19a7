// Package ca makes the authority of a session: a root, an intermediate beneath
// it, and a leaf for each intercepted host, all of them in memory.
//
// It does not decide which hosts are intercepted, keeps nothing on a disk and
// touches no trust store. A root that outlives its session is handed in, and
// is used only if it is bound to names as tightly as one made here.
//
// Invariant: every certificate that can sign carries critical name
// constraints to the hosts that it was made for, and no key that could sign
// beneath the root is held once the intermediate exists. Whoever steals the
// memory of a gateway can impersonate the hosts of its session to clients that
// trust its root, and nobody else.
package ca
