//go:build !linux

package main

// here is the same for all processes of systems without namespaces.
func here() place { return place{"all", "all"} }
