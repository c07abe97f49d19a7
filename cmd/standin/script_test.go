package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary answer to the name standin, so that the
// scripts run the program as a user would, in a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"standin": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Condition: func(name string) (bool, error) {
			if name != "kernel-keyring" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return holdIdentity("probe", []byte("probe"), time.Second) == nil, nil
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("STANDIN_HOME", filepath.Join(env.WorkDir, "home"))
			for _, name := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "STANDIN_PASSPHRASE_FILE"} {
				env.Setenv(name, "")
			}
			return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
		},
	})
}
