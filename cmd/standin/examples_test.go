package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"standin/rules"
)

func TestExamplesLoadAndTheirScriptsParse(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/standin.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d examples, %v", len(files), err)
	}
	for _, file := range files {
		policy, err := rules.Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(policy.Rules) == 0 {
			t.Errorf("%s has no rules", file)
		}
		dir := filepath.Dir(file)
		if out, err := exec.Command("sh", "-n", filepath.Join(dir, "run.sh")).CombinedOutput(); err != nil {
			t.Errorf("%s/run.sh: %v\n%s", dir, err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
			t.Error(err)
		}
	}
}
