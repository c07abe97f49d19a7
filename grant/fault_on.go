//go:build fault

package grant

// fault names what does not work in this build: "substitution", "scrubbing",
// "refusal", "panic" (with each value), or "panics" (where Fault is asked). The
// linker sets it.
var fault string

// Fault panics at a place if what happens there is for the name of that place, so
// that a test chooses it.
func Fault(place, name string) {
	if fault == "panics" && name == "panic-"+place+".test" {
		panic("a fault at " + place)
	}
}
