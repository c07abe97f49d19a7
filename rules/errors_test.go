package rules

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// head makes a file around one rule, which begins in line 4.
const head = "version: 1\nsecrets: {gh: {source: 'vault:gh'}}\nrules:\n"

func rule(text string) string { return head + "- {name: r, " + text + "}\n" }

// Each file must fail with exactly this line, message and fix.
var faults = []struct{ name, file, want string }{
	{"H01 tab indent", "version: 1\nrules:\n\t- x\n", "line 3: not valid YAML: found character that cannot start any token | indent with spaces, not tabs, and put text that begins with @, ` or % in quotes"},
	{"H01 bad UTF-8", "version: 1\n# \xff\n", "line 2: not valid UTF-8 | save the file as UTF-8"},
	{"H01 UTF-16", "\xff\xfev\x00e\x00", "line 1: a NUL byte | save the file as UTF-8"},
	{"H01 NUL", "version: 1\n\nrules: \x00", "line 3: a NUL byte | save the file as UTF-8"},
	{"H01 unclosed", "version: 1\nrules: [\n", "line 2: not valid YAML: did not find expected node content | check indentation, brackets and quotes there and in the line above"},
	{"H01 more than 1 MiB", strings.Repeat("# 0123456\n", 110_000), "larger than 1 MiB | split it: a file for each kind of work, named by --rules"},
	{"H01 5 MiB scalar", "version: " + strings.Repeat("1", 5<<20), "larger than 1 MiB | split it: a file for each kind of work, named by --rules"},
	{"H02 alias", "version: 1\nrules: [&a [], *a]\n", "line 2: an anchor or alias | write the value out; if it is text that begins with & or *, put it in quotes"},
	{"H02 billion laughs", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "line 1: an anchor or alias | write the value out; if it is text that begins with & or *, put it in quotes"},
	{"unknown alias", "version: *ghp_REAL\n", "line 1: an anchor or alias | write the value out; if it is text that begins with & or *, put it in quotes"},
	{"H02 depth 200k", strings.Repeat("[", 200_000), "not valid YAML: exceeded max depth of 10000 | the rules file needs no deep nesting"},
	{"H02 depth", "version: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "line 1: nested too deeply | the rules file needs no deep nesting"},
	{"merge key", "version: 1\n<<: {unmatched: deny}\n", "line 2: a merge key | write the keys out"},
	{"H08 binary", rule("hosts: [!!binary aGk=]"), "line 4: a tag | remove the word that begins with !, or put text that begins with ! in quotes"},
	{"own tag", "version: !x 1\n", "line 1: a tag | remove the word that begins with !, or put text that begins with ! in quotes"},
	{"two documents", "version: 1\n---\nversion: 1\n", "line 2: a second document | remove the line --- and keep one document a file"},
	{"H04 unknown key", "version: 1\nhost: x\n", "line 2: unknown field \"host\" | known here: profiles, rules, secrets, sources, unmatched, upstreams, version"},
	{"H04 mistyped key", rule("hsots: [a.test]"), "line 4: unknown field \"hsots\" | did you mean \"hosts\"?\nline 4: rule \"r\" has no hosts | add hosts: [api.example.com]"},
	{"H04 singular", rule("host: [a.test]"), "line 4: unknown field \"host\" | did you mean \"hosts\"?\nline 4: rule \"r\" has no hosts | add hosts: [api.example.com]"},
	{"H05 duplicate key", "version: 1\nunmatched: deny\nunmatched: deny\n", "line 3: the file: a key twice \"unmatched\" | it stands in line 2 already; keep one of them"},
	{"H05 duplicate rule name", head + "- {name: r, hosts: [a.test]}\n- {name: r, hosts: [b.test]}\n", "line 5: two rules with the name \"r\", the other in line 4 | give it another name"},
	{"H05 host twice with another header", head + "- {name: a, hosts: [a.test], substitute: [{secret: gh, in: header Authorization}]}\n- {name: b, hosts: [a.test], substitute: [{secret: gh, in: header X-Api-Key}]}\n",
		"line 5: rules \"a\" (line 4) and \"b\" both match every request at a.test, and neither is the more specific | narrow one of them by paths or methods, or merge them"},
	{"H05 host twice in a rule", rule("hosts: [a.test, 'a.test:443']"), "line 4: rule \"r\": a host twice \"a.test:443\" | keep one of them"},
	{"H05 entry twice", rule("hosts: [a.test, a.test]"), "line 4: rule \"r\": hosts: an entry twice \"a.test\" | keep one of them"},
	{"H08 yes", rule("hosts: [yes]"), "line 4: rule \"r\": hosts is not text to YAML | put it in quotes if it is meant as text"},
	{"H08 1.0", rule("hosts: [1.0]"), "line 4: rule \"r\": hosts is not text to YAML | put it in quotes if it is meant as text"},
	{"H08 0x10", rule("hosts: [0x10]"), "line 4: rule \"r\": hosts is not text to YAML | put it in quotes if it is meant as text"},
	{"H08 quoted number", rule("hosts: ['1.0']"), "line 4: rule \"r\": hosts: an IPv4 address that is not written as four decimal numbers \"1.0\" | write a name like api.example.com, *.example.com or api.example.com:8443"},
	{"H08 escaped NUL", rule(`hosts: ["a\0b\nc"]`), "line 4: rule \"r\": hosts holds a control or an invisible character | remove it"},
	{"bidi override", rule("hosts: [a.test], passthrough: true, reason: \"a\u202eb\""), "line 4: rule \"r\": reason holds a control or an invisible character | remove it\nline 4: rule \"r\": passthrough without a reason | add reason: why it cannot be intercepted"},
	{"H25 secret to every host", rule("hosts: ['*'], substitute: [{secret: gh, in: header Authorization}]"), "line 4: rule \"r\": hosts: a rule for every host \"*\" | name the hosts; \"unmatched\" decides for all others"},
	{"H25 every secret", rule("hosts: [a.test], substitute: [{secret: '*', in: header Authorization}]"), "line 4: rule \"r\" names a secret that is not defined \"*\" | define it under secrets"},
	{"C39 upper case", rule("hosts: [API.example.com]"), "line 4: rule \"r\": hosts: upper case in a host \"API.example.com\" | write api.example.com"},
	{"C39 trailing dot", rule("hosts: [api.example.com.]"), "line 4: rule \"r\": hosts: an empty label (a dot at an end, or two in a row) \"api.example.com.\" | write api.example.com"},
	{"C39 path", rule("hosts: [api.example.com/v1]"), "line 4: rule \"r\": hosts: a path where a host belongs \"api.example.com/v1\" | write the host only, and the path under \"paths\""},
	{"C39 URL", rule("hosts: ['https://a.test']"), "line 4: rule \"r\": hosts: a URL where a host belongs \"https://a.test\" | write the host only, like api.example.com"},
	{"C39 bad port", rule("hosts: ['a.test:0443']"), "line 4: rule \"r\": hosts: the port is not a number from 1 to 65535 without leading zeros \"a.test:0443\" | write a name like api.example.com, *.example.com or api.example.com:8443"},
	{"C40 github.io", rule("hosts: ['*.github.io']"), "line 4: rule \"r\": hosts: a wildcard over a public suffix, under which anybody can have a name \"*.github.io\" | name the hosts, or a wildcard one label further down"},
	{"C17 U-label", rule("hosts: [bücher.test]"), "line 4: rule \"r\": hosts: a character outside ASCII (an international name is written as xn--…) | write a name like api.example.com, *.example.com or api.example.com:8443"},
	{"C33 passthrough and intercept", head + "- {name: a, hosts: [a.test], passthrough: true, reason: pins}\n- {name: b, hosts: [a.test], methods: [GET]}\n", "line 5: rules \"a\" (line 4) and \"b\": a.test is in both, and one of them is passthrough | keep one of them for this host"},
	{"E27 empty hosts", rule("hosts: []"), "line 4: rule \"r\": hosts is empty | an empty list allows nothing; fill it, or remove the line"},
	{"E27 empty methods", rule("hosts: [a.test], methods: []"), "line 4: rule \"r\": methods is empty | an empty list allows nothing; fill it, or remove the line"},
	{"E27 empty paths", rule("hosts: [a.test], paths: []"), "line 4: rule \"r\": paths is empty | an empty list allows nothing; fill it, or remove the line"},
	{"no version", "rules: []\n", "line 1: the version is missing | begin the file with: version: 1"},
	{"newer version", "version: 2\n", "line 1: a version that this standin does not know | write version: 1; a higher one belongs to a newer standin"},
	{"not a mapping", "- x\n", "line 1: the file is not a mapping | write it as key: value"},
	{"no value", "version: 1\nunmatched:\n", "line 2: the file: \"unmatched\" has no value | write a value, or remove the line"},
	{"choice", "version: 1\nunmatched: allow\n", "line 2: unmatched has a value that it does not know | write passthrough or deny"},
	{"scalar for list", rule("hosts: a.test"), "line 4: rule \"r\": hosts is not a list | write it in brackets, like [one, two]"},
	{"no name", head + "- {hosts: [a.test]}\n", "line 4: a rule has no name | add name: my-rule; it stands in errors and in the log"},
	{"lower-case method", rule("hosts: [a.test], methods: [get]"), "line 4: rule \"r\": a method in lower case | write GET"},
	{"CONNECT", rule("hosts: [a.test], methods: [CONNECT]"), "line 4: rule \"r\": CONNECT is never forwarded | remove it"},
	{"dot path", rule("hosts: [a.test], paths: [/a/../b]"), "line 4: rule \"r\": paths: a path that can be read in two ways \"/a/../b\" | leave out dots, empty segments, encoded slashes and control characters"},
	{"relative path", rule("hosts: [a.test], paths: [a]"), "line 4: rule \"r\": paths: a path that does not begin with a slash \"a\" | write it like /repos/**"},
	{"inner **", rule("hosts: [a.test], paths: ['/a/**/b']"), "line 4: rule \"r\": paths: ** before the end of a path \"/a/**/b\" | ** stands for the rest; write * for one segment"},
	{"part of a segment", rule("hosts: [a.test], paths: ['/a*']"), "line 4: rule \"r\": paths: a wildcard that is not a whole segment \"/a*\" | write * for one segment, ** for the rest, {} for the segment that holds the placeholder"},
	{"two slots", rule("hosts: [a.test], paths: ['/{}/{}']"), "line 4: rule \"r\": paths: more than one {} in a path \"/{}/{}\" | a placeholder stands in one segment"},
	{"slot without surface", rule("hosts: [a.test], paths: ['/{}']"), "line 4: rule \"r\": {} in a path, but nothing is substituted there | add in: path, or write * for {}"},
	{"surface without slot", rule("hosts: [a.test], substitute: [{secret: gh, in: path}]"), "line 4: rule \"r\": in: path, but no path has {} | mark the segment that holds the placeholder, like /bot{}/**"},
	{"same paths", rule("hosts: [a.test], paths: ['/a%62', /ab]"), "line 4: rule \"r\": two paths that mean the same | keep one of them"},
	{"unknown surface", rule("hosts: [a.test], substitute: [{secret: gh, in: headers X}]"), "line 4: rule \"r\": substitute: no such surface | " + surfaceFix},
	{"header Host", rule("hosts: [a.test], substitute: [{secret: gh, in: header host}]"), "line 4: rule \"r\": substitute: no secret can stand in header Host | name the header that carries the credential, like header Authorization"},
	{"header Cookie", rule("hosts: [a.test], substitute: [{secret: gh, in: header Cookie}]"), "line 4: rule \"r\": substitute: a cookie is a surface of its own | write cookie NAME"},
	{"bad pointer", rule("hosts: [a.test], substitute: [{secret: gh, in: json /a~2}]"), "line 4: rule \"r\": substitute: a bad escape in the JSON pointer | write ~0 for ~ and ~1 for /"},
	{"surface twice", rule("hosts: [a.test], substitute: [{secret: gh, in: [header x-a, header X-A]}]"), "line 4: rule \"r\": substitute: a surface twice for one secret | keep one of them"},
	{"unknown secret", rule("hosts: [a.test], substitute: [{secret: gg, in: body}]"), "line 4: rule \"r\" names a secret that is not defined \"gg\" | did you mean \"gh\"?"},
	{"websocket refused", rule("hosts: [a.test], substitute: [{secret: gh, in: websocket}]"), "line 4: rule \"r\": a websocket surface, but upgrades are refused | add websocket: true"},
	{"passthrough without reason", rule("hosts: [a.test], passthrough: true"), "line 4: rule \"r\": passthrough without a reason | add reason: why it cannot be intercepted"},
	{"passthrough with paths", rule("hosts: [a.test], passthrough: true, reason: x, paths: [/a]"), "line 4: rule \"r\": paths has no meaning with passthrough: true | remove it, or make two rules"},
	{"deny with substitute", rule("hosts: [a.test], deny: true, substitute: [{secret: gh, in: body}]"), "line 4: rule \"r\": substitute has no meaning with deny: true | remove it, or make two rules"},
	{"raw alone", rule("hosts: [a.test], raw: true"), "line 4: rule \"r\": raw without passthrough | add passthrough: true and a reason"},
	{"bad date", rule("hosts: [a.test], expires: tomorrow"), "line 4: rule \"r\": expires is not a date | write it like 2030-12-31 or 2030-12-31T18:00:00Z"},
	{"bad size", rule("hosts: [a.test], read-first: 1GB"), "line 4: rule \"r\": read-first is not a size | write it like 64KiB or 4MiB"},
	{"secret without source", "version: 1\nsecrets:\n  a: {env: [A]}\n", "line 3: secret \"a\" has no source | add source: vault:a"},
	{"value for a source", "version: 1\nsecrets:\n  a: {source: ghp_REALrealREALreal0123456789}\n", "line 3: secret \"a\": the source is not one | begin with vault: env: file: exec: hcp: aws-sm: op: or keyring:, and keep the value itself out of this file: standin vault set NAME"},
	{"placeholder form", "version: 1\nsecrets:\n  a: {source: 'vault:a', placeholder: ghp_REALrealREALreal0123456789}\n", "line 3: secret \"a\": the placeholder does not have the form of one | make one with: standin rules placeholder a"},
	{"placeholder twice", "version: 1\nsecrets:\n  a: {source: 'vault:a', placeholder: zstandin_abcdefghijklmnopqrstuvwxyz}\n  b: {source: 'vault:b', placeholder: x_zstandin_abcdefghijklmnopqrstuvwxyz}\n", "line 4: secrets \"a\" and \"b\" have the same placeholder | make one with: standin rules placeholder b"},
	{"placeholder and shape", "version: 1\nsecrets:\n  a: {source: 'vault:a', shape: ghp_, placeholder: zstandin_abcdefghijklmnopqrstuvwxyz}\n", "line 3: secret \"a\": the placeholder does not begin with the shape | make one with: standin rules placeholder a"},
	{"variable twice", "version: 1\nsecrets:\n  a: {source: 'vault:a', env: [TOKEN]}\n  b: {source: 'vault:b', env: [TOKEN]}\n", "line 4: secrets \"a\" and \"b\" both want one variable of the command \"TOKEN\" | use one of them, or a profile for each"},
	{"delivered and substituted", "version: 1\nsecrets: {a: {source: 'vault:a', deliver: env, env: [A]}}\nrules:\n- {name: r, hosts: [a.test], substitute: [{secret: a, in: body}]}\n", "line 4: rule \"r\": secret \"a\" is delivered as it is, and has no placeholder | remove deliver, or this substitution"},
	{"deliver without variable", "version: 1\nsecrets: {a: {source: 'vault:a', deliver: env}}\n", "line 2: secret \"a\" is delivered by env, but not into one variable | add env: [NAME] with the one variable that gets it"},
	{"undefined exec", "version: 1\nsecrets: {a: {source: 'exec:x'}}\n", "line 2: secret \"a\": the source's command is not defined | add sources: {exec:x: {command: [PROGRAM]}}"},
	{"token in sources", "version: 1\nsources: {hcp: {token: hvs.REALrealREALreal0123456789}}\n", "line 2: source \"hcp\": token is not a source | write env:NAME, file:PATH or vault:NAME"},
	{"upstream wildcard", "version: 1\nupstreams: {'*.a.test': {}}\n", "line 2: upstreams: a wildcard \"*.a.test\" | name each host"},
	{"upstream dial", "version: 1\nupstreams: {a.test: {dial: 10.0.0.7}}\n", "line 2: upstream \"a.test\": dial: the port is missing | write \"host:port\""},
	{"half a certificate", "version: 1\nupstreams: {a.test: {client-cert: a.pem}}\n", "line 2: upstream \"a.test\": half of a client certificate | name both client-cert and client-key"},
	{"profile without secrets", "version: 1\nprofiles:\n  a: {ttl: 1h}\n", "line 3: profile \"a\" does not say which secrets it has | add secrets: [NAME], or secrets: [] for none"},
	{"profile ttl", "version: 1\nprofiles:\n  a: {secrets: [], ttl: 0s}\n", "line 3: profile \"a\": ttl is not a length of time that it can be | write it like 90s, 30m or 8h, up to 8760h"},
	{"profile secret", "version: 1\nsecrets: {gh: {source: 'vault:gh'}}\nprofiles:\n  a: {secrets: [gj]}\n", "line 4: profile \"a\" names a secret that is not defined \"gj\" | did you mean \"gh\"?"},
}

func TestEachFaultHasItsLineAndItsFix(t *testing.T) {
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse("standin.yaml", []byte(tt.file))
			if err == nil || p != nil {
				t.Fatalf("policy %v, error %v; want no policy (H10) and an error", p, err)
			}
			var lines []string
			for _, e := range all(t, err) {
				if e.File != "standin.yaml" {
					t.Errorf("the error names file %q", e.File)
				}
				where := ""
				if e.Line > 0 {
					where = fmt.Sprintf("line %d: ", e.Line)
				}
				lines = append(lines, where+e.Msg+" | "+e.Fix)
			}
			if got := strings.Join(lines, "\n"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if strings.Contains(err.Error(), "REAL") {
				t.Errorf("the error shows what could be a secret: %v", err)
			}
		})
	}
}

func all(t *testing.T, err error) (list []*Error) {
	t.Helper()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, all(t, e)...)
		}
		return list
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is not an *Error", err)
	}
	return []*Error{e}
}

func TestB29NoErrorShowsAValueThatCouldBeASecret(t *testing.T) {
	const canary = "ghp_REALrealREALreal0123456789"
	full := "version: 1\nsecrets: {gh: {source: 'vault:gh', shape: ghp_, env: [A], min-length: 20}}\n" +
		"sources: {'exec:x': {command: [a], timeout: 1s, env: [A]}, hcp: {token: 'env:T', auth: token}}\n" +
		"rules:\n- name: r\n  hosts: [a.test]\n  methods: [GET]\n  paths: [/a]\n  scheme: https\n  scrub: always\n  read-first: 1KiB\n" +
		"  expires: 2030-01-01\n  substitute: [{secret: gh, in: [header A, cookie c, json /p, form f]}]\n" +
		"upstreams: {a.test: {dial: 'a.test:1'}}\nprofiles: {default: {secrets: [gh], ttl: 1h, uses: 3, isolation: tree, inherit: [A]}}\nunmatched: deny\n"
	if _, err := Parse("f", []byte(full)); err != nil {
		t.Fatal(err)
	}
	words := []string{"1", "vault:gh", "ghp_", "[A]", "20", "exec:x", "hcp", "1s", "env:T", "token", "r", "a.test", "GET", "/a", "https", "always",
		"1KiB", "2030-01-01", "gh", "header A", "cookie c", "json /p", "a.test:1", "1h", "3", "tree", "deny", "rules", "name", "secrets"}
	tried := 0
	for _, word := range words {
		for _, value := range []string{canary, "'" + canary + "'", "*" + canary, "!" + canary + " x", "{" + canary + ": " + canary + "}", "`" + canary, "'" + canary} {
			file := strings.Replace(full, word, value, 1)
			_, err := Parse("f", []byte(file))
			if err == nil {
				continue
			}
			tried++
			for _, e := range all(t, err) {
				if strings.Contains(e.Error()+e.Fix, canary) {
					t.Errorf("%q for %q: %v | %s", value, word, e, e.Fix)
				}
			}
		}
	}
	if tried < 100 {
		t.Fatalf("only %d of the files fail", tried)
	}
}
