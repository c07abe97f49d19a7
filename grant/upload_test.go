package grant

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"standin/grant/coding"
	"standin/rules"
	"standin/vault"
)

const (
	streamValue = `va"lue\real&+%=` + "0123456789"
	otherValue  = "other-value-0123456789"
)

// fixed is a source of two values: of all secrets, and of "other".
type fixed struct{ value, other string }

func (f fixed) Resolve(_ context.Context, source string, _ int) (vault.Value, error) {
	text := f.value
	if strings.HasSuffix(source, "other") {
		text = f.other
	}
	return vault.Value{Secret: vault.NewSecret([]byte(text)), Version: "1"}, nil
}

const streamRules = `version: 1
secrets:
  main: {source: "vault:main", shape: ghp_}
  other: {source: "vault:other"}
  stranger: {source: "vault:stranger"}
rules:
  - {name: json, hosts: [a.test], paths: [/json], substitute: [{secret: main, in: json /auth/token}, {secret: stranger, in: json /auth/token}]}
  - {name: form, hosts: [a.test], paths: [/form], substitute: [{secret: main, in: form token}]}
  - {name: multipart, hosts: [a.test], paths: [/multipart], substitute: [{secret: main, in: multipart token}]}
  - {name: body, hosts: [a.test], paths: [/body], substitute: [{secret: main, in: body}]}
  - {name: both, hosts: [a.test], paths: [/both], substitute: [{secret: main, in: [json /a, body]}, {secret: other, in: body}]}
  - {name: strict, hosts: [a.test], paths: [/strict], misplaced: refuse, substitute: [{secret: main, in: json /auth/token}]}
profiles:
  default: {secrets: [main, other], uses: 3}
`

var streamPlaceholders = map[string]string{
	"main":     "ghp_" + Marker + strings.Repeat("a", tailLength),
	"other":    Marker + strings.Repeat("b", tailLength),
	"stranger": Marker + strings.Repeat("c", tailLength),
}

var pMain, pOther, pStranger = streamPlaceholders["main"], streamPlaceholders["other"], streamPlaceholders["stranger"]

func streamSession(t testing.TB) *Session {
	t.Helper()
	return openWith(t, streamRules, streamValue, otherValue)
}

// openWith opens a session of the default profile, whose secrets main and other
// have these values.
func openWith(t testing.TB, text, main, other string) *Session {
	t.Helper()
	policy, err := rules.Parse("standin.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	profile, err := policy.Profile("default")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{ID: "s", Policy: policy, Profile: profile, Placeholders: streamPlaceholders, Source: fixed{main, other},
		Fingerprint: func([]byte) string { return "f" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Revoke("test over") })
	return s
}

// upload is one request with a body.
type upload struct {
	path, media, coding, body string
}

func (u upload) request(s *Session) *Request {
	h := http.Header{}
	if u.media != "" {
		h["Content-Type"] = []string{u.media}
	}
	match := s.Policy.Match(rules.Target{Authority: rules.Authority{Host: "a.test", Port: 443}, Scheme: "https", Method: "POST", Path: u.path})
	return &Request{Header: h, Path: u.path, Coding: u.coding, Match: match}
}

// outcome is what became of a body: its bytes or the code of its refusal, the
// secrets that were put in with their surfaces, and those that stayed.
type outcome struct {
	body, code      string
	uses, misplaced []string
}

func (u upload) whole(t testing.TB) outcome {
	t.Helper()
	s := streamSession(t)
	r := u.request(s)
	r.Body = []byte(u.body)
	plan, err := s.Prepare(t.Context(), r)
	if err != nil {
		return outcome{code: AsRefusal(err).Code}
	}
	plan.Apply(r)
	if r.Sent == nil {
		r.Sent = [][]byte{r.Body}
	}
	o := outcome{body: string(bytes.Join(r.Sent, nil)), misplaced: unique(plan.Misplaced)}
	for _, use := range plan.Uses {
		o.uses = append(o.uses, use.Secret+" at "+use.Surface)
	}
	o.uses = unique(o.uses)
	return o
}

func (u upload) streamed(t testing.TB, cut func(io.Reader) io.Reader) outcome {
	t.Helper()
	s := streamSession(t)
	r := u.request(s)
	plan, err := s.Prepare(t.Context(), r)
	if err != nil {
		return outcome{code: AsRefusal(err).Code}
	}
	var o outcome
	var sent bytes.Buffer
	body, _, err := plan.Stream(cut(strings.NewReader(u.body)), Late{
		Record: func(use Use) error {
			if u.coding == "" && strings.Contains(sent.String(), "value") {
				t.Error("a value went out before its record")
			}
			o.uses = append(o.uses, use.Secret+" at "+use.Surface)
			return nil
		},
		Misplaced: func(secret string) error {
			if r.Match.Rule.Misplaced == rules.Refuse {
				return &Refusal{Code: "placeholder_misplaced", Secret: secret}
			}
			o.misplaced = append(o.misplaced, secret)
			return nil
		},
	})
	if err == nil {
		defer body.Close()
		_, err = io.Copy(&sent, body)
	}
	if err != nil {
		return outcome{code: AsRefusal(err).Code}
	}
	o.body, o.uses, o.misplaced = sent.String(), unique(o.uses), unique(o.misplaced)
	return o
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Clip(slices.Compact(slices.Clone(list)))
}

func (o outcome) equal(other outcome) bool {
	return o.body == other.body && o.code == other.code && slices.Equal(o.uses, other.uses) && slices.Equal(o.misplaced, other.misplaced)
}

const (
	asForm      = "application/x-www-form-urlencoded"
	asMultipart = "multipart/form-data; boundary=b0"
	partHead    = "--b0\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n"
)

var escapedValue = strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(streamValue)

var uploads = []struct {
	upload
	want      string // "" means unchanged
	uses      string
	misplaced string
	code      string
}{
	{upload{"/json", "application/json", "", `{"x":1, "auth":{"token":"` + pMain + `"},"y":"é"} `}, `{"x":1, "auth":{"token":"` + escapedValue + `"},"y":"é"} `, "main at json /auth/token", "", ""},
	{upload{"/json", "", "", `{"auth":{"token":"\u0061 \u0067hp_` + pMain[4:] + `\n\u00fc"}}`}, `{"auth":{"token":"\u0061 ` + escapedValue + `\n\u00fc"}}`, "main at json /auth/token", "", ""},
	{upload{"/json", "", "", `{"auth":{"token":"` + pMain + `x"}}`}, "", "", "", ""},
	{upload{"/json", "", "", `{"auth":{"note":"` + pMain + `"},"` + pOther + `":"` + pStranger + `"}`}, "", "", "main other stranger", ""},
	{upload{"/json", "", "", `{"auth":{"token":"` + pOther + `"}}`}, "", "", "other", ""},
	{upload{"/json", "", "", `{"auth":{"token":"` + pStranger + `"}}`}, "", "", "", "no_grant"},
	{upload{"/json", "", "", `{"auth":{"token":"` + pMain + `"}`}, "", "", "", "bad_request"},
	{upload{"/json", "", "", `{"auth":{"token":"` + pMain + `"},"auth":1}`}, "", "", "", "bad_request"},
	{upload{"/strict", "", "", `{"auth":{"token":"` + pMain + `"},"x":"` + pMain + `"}`}, "", "", "", "placeholder_misplaced"},
	{upload{"/form", asForm, "", "a=%2f+&token=x%20" + pMain + "&b=" + pMain}, "a=%2f+&token=x%20va%22lue%5Creal%26%2B%25%3D0123456789&b=" + pMain, "main at form token", "main", ""},
	{upload{"/form", asForm, "", "token=" + pMain}, "token=va%22lue%5Creal%26%2B%25%3D0123456789", "main at form token", "", ""},
	{upload{"/form", asForm, "", "token=" + pMain + "&token=1"}, "", "", "", "bad_request"},
	{upload{"/form", "text/plain", "", "token=" + pMain}, "", "", "main", ""},
	{upload{"/multipart", asMultipart, "", partHead + pMain + "\r\n--b0--\r\n"}, partHead + streamValue + "\r\n--b0--\r\n", "main at multipart token", "", ""},
	{upload{"/multipart", asMultipart, "", strings.Replace(partHead, "token", "other\"; filename=\""+pMain, 1) + pMain + "\r\n--b0--\r\n"}, "", "", "main", ""},
	{upload{"/multipart", asMultipart, "", partHead + pMain}, "", "", "", "bad_request"},
	{upload{"/multipart", "multipart/form-data", "", partHead + pMain}, "", "", "", "bad_request"},
	{upload{"/body", "text/plain", "", pMain + " and zstandin_ and " + pOther + pMain + "," + pMain}, streamValue + " and zstandin_ and " + pOther + streamValue + "," + streamValue, "main at body", "", ""},
	{upload{"/body", "text/plain", "", "a " + pOther + " " + pMain + "\n"}, "a " + pOther + " " + streamValue + "\n", "main at body", "other", ""},
	{upload{"/both", "application/json", "", `{"a":"` + pMain + `","b":"` + pOther + `"}`}, `{"a":"` + escapedValue + `","b":"` + otherValue + `"}`, "main at json /a,other at body", "", ""},
}

// cuts are ways in which a body may arrive.
func cuts(body string) []func(io.Reader) io.Reader {
	list := []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader}
	for at := range len(body) {
		list = append(list, func(io.Reader) io.Reader {
			return io.MultiReader(strings.NewReader(body[:at]), strings.NewReader(body[at:]))
		})
	}
	return list
}

func TestCaseA29AStreamIsTreatedAsTheWholeForEveryCut(t *testing.T) {
	for _, u := range uploads {
		want := outcome{u.want, u.code, nil, unique(strings.Fields(u.misplaced))}
		if u.uses != "" {
			want.uses = strings.Split(u.uses, ",")
		}
		if u.want == "" && u.code == "" {
			want.body = u.body
		}
		if got := u.whole(t); !got.equal(want) {
			t.Errorf("%s %q:\n got %+v\nwant %+v", u.path, u.body, got, want)
			continue
		}
		for _, cut := range cuts(u.body) {
			if got := u.streamed(t, cut); !got.equal(want) {
				t.Fatalf("%s %q, streamed:\n got %+v\nwant %+v", u.path, u.body, got, want)
			}
		}
	}
}

func TestCaseA39CodedBodiesAreTreatedAsPlainOnes(t *testing.T) {
	for _, name := range []string{"gzip", "deflate", "br", "zstd"} {
		for _, u := range uploads {
			e, _ := coding.Encode(name, strings.NewReader(u.body))
			coded, err := io.ReadAll(e)
			if err != nil {
				t.Fatal(err)
			}
			want := u.whole(t)
			c := u.upload
			c.coding, c.body = name, string(coded)
			for what, got := range map[string]outcome{"whole": c.whole(t), "streamed": c.streamed(t, iotest.OneByteReader)} {
				if got.code == "" {
					d, _ := coding.Decode(name, strings.NewReader(got.body))
					plain, err := io.ReadAll(d)
					if err != nil {
						t.Fatalf("%s, %s: %v", name, what, err)
					}
					got.body = string(plain)
				}
				if !got.equal(want) {
					t.Errorf("%s, %s, %q:\n got %+v\nwant %+v", name, what, u.body, got, want)
				}
			}
		}
		lie := upload{"/body", "", name, "this is not in that coding, " + pMain}
		if got := lie.streamed(t, iotest.HalfReader); got.code != "bad_request" {
			t.Errorf("%s, a lie: %+v", name, got)
		}
	}
}

func TestNothingOfAValueGoesOutWithoutItsRecord(t *testing.T) {
	s := streamSession(t)
	r := upload{"/body", "", "", ""}.request(s)
	plan, err := s.Prepare(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := plan.Stream(strings.NewReader("before "+pMain+" behind"), Late{Record: func(Use) error { return &Refusal{Code: "audit_unavailable"} }})
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(body)
	if AsRefusal(err).Code != "audit_unavailable" || len(out) > 0 {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAStreamTakesOneUseOfEachSecretAndStopsWhenNoneIsLeft(t *testing.T) {
	s := streamSession(t)
	for n, want := range []string{"", "", "", "uses_exhausted"} {
		plan, err := s.Prepare(t.Context(), upload{"/body", "", "", ""}.request(s))
		if err != nil {
			t.Fatal(err)
		}
		body, _, _ := plan.Stream(strings.NewReader(pMain+" "+pMain), Late{Record: func(Use) error { return nil }})
		_, err = io.ReadAll(body)
		if got := err; (want == "") != (got == nil) || want != "" && AsRefusal(got).Code != want {
			t.Errorf("request %d: %v", n, got)
		}
	}
	s.Revoke("over")
}

func TestARevokedSessionEndsAStream(t *testing.T) {
	s := streamSession(t)
	plan, err := s.Prepare(t.Context(), upload{"/body", "", "", ""}.request(s))
	if err != nil {
		t.Fatal(err)
	}
	body, _, _ := plan.Stream(strings.NewReader(pMain+"\n"), Late{Record: func(Use) error { return nil }})
	s.Revoke("over")
	if out, err := io.ReadAll(body); AsRefusal(err).Code != "session_closed" || len(out) > 0 {
		t.Errorf("%q, %v", out, err)
	}
}

// What the client has sent goes on before it sends more, but for what could
// still become a placeholder.
func TestAStreamHoldsNothingBackThatIsSettled(t *testing.T) {
	for _, u := range []upload{{"/body", "", "", "ask something\n"}, {"/json", "", "", `{"auth":{"token":"x","n":1},`}, {"/form", asForm, "", "a=1&token=x&"}, {"/multipart", asMultipart, "", partHead + "text "}} {
		s := streamSession(t)
		plan, err := s.Prepare(t.Context(), u.request(s))
		if err != nil {
			t.Fatal(err)
		}
		in, out := io.Pipe()
		body, _, err := plan.Stream(in, Late{})
		if err != nil {
			t.Fatal(err)
		}
		go out.Write([]byte(u.body))
		got := make([]byte, len(u.body))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != u.body {
			t.Errorf("%s: %q, %v", u.path, got, err)
		}
		out.Close()
	}
}

func TestAnErrorOfTheClientStaysItsOwn(t *testing.T) {
	s := streamSession(t)
	plan, _ := s.Prepare(t.Context(), upload{"/json", "", "", ""}.request(s))
	broken := errors.New("broken")
	body, _, _ := plan.Stream(io.MultiReader(strings.NewReader(`{"a":`), iotest.ErrReader(broken)), Late{})
	if out, err := io.ReadAll(body); err != broken || string(out) != `{"a":` {
		t.Errorf("%q, %v", out, err)
	}
}

// A value stands only where a surface of the rule allows it, and a body streams
// as it would be read whole, wherever it is cut.
func FuzzStream(f *testing.F) {
	for i, u := range uploads {
		f.Add(uint8(i), strings.ReplaceAll(strings.ReplaceAll(u.body, pMain, "P"), pOther, "Q"), uint16(7))
	}
	f.Fuzz(func(t *testing.T, which uint8, text string, cut uint16) {
		u := uploads[int(which)%len(uploads)].upload
		u.body = strings.NewReplacer("P", pMain, "Q", pOther, "S", pStranger).Replace(text)
		whole := u.whole(t)
		at := int(cut) % (len(u.body) + 1)
		split := func(io.Reader) io.Reader {
			return io.MultiReader(strings.NewReader(u.body[:at]), strings.NewReader(u.body[at:]))
		}
		// What is malformed and holds a misplaced placeholder is refused for what is met first.
		either := func(code string) bool { return code == "bad_request" || code == "placeholder_misplaced" }
		if got := u.streamed(t, split); !got.equal(whole) && !(either(got.code) && either(whole.code)) {
			t.Fatalf("%s %q cut at %d:\n got %+v\nwant %+v", u.path, u.body, at, got, whole)
		}
		if len(whole.uses) == 0 && whole.code == "" && whole.body != u.body {
			t.Fatalf("%s %q was changed without a use: %q", u.path, u.body, whole.body)
		}
		for _, use := range whole.uses {
			if use == "main at json /auth/token" || u.path == "/both" || u.path == "/body" || strings.HasSuffix(use, " token") {
				continue
			}
			t.Fatalf("%s %q: %s", u.path, u.body, use)
		}
	})
}

// A pause ends what only looks like the beginning of a placeholder, and a whole
// one; what must be the beginning of one waits for its rest.
func TestNoStreamStallsBehindWhatLooksLikeAPlaceholder(t *testing.T) {
	for _, c := range []struct{ first, want, rest, then string }{
		{"a quiz", "a quiz", "z\n", "z\n"}, {"say " + pMain, "say " + streamValue, "\n", "\n"}, {"gh", "gh", "p_\n", "p_\n"},
		{"x " + pMain[:20], "x ", pMain[20:] + ".", streamValue + "."},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := streamSession(t)
			plan, err := s.Prepare(t.Context(), upload{"/body", "", "", ""}.request(s))
			if err != nil {
				t.Fatal(err)
			}
			in, out := io.Pipe()
			body, _, err := plan.Stream(in, Late{Record: func(Use) error { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Revoke("over")
			go out.Write([]byte(c.first))
			got := make([]byte, len(c.want))
			if _, err := io.ReadFull(body, got); err != nil || string(got) != c.want {
				t.Errorf("%q: %q, %v", c.first, got, err)
			}
			go func() {
				time.Sleep(time.Hour)
				out.Write([]byte(c.rest))
				out.Close()
			}()
			if rest, err := io.ReadAll(body); err != nil || string(rest) != c.then {
				t.Errorf("%q, then: %q, %v", c.first, rest, err)
			}
			body.Close()
		})
	}
}

// Readers of a Content-Type differ about which boundary counts: the value would
// stand in a part that no rule names.
func TestABoundaryThatReadersCouldReadInTwoWaysIsRefused(t *testing.T) {
	form := func(boundary, value string) string {
		return "--" + boundary + "\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n" + value + "\r\n--" + boundary + "--\r\n"
	}
	for _, media := range []string{
		"multipart/form-data; boundary=CC; boundary*=utf-8''BB", "multipart/form-data; boundary*=utf-8''BB", "multipart/form-data; boundary*0=B; boundary*1=B",
		"multipart/form-data; boundary*0=B; boundary*1=B; boundary=CC", "multipart/form-data; boundary=CC; boundary*0=BB", "multipart/form-data; boundary=BB; Boundary=CC",
		"multipart/form-data; boundary=BB; boundary=BB", "multipart/form-data; boundary=CC; BOUNDARY*=''BB", `multipart/form-data; boundary="B\B"`,
		`multipart/form-data; x="boundary=CC"; boundary=BB`, "multipart/form-data; xboundary=CC; boundary=BB", `multipart/form-data; boundary=BB; x="; boundary=CC"`,
		"multipart/form-data; boundary=BB; boundary =CC", "multipart/form-data, multipart/form-data; boundary=BB", "multipart/form-data;", "multipart/mixed; boundary=BB",
		"multipart/form-data; boundary=BB; charset=utf-7", "multipart/form-data; boundary=BB; charset*=utf-16''x",
	} {
		if o := (upload{"/multipart", media, "", form("BB", pMain)}).whole(t); o.code != "bad_request" {
			t.Errorf("%s: %+v", media, o)
		}
	}
	for _, boundary := range []string{"BB", "----WebKitFormBoundaryAbC", "Boundary_1_2"} {
		for _, media := range []string{"multipart/form-data; boundary=" + boundary, "Multipart/Form-Data;  charset=\"UTF-8\"; Boundary=\"" + boundary + "\"; x=y"} {
			if o := (upload{"/multipart", media, "", form(boundary, pMain)}).whole(t); o.body != form(boundary, streamValue) {
				t.Errorf("%s: %+v", media, o)
			}
		}
	}
}

// In UTF-7 "+ACI-" is a quote, in Shift_JIS a byte above ASCII takes the next one with it.
func TestACharsetThatHidesDelimitersIsRefused(t *testing.T) {
	body := `{"auth":{"token":"` + pMain + `"}}`
	for media, fine := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "application/json;charset=\"UTF-8\"": true, "application/json; charset=ISO-8859-1": true,
		"application/json; charset=utf-7": false, "application/json; charset=UTF-16LE": false, "application/json; charset=shift_jis": false,
		"application/json; charset=utf-8; charset=utf-7": false, "application/json; charset*=utf-8''utf-7": false, "application/json; charset=utf-8; charset*0=utf-7": false,
		"application/json; x=\"charset=utf-7\"; charset=utf-8": false, "application/json; charset=": false, "application/json; charset =utf-7": false,
	} {
		if o := (upload{"/json", media, "", body}).whole(t); fine && len(o.uses) != 1 || !fine && o.code != "bad_request" {
			t.Errorf("%s: %+v", media, o)
		}
	}
	if o := (upload{"/form", "application/x-www-form-urlencoded; charset=utf-16", "", "token=" + pMain}).whole(t); o.code != "bad_request" {
		t.Errorf("a form: %+v", o)
	}
}

// To a reader that separates fields by ";" the value would stand in another one.
func TestARawSemicolonInANamedFieldIsRefused(t *testing.T) {
	const media = "application/x-www-form-urlencoded"
	for body, want := range map[string]string{
		"token=a;note=" + pMain: "bad_request", "token=" + pMain + ";note=b": "bad_request", "token=a;b": "bad_request",
		"note=a;b&token=" + pMain: "", "token=a%3Bnote=" + pMain: "",
	} {
		u := upload{"/form", media, "", body}
		if o := u.whole(t); o.code != want {
			t.Errorf("%s: %+v", body, o)
		}
		if o := u.streamed(t, iotest.OneByteReader); o.code != want {
			t.Errorf("%s, byte by byte: %+v", body, o)
		}
	}
}

// A rule for JSON reads what is JSON, or could be; an image under it is none of its business.
func TestAJSONRuleReadsOnlyWhatIsJSON(t *testing.T) {
	good := ` {"auth":{"token":"` + pMain + `"}}`
	put := ` {"auth":{"token":"va\"lue\\real&+%=0123456789"}}`
	lines := "{\"auth\":{\"token\":\"" + pMain + "\"}}\n{\"a\":1}\n"
	for _, c := range []struct{ media, body, want, code string }{
		{"application/json", good, put, ""}, {"Application/Problem+JSON; charset=utf-8", good, put, ""}, {"text/json", good, put, ""},
		{"application/json", "x", "", "bad_request"}, {"application/vnd.api+json", lines, "", "bad_request"}, {"text/json", "<x/>", "", "bad_request"},
		{"", good, put, ""}, {"text/plain", good, put, ""}, {"application/octet-stream", good, put, ""}, {"application/x-www-form-urlencoded", good, put, ""},
		{"", lines, "", "bad_request"}, {"text/plain", "[1", "", "bad_request"}, {"text/plain; charset=utf-7", good, "", "bad_request"},
		{"", "a text of " + pMain, "same", ""}, {"text/plain; charset=utf-16", "\xff\xfe{\x00", "same", ""}, {"application/x-www-form-urlencoded", "auth=" + pMain, "same", ""},
		{"application/octet-stream", "\x89PNG\r\n\x1a\n" + pMain, "same", ""}, {"", " \n\t", "same", ""}, {"", "", "same", ""},
		{"image/png", good, "same", ""}, {"application/xml", "<a>" + pMain + "</a>", "same", ""}, {"application/x-ndjson", lines, "same", ""}, {"text/csv", "{" + pMain, "same", ""},
	} {
		if c.want == "same" {
			c.want = c.body
		}
		u := upload{"/json", c.media, "", c.body}
		for _, o := range []outcome{u.whole(t), u.streamed(t, iotest.OneByteReader)} {
			if o.code != c.code || c.code == "" && o.body != c.want {
				t.Errorf("%s %q: %q %q, want %q", c.media, c.body, o.code, o.body, c.want)
			}
			if found := len(o.uses) + len(o.misplaced); c.code == "" && (found == 1) != strings.Contains(c.body, pMain) {
				t.Errorf("%s %q: %+v", c.media, c.body, o)
			}
		}
		if o := (upload{"/strict", c.media, "", c.body}).whole(t); c.want == c.body && strings.Contains(c.body, pMain) && o.code != "placeholder_misplaced" {
			t.Errorf("%s %q, misplaced: refuse: %+v", c.media, c.body, o)
		}
	}
}
