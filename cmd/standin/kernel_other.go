//go:build !linux

package main

import "time"

func holdIdentity(string, []byte, time.Duration) error { return errNoKernelKeyring }

func heldIdentity(string) []byte { return nil }

func heldUntil(string) time.Time { return time.Time{} }

func dropIdentity(string) bool { return false }
