// Package launch starts the command of a session and stands by it until it
// ends: the files and the environment by which the command's tools find the
// proxy and trust its authority, the process itself with its signals and its
// job control, and its exit code.
//
// It opens no session, knows no secret's name and decides nothing about
// requests. It binds no connection to the command either: for that it tells
// the command's process and start time.
//
// Invariant: what the user's environment held of credentials (variables that
// the rules name, those by which the sources authenticate, URLs with a
// password) reaches the command only if the profile lists it, and nothing that
// is written here holds a value, or anything that could be a key.
package launch
