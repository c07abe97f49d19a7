package main

import (
	"fmt"
	"time"
)

// ttlFlag is a time that must be some: none, or less, is wrong usage. Zero is
// that of a flag that was not given.
type ttlFlag time.Duration

func (t *ttlFlag) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if d <= 0 {
		return fmt.Errorf("%v is no time that grants could last", d)
	}
	*t = ttlFlag(d)
	return nil
}

func (t *ttlFlag) String() string {
	if t == nil || *t == 0 {
		return ""
	}
	return time.Duration(*t).String()
}

func (t *ttlFlag) Type() string { return "duration" }
