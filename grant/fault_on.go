//go:build fault

package grant

// fault names what does not work in this build: "substitution", "scrubbing",
// "refusal", or "panic". The linker sets it.
var fault string
