// Command summary reads the events of "go test -json" and prints what a person
// needs: the output of what failed, what was skipped and why, and one closing
// line. A skip that is not on the list of allowed ones fails the run. It runs
// no test itself.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

func main() {
	allowed, err := readAllowed(".ci/skips.txt")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(summarize(allowed))
}

// readAllowed reads lines of the form "pattern reason".
func readAllowed(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	allowed := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, reason, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(name, "#") {
			allowed[name] = reason
		}
	}
	return allowed, nil
}

func summarize(allowed map[string]string) int {
	output := map[string]*strings.Builder{}
	passed, failed, skipped, forbidden := 0, 0, 0, 0
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if output[key] == nil {
				output[key] = &strings.Builder{}
			}
			output[key].WriteString(e.Output)
			continue
		case "pass":
			if e.Test == "" {
				fmt.Printf("ok    %s  %.1fs\n", e.Package, e.Elapsed)
			} else {
				passed++
			}
		case "fail", "build-fail":
			fmt.Printf("FAIL  %s\n%s\n", key, text(output[key]))
			failed++
		case "skip":
			if e.Test == "" {
				break
			}
			skipped++
			reason, ok := match(allowed, e.Test)
			if !ok {
				forbidden++
				reason = "NOT ALLOWED: " + lastLine(output[key])
			}
			fmt.Printf("skip  %s: %s\n", key, reason)
		}
		delete(output, key)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed+forbidden, skipped)
	if passed == 0 || failed+forbidden > 0 {
		return 1
	}
	return 0
}

// match finds the reason of a skip whose name fits an allowed pattern.
func match(allowed map[string]string, test string) (string, bool) {
	for pattern, reason := range allowed {
		if ok, _ := path.Match(pattern, test); ok {
			return reason, true
		}
	}
	return "", false
}

func text(b *strings.Builder) string {
	if b == nil {
		return ""
	}
	s := b.String()
	if len(s) > 12000 {
		s = s[:4000] + "\n[…]\n" + s[len(s)-8000:]
	}
	return s
}

func lastLine(b *strings.Builder) string {
	lines := strings.Split(strings.TrimSpace(text(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if !strings.HasPrefix(strings.TrimSpace(lines[i]), "---") {
			return strings.TrimSpace(lines[i])
		}
	}
	return ""
}
