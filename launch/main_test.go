package launch

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// asLauncher makes the test binary a launcher: it runs its arguments as Start
// and Wait do, and exits as they say.
const asLauncher = "LAUNCH_TEST_AS_LAUNCHER"

func TestMain(m *testing.M) {
	if os.Getenv(asLauncher) == "" {
		os.Exit(m.Run())
	}
	if err := os.Unsetenv(asLauncher); err != nil {
		panic(err)
	}
	command, err := Start(Spec{Argv: os.Args[1:], Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if start, ok := err.(*StartError); ok {
			os.Exit(start.Code)
		}
		os.Exit(125)
	}
	code, err := command.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	os.Exit(code)
}

// launcher returns a command that runs argv under a launcher of its own.
func launcher(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, argv...)
	cmd.Env = append(os.Environ(), asLauncher+"=1")
	return cmd
}

func need(t testing.TB, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Skipf("%s is not installed", tool)
	}
	return path
}
