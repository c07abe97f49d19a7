//go:build !fault

package grant

// fault is empty in every build but those with which the tests prove that a
// gateway whose substitution, scrubbing or refusals do nothing is noticed.
const fault = ""

// Fault does nothing. In a build with faults it panics where a test wants it to.
func Fault(place, name string) {}
