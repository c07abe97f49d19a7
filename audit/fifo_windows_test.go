package audit

import "testing"

func fifo(t testing.TB, _ string) { t.Skip("Windows has no FIFOs in directories") }
