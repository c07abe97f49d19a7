//go:build !linux

package main

// hideTyping leaves it to the reading, a moment after the prompt is shown.
func hideTyping(int) {}
