package coding

import "strings"

// Narrow makes a request accept only codings that this package reads: those of
// its own that it names, as it weighs them, and none where that leaves nothing.
// The header is that of an HTTP request, with canonical names.
func Narrow(h map[string][]string) {
	h["Accept-Encoding"] = []string{narrowed(h["Accept-Encoding"])}
	for _, name := range []string{"Grpc-Accept-Encoding", "Connect-Accept-Encoding"} {
		if lines := h[name]; len(lines) > 0 {
			h[name] = []string{narrowed(lines)}
		}
	}
}

func narrowed(lines []string) string {
	var kept []string
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(entry, ";")
			if strings.TrimSpace(name) == "" {
				continue
			}
			if _, err := Parse([]string{name}); err == nil {
				kept = append(kept, strings.TrimSpace(entry))
			}
		}
	}
	if len(kept) == 0 {
		return "identity"
	}
	return strings.Join(kept, ", ")
}
