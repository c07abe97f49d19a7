//go:build linux

package netns

import (
	"strings"
	"testing"
)

func TestRoomIsMadeTestedAndRunsTheCommand(t *testing.T) {
	s := newStage(t)
	report, err := s.Furnish(s.furniture())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Tests) != len(attempts)+1 {
		t.Errorf("these tests passed: %q", report.Tests)
	}
	code, out := s.run(`pwd; cat state/run/s1/bundle.pem identity; ls state; cat /etc/resolv.conf; exit 3`)
	if code != 3 {
		t.Errorf("the exit code is %d", code)
	}
	for _, want := range []string{s.dir + "\n", "content of bundle.pem\n", "nameserver 127.0.0.1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	for _, secret := range []string{"content of identity", "vault.age"} {
		if strings.Contains(out, secret) {
			t.Errorf("%q is in %s", secret, out)
		}
	}
}
