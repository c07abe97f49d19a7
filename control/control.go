// Package control is the private way between a gateway and those who ask it: a
// unix socket that only its user can reach.
//
// It serves nothing itself, and does not decide what a caller may do.
package control
