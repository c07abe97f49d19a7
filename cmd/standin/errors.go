package main

import (
	"errors"
)

// hinted is an error whose way out is known where it was made.
type hinted struct {
	err  error
	text string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// hint is something to type, made from the type of the error, or "".
func hint(err error) string {
	var h *hinted
	switch {
	case errors.As(err, &h):
		return h.text
	case errors.Is(err, errNoHome):
		return "name a folder: standin --home DIR …"
	}
	return ""
}
