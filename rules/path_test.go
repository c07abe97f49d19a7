package rules

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestPathsThatReadInOneWayAreCut(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][]string{
		"/":              {""},
		"/a":             {"a"},
		"/a/":            {"a", ""},
		"/a%20b/c%C3%BC": {"a b", "cü"},
		"/a+b;c=d/~x@y":  {"a+b;c=d", "~x@y"},
		"/...":           {"..."},
		"/.git/a.b":      {".git", "a.b"},
		"/%3f%23":        {"?#"},
		"/100%25":        {"100%"},
		"/a%25zz":        {"a%zz"},
	} {
		if got, ok := NormalPath(raw); !ok || !slices.Equal(got, want) {
			t.Errorf("NormalPath(%q) = %q, %v; want %q", raw, got, ok, want)
		}
	}
}

func TestPathsThatReadInTwoWaysAreAmbiguous(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "a", "*", "//", "/a//b", "//a", "/.", "/..", "/a/./b", "/a/../b", "/a/..", "/%2e%2e/a", "/%2E/a", "/a%2eb", "/a%2fb", "/a%2Fb",
		"/a%5cb", `/a\b`, "/..;/a", "/.;x/a", "/a%", "/a%4", "/a%zz", "/a%00", "/a%0d%0a", "/a\x00", "/a\n", "/a\x7f", "/a%7f", "/a b", "/a?b", "/a#b",
		"/ü", "/%c0%ae%c0%ae/a", "/%ff", "/%C3", "/%C3a", "/%ed%a0%80", "/%252e%252e/a", "/a%252fb", "/a%255cb", "/a%25252e", "/a%2500",
		"/a%252%66b", "/a%25%32%66b", "/%25%32%65%252%65/a", "/a%250%30", "/a%25%35c", "/a%25%32%35b"} {
		if got, ok := NormalPath(raw); ok {
			t.Errorf("NormalPath(%q) = %q, want ambiguous", raw, got)
		}
	}
}

func TestPathPatternsMatchWholeSegments(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ pattern, yes, no string }{
		{"/", "/", "/a"},
		{"/a", "/a /%61", "/ /a/ /A /ab /a/b"},
		{"/a/", "/a/", "/a /a/b"},
		{"/a/*", "/a/b /a/%20", "/a /a/ /a/b/c /a/b/"},
		{"/a/**", "/a /a/ /a/b /a/b/c/", "/ /b /ab"},
		{"/**", "/ /a /a/b/", ""},
		{"/*/b", "/x/b", "/b /x/y/b /x/c"},
		{"/t/{}/x", "/t/P/x", "/t//x /t/x /t/P/y"},
		{"/bot{}/*", "/botP/getMe /bo%74P/x", "/bot/getMe /Bot1/x /xbotP/y"},
		{"/a{}z", "/abz /ab%7a /azzz", "/az /abzy"},
		{"/a%20b", "/a%20b", "/a+b /a%2520b"},
	} {
		p, problem, _ := parsePathPattern(tt.pattern)
		if problem != "" {
			t.Fatalf("%q: %s", tt.pattern, problem)
		}
		for _, path := range strings.Fields(tt.yes) {
			if !unambiguous(path) || !p.matches(path) {
				t.Errorf("%q does not match %q", tt.pattern, path)
			}
		}
		for _, path := range strings.Fields(tt.no) {
			if unambiguous(path) && p.matches(path) {
				t.Errorf("%q matches %q", tt.pattern, path)
			}
		}
	}
}

// The order of patterns, checked against all paths over a small alphabet: where
// two patterns match one path, one is the more specific, or both are the same.
func TestOverlapIsFoundExactlyWhereSomePathFitsBoth(t *testing.T) {
	t.Parallel()
	parts := []string{"", "a", "ab", "abb", "b", "xb"}
	paths := []string{}
	for _, x := range parts {
		paths = append(paths, "/"+x)
		for _, y := range parts {
			if x != "" {
				paths = append(paths, "/"+x+"/"+y)
			}
		}
	}
	var patterns []PathPattern
	for _, s := range []string{"/", "/a", "/b", "/*", "/{}", "/**", "/a/b", "/a/*", "/a/**", "/*/b", "/*/*", "/*/**", "/a{}", "/ab{}", "/{}b", "/a{}b", "/x{}", "/a{}/b", "/a/", "/*/"} {
		p, problem, _ := parsePathPattern(s)
		if problem != "" {
			t.Fatalf("%q: %s", s, problem)
		}
		patterns = append(patterns, p)
	}
	for _, a := range patterns {
		for _, b := range patterns {
			both := slices.ContainsFunc(paths, func(p string) bool { return a.matches(p) && b.matches(p) })
			if got := overlap(a.segments, b.segments); got != both {
				t.Errorf("%q and %q: overlap %v, want %v", a.text, b.text, got, both)
			}
			if moreSpecific(a.segments, b.segments) != -moreSpecific(b.segments, a.segments) {
				t.Errorf("%q and %q: the order is not an order", a.text, b.text)
			}
			if both && moreSpecific(a.segments, b.segments) == 0 && shapeOf(a.segments) != shapeOf(b.segments) {
				t.Errorf("%q and %q overlap and are equal, but are not in one group", a.text, b.text)
			}
		}
	}
}

func FuzzNormalPath(f *testing.F) {
	for _, s := range []string{"/repos/acme/x", "/a%20b", "/%2e%2e/", "/..;/", "/%c0%ae", "/a/", "//", "/botP/x", "/%25zz", "/%250%30", "/%25%32%66"} {
		f.Add(s)
	}
	patterns := make([]PathPattern, 0, 8)
	for _, s := range []string{"/repos/**", "/a%20b", "/*/", "/bot{}/*", "/{}z", "/"} {
		p, _, _ := parsePathPattern(s)
		patterns = append(patterns, p)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		segments, ok := NormalPath(raw)
		if !ok {
			return
		}
		var escaped strings.Builder
		for i, s := range segments {
			// No decoded segment can be taken for more than one, or for none.
			if s == "." || s == ".." || strings.ContainsAny(s, "/\\\x00\r\n") || s == "" && i < len(segments)-1 {
				t.Fatalf("%q has segment %q", raw, s)
			}
			escaped.WriteString("/" + url.PathEscape(s))
		}
		again, ok := NormalPath(escaped.String())
		if !ok || !slices.Equal(again, segments) {
			t.Fatalf("%q is %q, escaped again %q (%v)", raw, segments, again, ok)
		}
		// Rules see the decoded path, however it was escaped.
		for i := range patterns {
			if patterns[i].matches(raw) != patterns[i].matches(escaped.String()) {
				t.Fatalf("%q and %q differ for %q", raw, escaped.String(), patterns[i].text)
			}
		}
	})
}
