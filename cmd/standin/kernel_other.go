//go:build !linux

package main

import "time"

func holdIdentity(string, []byte, time.Duration) error { return errNoKernelKeyring }

func heldIdentity(string) []byte { return nil }

func dropIdentity(string) bool { return false }
