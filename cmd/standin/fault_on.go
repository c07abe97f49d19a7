//go:build fault

package main

// fault is "verify" in a build whose verification finds nothing. The linker
// sets it.
var fault string
