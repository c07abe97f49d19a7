package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"

	"standin/audit"
)

func TestASummaryCountsRefusalsForWhatTheyNamed(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(dir, audit.Keys{Vault: bytes.Repeat([]byte{1}, 32), Recovery: id.Recipient().String()}, audit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []audit.Record{
		{Type: audit.TypeGrant, Session: "s1", Secrets: []string{"github"}},
		{Type: audit.TypeGrant, Session: "s1", Secrets: []string{"db"}},
		{Type: audit.TypeDeliver, Session: "s1", Secrets: []string{"db"}, Reason: "env", Uses: []audit.Use{{Secret: "db", Version: "1"}}},
		{Type: audit.TypeDeny, Session: "s1", Secrets: []string{"github"}, Code: "placeholder_misplaced"},
		{Type: audit.TypeDeny, Session: "s1", Code: "unmatched_denied", Count: 3},
		{Type: audit.TypeMisplaced, Session: "s1", Secrets: []string{"github"}, Count: 5, Reason: "body"},
		{Type: audit.TypeDeny, Session: "s2", Code: "not_in_tree"},
	} {
		if err := l.Append(context.Background(), &r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	told := func(s auditShow) string {
		var out bytes.Buffer
		if found, err := (&program{out: &out}).showSummary(dir, &s); err != nil || !found {
			t.Fatal(found, err)
		}
		return regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	}
	all := told(auditShow{})
	for _, want := range []string{
		"s1 github 0 - - - - 1 open",
		"s1 - 0 - - - - 3 open",
		"s2 - 0 - - - - 1 open",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if !regexp.MustCompile(`(?m)^s1 db 1 20\S+ \S+ 20\S+ \S+ delivered\(env\) - 0 open`).MatchString(all) {
		t.Errorf("the delivery is not told of:\n%s", all)
	}
	if only := told(auditShow{filter: audit.Filter{Secret: "github"}}); strings.Count(only, "\n") != 2 || !strings.Contains(only, "s1 github 0 - - - - 1 open") {
		t.Errorf("of one secret it tells\n%s", only)
	}
}

func TestALongCellPadsNoOtherRow(t *testing.T) {
	var out bytes.Buffer
	table := newAuditTable(&out)
	long := "/" + strings.Repeat("long", 100)
	for i, path := range []string{"/short", long, "/" + strings.Repeat("é", 20)} {
		e := &audit.Entry{Record: audit.Record{Type: audit.TypeDeny, Session: "s", Host: "h.test", Path: path, Status: 403 + i}}
		if err := table.add(e); err != nil {
			t.Fatal(err)
		}
	}
	table.flush()
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[2], long+"  404") {
		t.Errorf("the long cell is not whole: %q", lines[2])
	}
	at := func(line, text string) int { return len([]rune(line[:strings.Index(line, text)])) }
	for i, text := range []string{"OUTCOME", "403", "", "405"} {
		if text != "" && (at(lines[i], text) != at(lines[0], "OUTCOME") || len(lines[i]) > 140) {
			t.Errorf("row %d is out of line: %q", i, fmt.Sprint(lines[i]))
		}
	}
}
