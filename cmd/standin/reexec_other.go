//go:build !linux

package main

import (
	"os"
	"runtime"
)

// cleanStart cannot replace the process here without writing the user's
// environment somewhere, so it removes the variables that are read late. Those
// that the Go runtime reads before main (GODEBUG, GOTRACEBACK) have taken effect.
// From here on there are as many processors as are given, or all for 0.
func (p *program) cleanStart(processors int) error {
	if processors > 0 {
		runtime.GOMAXPROCS(processors)
	}
	for _, name := range []string{"GODEBUG", "SSLKEYLOGFILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) restoreEnvironment() error { return nil }
