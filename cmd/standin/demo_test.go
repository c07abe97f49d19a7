package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemoFailsWhenAPromiseIsBroken builds the program with one promise
// switched off at a time. A demo that could not fail would show nothing.
func TestDemoFailsWhenAPromiseIsBroken(t *testing.T) {
	for _, c := range []struct{ variable, fault, says string }{
		{"standin/grant.fault", "", ""},
		{"standin/grant.fault", "substitution", "the server did not receive the real key"},
		{"standin/grant.fault", "scrubbing", "the answer was not scrubbed"},
		{"standin/grant.fault", "refusal", "the placeholder was not refused"},
		{"main.fault", "verify", "verify did not find"},
	} {
		t.Run("fault="+c.fault, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "standin")
			build := exec.Command("go", "build", "-tags", "fault", "-ldflags", "-X "+c.variable+"="+c.fault, "-o", program, ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build: %v\n%s", err, out)
			}
			demo := exec.Command(program, "demo")
			temporary := t.TempDir()
			demo.Env = append(os.Environ(), "TMPDIR="+temporary)
			out, err := demo.CombinedOutput()
			if (err != nil) != (c.fault != "") || !strings.Contains(string(out), c.says) {
				t.Errorf("demo ended with %v:\n%s", err, out)
			}
			if left, _ := os.ReadDir(temporary); len(left) > 0 {
				t.Errorf("the demo left %v behind", left)
			}
		})
	}
}
