package grant

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"standin/rules"
)

// Values that are written alike wherever they stand, so that they can be counted.
const (
	mainValue    = "REALvalue0123456789"
	anotherValue = "OTHERvalue0123456789"
)

const placesRules = `version: 1
secrets:
  main: {source: "vault:main", shape: ghp_}
  other: {source: "vault:other"}
  stranger: {source: "vault:stranger"}
rules:
  - {name: places, hosts: [a.test], paths: ["/t/{}/x"], substitute: [{secret: main, in: [header Authorization, header X-Key, basic password, cookie sid, query api_key, path]}]}
  - {name: bare, hosts: [a.test], substitute: [{secret: main, in: header X-Key}]}
profiles:
  default: {secrets: [main, other]}
`

// head is what the fuzzer makes up of a request.
type head struct{ name, value, cookie, path, query string }

// spelled puts placeholders, in several spellings, where the letters are.
func (h head) spelled() head {
	every := func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			b.WriteString("%" + strings.ToUpper(string("0123456789abcdef"[c>>4])+string("0123456789abcdef"[c&15])))
		}
		return b.String()
	}
	r := strings.NewReplacer("P", pMain, "Q", pOther, "S", pStranger, "E", every(pMain),
		"B", base64.StdEncoding.EncodeToString([]byte("u:"+pMain)), "U", base64.StdEncoding.EncodeToString([]byte(pMain+":x")))
	return head{r.Replace(h.name), r.Replace(h.value), r.Replace(h.cookie), r.Replace(h.path), r.Replace(h.query)}
}

// part is one part of a request as its receiver reads it.
type part struct{ where, text string }

var escapes = regexp.MustCompile("%[0-9a-fA-F]{2}")

// patient decodes what can be decoded, and leaves the rest.
func patient(text string) string {
	return escapes.ReplaceAllStringFunc(text, func(e string) string {
		b, _ := hex.DecodeString(e[1:])
		return string(b)
	})
}

// parts takes a request apart, raw and decoded.
func parts(r *Request) []part {
	var all []part
	add := func(where string, texts ...string) {
		for _, text := range texts {
			all = append(all, part{where, text})
		}
	}
	for name, values := range r.Header {
		add("name", strings.ToLower(name))
		for _, value := range values {
			if name == "Cookie" {
				for pair := range strings.SplitSeq(value, ";") {
					bare, content, _ := strings.Cut(pair, "=")
					add("name", bare)
					add("cookie "+strings.TrimSpace(bare), content)
				}
				continue
			}
			if scheme, coded, ok := strings.Cut(value, " "); ok && name == "Authorization" && strings.EqualFold(scheme, "Basic") {
				plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.Trim(coded, " \t"), "="))
				user, password, _ := strings.Cut(string(plain), ":")
				if err == nil {
					add("basic user", user)
					add("basic password", password)
				}
			}
			add("header "+name, value)
		}
	}
	for i, segment := range strings.Split(r.Path, "/") {
		where := "path"
		if i != 2 || r.Match.Segment != 1 {
			where = "another segment"
		}
		decoded := patient(segment)
		add(where, decoded)
		if decoded != segment {
			add("as it came", segment)
		}
	}
	for piece := range strings.SplitSeq(r.Query, "&") {
		name, value, _ := strings.Cut(piece, "=")
		add("as it came", name, value)
		name, value = patient(strings.ReplaceAll(name, "+", " ")), patient(strings.ReplaceAll(value, "+", " "))
		add("name", name)
		add("query "+name, value)
	}
	return all
}

// No known placeholder leaves in a header, a cookie, the path or the query; a
// value stands only at the surfaces of the rule, as often as the plan says; and
// without a use nothing changes.
func FuzzRequest(f *testing.F) {
	for _, h := range []head{
		{"X-Key", "P", "sid=P; a=b", "/t/P/x", "api_key=P&b=c"}, {"Authorization", "Bearer P", "", "/t/E/x", "api_key=E"},
		{"Authorization", "Basic B", "sid=1", "/", ""}, {"Authorization", "Basic U", "", "/t/y/x", "P=1"}, {"X-P", "1", "a=P", "/P", "x=P"},
		{"X-Key", "Q", "sid=S", "/t/y/P", "api_key=1&api_key=P"}, {"Q", "1", "", "/", ""},
		{"P", "1", "", "/", ""}, {"X-Key", "PP", "P=1", "/t/P%2f/x", "api_key=P+%50"}, {"Cookie", "sid=P", "sid=P", "/other", "api_key=Px"},
		{"X-A", "1", "", "/t/P!/x", ""}, {"X-A", "1", "", "/x/E%", "y=E%&%zzE=1"}, {"X-A", "1", "", "/t/P%41/x", "api_key=P%41"}, {"X-A", "1", "", "/t/y/x", "api_key=%zz+P"}, {"X-A", "1", "a=\"x; sid=P\"", "/%zzE", "y=%P"},
	} {
		f.Add(h.name, h.value, h.cookie, h.path, h.query)
	}
	s := placesSession(f, mainValue)
	policy := s.Policy
	a := rules.Authority{Host: "a.test", Port: 443}
	f.Fuzz(func(t *testing.T, name, value, cookie, path, query string) {
		h := head{name, value, cookie, path, query}.spelled()
		onWire := func(text string) bool {
			return !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' || c == '?' })
		}
		if !httpguts.ValidHeaderFieldName(h.name) || !httpguts.ValidHeaderFieldValue(h.value) || !httpguts.ValidHeaderFieldValue(h.cookie) ||
			!onWire(h.path) || !onWire(strings.ReplaceAll(h.query, "?", "")) || !strings.HasPrefix(h.path, "/") {
			return
		}
		r := &Request{At: a, Header: http.Header{}, Path: h.path, Query: h.query,
			Match: policy.Match(rules.Target{Authority: a, Scheme: "https", Method: "GET", Path: h.path})}
		if h.cookie != "" {
			r.Header["Cookie"] = []string{h.cookie}
		}
		r.Header.Add(h.name, h.value)
		before := Request{Header: r.Header.Clone(), Path: r.Path, Query: r.Query}
		for _, p := range parts(r) {
			if strings.Contains(p.text, mainValue) || strings.Contains(p.text, anotherValue) {
				return
			}
		}
		plan, err := s.Prepare(t.Context(), r)
		if err != nil {
			if refusal := (*Refusal)(nil); !errors.As(err, &refusal) || AsRefusal(err).Code == "internal" {
				t.Fatalf("%+v: %v", h, err)
			}
			return
		}
		plan.Apply(r)
		if len(plan.Uses) == 0 && (!reflect.DeepEqual(r.Header, before.Header) || r.Path != before.Path || r.Query != before.Query) {
			t.Fatalf("%+v changed without a use", h)
		}
		checkParts(t, s, r, plan)
	})
}

func checkParts(t *testing.T, s *Session, r *Request, plan *Plan) {
	t.Helper()
	allowed := []string{"header X-Key"}
	if r.Match.Rule.Name == "places" {
		allowed = []string{"header X-Key", "header Authorization", "basic password", "cookie sid", "query api_key", "path"}
	}
	found := 0
	for _, p := range parts(r) {
		if hit, ok := s.index.Next(p.text, 0); ok {
			t.Fatalf("the placeholder of %s leaves in %s: %q", hit.Placeholder.Secret, p.where, p.text)
		}
		if strings.Contains(p.text, anotherValue) {
			t.Fatalf("a value that no rule names leaves in %s", p.where)
		}
		if n := strings.Count(p.text, mainValue); n > 0 && p.where != "as it came" { // it counts where it is decoded
			if found += n; !slices.Contains(allowed, p.where) {
				t.Fatalf("the value leaves in %s: %q", p.where, p.text)
			}
		}
	}
	for _, use := range plan.Uses {
		if found -= use.Count; use.Secret != "main" {
			t.Fatalf("%+v is used", use)
		}
	}
	if found != 0 {
		t.Fatalf("%+v: the value stands there %d times more often", plan.Uses, found)
	}
}

func placesSession(t testing.TB, value string) *Session {
	t.Helper()
	return openWith(t, placesRules, value, anotherValue)
}

var placesHost = rules.Authority{Host: "a.test", Port: 443}

// sent prepares a request of head alone and applies the plan, or says with which
// code it was refused.
func sent(t testing.TB, s *Session, h head) (r *Request, code string) {
	t.Helper()
	path, query, _ := strings.Cut(h.path, "?")
	r = &Request{At: placesHost, Header: http.Header{}, Path: path, Query: query + h.query,
		Match: s.Policy.Match(rules.Target{Authority: placesHost, Scheme: "https", Method: "GET", Path: path})}
	if h.cookie != "" {
		r.Header["Cookie"] = []string{h.cookie}
	}
	if h.name != "" {
		r.Header.Add(h.name, h.value)
	}
	plan, err := s.Prepare(t.Context(), r)
	if err != nil {
		return nil, AsRefusal(err).Code
	}
	plan.Apply(r)
	return r, ""
}

// A bad escape must not keep the good ones from being looked at: readers decode
// what they can.
func TestAPlaceholderBesideABadEscapeIsSeen(t *testing.T) {
	s := placesSession(t, mainValue)
	coded := "%7a" + pStranger[1:]
	for path, want := range map[string]string{
		"/x?y=" + coded + "%": "placeholder_misplaced", "/x?%zz" + coded + "=1": "placeholder_misplaced", "/x?y=%q" + coded: "placeholder_misplaced", "/x?%" + coded: "placeholder_misplaced",
		"/x/" + coded + "%": "placeholder_misplaced", "/%zz" + coded + "/x": "placeholder_misplaced", "/t/y/x?api_key=%zz+" + pMain: "bad_request", "/t/y/x?api_key=%": "bad_request",
		"/t/y/x?api_key=%zz+" + strings.ReplaceAll(pMain, "z", "%7A"): "bad_request", "/x?y=%zz&%=%": "", "/t/y/x?api_key=" + pMain + "&y=%": "",
		"/t/" + pMain + "%41/x": "placeholder_misplaced", "/x/" + pMain + "%41": "placeholder_misplaced", "/t/y/x?api_key=" + pMain + "%41": "placeholder_misplaced", "/x?" + pMain + "%5f": "placeholder_misplaced",
	} {
		if _, code := sent(t, s, head{path: path}); code != want {
			t.Errorf("%s: %q, want %q", path, code, want)
		}
	}
}

// To a reader that knows quoted texts the value would stand in another cookie.
func TestACookieInAnOpenQuoteIsRefused(t *testing.T) {
	s := placesSession(t, mainValue)
	for cookie, want := range map[string]string{
		`note="x; sid=` + pMain + `"`: "bad_request", `note="x; sid=1"`: "bad_request", `note="x\"; sid=` + pMain + `; b="`: "bad_request", `sid="` + pMain: "bad_request",
		`note="x"; sid="` + pMain + `"`: "", `j={"a":1}; sid=` + pMain: "", `note=x; sid=` + pMain: "",
	} {
		r, code := sent(t, s, head{path: "/t/y/x", cookie: cookie})
		if code != want || code == "" && r.Header.Get("Cookie") != strings.ReplaceAll(cookie, pMain, mainValue) {
			t.Errorf("%s: %q, want %q; %v", cookie, code, want, r)
		}
	}
	if _, code := sent(t, s, head{path: "/", cookie: `note="x; sid=1"`}); code != "" {
		t.Errorf("where no cookie is named: %q", code)
	}
}

// What HTTP would cut off in silence is refused.
func TestAValueThatAFieldWouldCutIsRefused(t *testing.T) {
	for value, want := range map[string]string{"blank behind ": "after", "tab behind\t": "after", " blank before": "before", "a b\tc": "", " both ": "before after"} {
		s := placesSession(t, value)
		for field, edges := range map[string]string{"P": "before after", "Bearer P": "after", "P;x": "before", "a P b": "", "P ": "before after"} {
			code := ""
			for edge := range strings.FieldsSeq(edges) {
				if strings.Contains(want, edge) {
					code = "unsafe_value"
				}
			}
			r, got := sent(t, s, head{path: "/", name: "X-Key", value: strings.ReplaceAll(field, "P", pMain)})
			if got != code || got == "" && r.Header.Get("X-Key") != strings.ReplaceAll(field, "P", value) {
				t.Errorf("%q in %q: %q, want %q", value, field, got, code)
			}
		}
	}
}
