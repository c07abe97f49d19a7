//go:build linux

package cases

import (
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// entry is one case.
type entry struct {
	id  string
	run func(*Case)
}

// sections lists the tables, one for each section of the cases.
var sections = []func() []entry{sectionA, sectionB, sectionC, sectionD, sectionE, sectionF, sectionG, sectionH, sectionW}

// alone are the cases that measure time or memory, or load the machine so that
// others would miss their deadlines. They run one after the other, first.
var alone = []string{"A34", "A39", "G04", "G05", "G06", "G16", "W05"}

func registry() []entry {
	var all []entry
	for _, section := range sections {
		all = append(all, section()...)
	}
	return all
}

// TestCases runs every case. Those that ran whole are then compared with
// ids.txt, so that a case which is skipped or lost fails the suite.
func TestCases(t *testing.T) {
	var mu sync.Mutex
	var ran []string
	t.Cleanup(func() {
		if wholeSuite() && !t.Failed() {
			compareIDs(t, ran)
		}
	})
	for _, e := range registry() {
		t.Run(e.id, func(t *testing.T) {
			if !slices.Contains(alone, e.id) {
				t.Parallel()
			}
			c := newCase(t, e.id)
			e.run(c)
			mu.Lock()
			defer mu.Unlock()
			ran = append(ran, e.id)
		})
	}
}

// wholeSuite says whether no flag narrows what runs.
func wholeSuite() bool {
	run := strings.Trim(flag.Lookup("test.run").Value.String(), "^$")
	return (run == "" || run == "TestCases") && flag.Lookup("test.skip").Value.String() == ""
}

func TestTheTablesHoldExactlyTheIDsAskedFor(t *testing.T) {
	var have []string
	for _, e := range registry() {
		have = append(have, e.id)
	}
	compareIDs(t, have)
}

func compareIDs(t *testing.T, have []string) {
	t.Helper()
	text, err := os.ReadFile("ids.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		want = append(want, strings.Fields(line)...)
	}
	if len(want) == 0 {
		t.Fatal("ids.txt asks for nothing")
	}
	for _, id := range want {
		if n := count(have, id); n != 1 {
			t.Errorf("case %s is asked for once and is there %d times", id, n)
		}
	}
	for _, id := range have {
		if !slices.Contains(want, id) {
			t.Errorf("case %s is not in ids.txt", id)
		}
	}
}

func count(list []string, s string) (n int) {
	for _, v := range list {
		if v == s {
			n++
		}
	}
	return n
}
