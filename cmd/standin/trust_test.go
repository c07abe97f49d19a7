package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"standin/rules"
	"standin/rules/catalog"
)

const trustedRules = `version: 1
secrets:
  gh: {source: 'vault:gh', shape: ghp_, env: [A, B], min-length: 20}
  st: {source: 'vault:st', placeholder: zstandin_abcdefghijklmnopqrstuvwxyz}
  db: {source: 'vault:db', deliver: env, env: [C]}
sources: {'exec:x': {command: [a, b], timeout: 1s, ttl: 2s, env: [D]}, hcp: {token: 'env:T', address: 'https://a'}}
rules:
  - {name: api, hosts: [a.example.com, '*.b.example.com'], methods: [GET, POST], paths: [/a, '/b/**'], substitute: [{secret: gh, in: [header A, cookie c]}], websocket: true, scrub: never, misplaced: refuse, read-first: 1KiB, response-credentials: strip, expires: 2030-01-01}
  - {name: clear, hosts: [c.example.com], scheme: http}
  - {name: pin, hosts: ['d.example.com:22'], passthrough: true, raw: true, reason: pins}
  - {name: none, hosts: [e.example.com], deny: true}
upstreams: {a.example.com: {dial: 'f.example.com:1', ca: ca.pem, client-cert: c.pem, client-key: k.pem}}
profiles:
  default: {secrets: [gh], ttl: 1h, uses: 3, isolation: tree, inherit: [E], extends: command}
  all: {secrets: [st], inherit: all}
unmatched: deny
`

// What is shown when rules are to be trusted leaves nothing out that the file
// can say: each change of it changes a line.
func TestEveryChangeOfTheRulesIsShown(t *testing.T) {
	t.Parallel()
	grants := func(text string) []string {
		pol, err := rules.Parse("/etc/standin.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return grantsOf(pol)
	}
	before := grants(trustedRules)
	for _, change := range [][2]string{
		{"'vault:gh'", "'vault:other'"}, {"shape: ghp_", "shape: ghx_"}, {"env: [A, B]", "env: [A]"}, {"min-length: 20", "min-length: 21"},
		{"zstandin_ab", "zstandin_bb"}, {"deliver: env", "deliver: file"}, {", deliver: env", ""}, {"[a, b]", "[a, c]"}, {"timeout: 1s", "timeout: 3s"},
		{"ttl: 2s", "ttl: 3s"}, {"env: [D]", "env: [X]"}, {"env:T", "env:U"}, {"https://a", "https://b"},
		{"hosts: [a.example.com", "hosts: [z.example.com"}, {"*.b.example", "*.z.example"}, {"[GET, POST]", "[GET]"}, {"[/a, ", "[/x, "}, {"header A, ", ""},
		{"cookie c", "query c"}, {"websocket: true", "websocket: false"}, {"scrub: never", "scrub: always"}, {", scrub: never", ""}, {"misplaced: refuse", "misplaced: forward"},
		{"1KiB", "2KiB"}, {"credentials: strip", "credentials: pass"}, {"2030-01-01", "2030-01-02"}, {", expires: 2030-01-01", ""}, {", scheme: http", ""},
		{"passthrough: true, raw: true, reason: pins", "deny: true"}, {", raw: true", ""}, {"reason: pins", "reason: other"}, {", deny: true", ""}, {":22", ":23"},
		{"f.example.com:1", "f.example.com:2"}, {"ca: ca.pem", "ca: cb.pem"}, {"c.pem", "x.pem"}, {"k.pem", "x.pem"},
		{"secrets: [gh], ttl", "secrets: [gh, st], ttl"}, {"ttl: 1h", "ttl: 2h"}, {"uses: 3", "uses: 4"}, {"isolation: tree", "isolation: session"},
		{"inherit: [E]", "inherit: [F]"}, {"extends: command", "extends: tree"}, {", inherit: all", ""}, {"unmatched: deny", "unmatched: passthrough"},
	} {
		text := strings.Replace(trustedRules, change[0], change[1], 1)
		if text == trustedRules {
			t.Fatalf("%q is not in the file", change[0])
		}
		if slices.Equal(grants(text), before) {
			t.Errorf("%q for %q is not shown", change[1], change[0])
		}
	}
}

func TestNoServiceOfTheCatalogNeedsAVariableOfOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "standin.yaml")
	if _, err := initRules(t.Context(), path, catalog.Names()); err != nil {
		t.Fatal(err)
	}
	if _, err := readRules(path); err != nil {
		t.Error(err)
	}
}
