package launch

// Harden does nothing: Windows writes no core files of its own accord, and a
// process of the same user can always read another's memory.
func Harden() error { return hideMemory() }
