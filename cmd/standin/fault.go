//go:build !fault

package main

// fault is empty in every build but those with which the tests prove that the
// demo notices a verification which finds nothing.
const fault = ""
