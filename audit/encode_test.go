package audit

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// everyField has a value in each field, so that the golden line pins every key and the order.
func everyField() *Record {
	return &Record{Type: TypeSubstitute, Session: "s1", Profile: "claude-code", Isolation: "tree",
		Process: Process{PID: 4242, Start: 99, Exe: "/usr/bin/curl", UID: 1000, Depth: 2},
		Host:    "api.allowed.test", Port: 443, Scheme: "https", Method: "POST", Path: "/t/{github}/x", Rule: "github-api",
		Uses: []Use{{"github", "2", "0123456789abcdef", "header Authorization", 1}, {Secret: "other"}}, ID: "r1", Code: "no_grant",
		Status: 200, BytesIn: 1, BytesOut: 2, Duration: 3 * time.Millisecond, Command: "claude", RulesHash: "ab", Reason: "why",
		Secrets: []string{"github", "other"}, Variables: []string{"GITHUB_TOKEN"}, Count: 7,
		Scrub: "always", Scrubbed: 2, Credentials: []string{"cookie sid"}, Stripped: []string{"id_token"}}
}

const goldenLine = `"time":"2026-01-02T03:04:05.000006Z","mono":1500000,"type":"substitute","session":"s1","profile":"claude-code",` +
	`"isolation":"tree","process":{"pid":4242,"start":99,"exe":"/usr/bin/curl","uid":1000,"depth":2},"host":"api.allowed.test",` +
	`"port":443,"scheme":"https","method":"POST","path":"/t/{github}/x","rule":"github-api","uses":[{"secret":"github","version":"2",` +
	`"fingerprint":"0123456789abcdef","surface":"header Authorization","count":1},{"secret":"other"}],"id":"r1","code":"no_grant",` +
	`"status":200,"bytes_in":1,"bytes_out":2,"duration_us":3000,"command":"claude","rules_hash":"ab","reason":"why",` +
	`"secrets":["github","other"],"variables":["GITHUB_TOKEN"],"count":7,"scrub":"always","scrubbed":2,"credentials":["cookie sid"],"stripped":["id_token"]`

func TestTheLineIsTheGoldenOne(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	r := everyField()
	if got := string(appendRecord(nil, at, 1500*time.Millisecond, r)); got != goldenLine {
		t.Errorf("line\n%s\nwant\n%s", got, goldenLine)
	}
	v := reflect.ValueOf(*r)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("field %s is not in the golden line", v.Type().Field(i).Name)
		}
	}
	var e Entry
	if err := decode([]byte("{"+goldenLine+"}"), &e); err != nil || !reflect.DeepEqual(e.Record, *r) || !e.Time.Equal(at) || e.Mono != 1500*time.Millisecond {
		t.Errorf("decoded %+v, %v", e, err)
	}
}

func TestAnyTextIsOneLineOfHarmlessASCII(t *testing.T) {
	texts := []string{"\x1b[31mred\x1b[0m", "a\nb\r\n\tc\x00\x7f", "\u202egnp.exe", "\u2066x\u2069", "b\u00fccher", "\U0001f600", "\xff\xfe", "\u2028\u2029",
		"\u009b31m", `"},"h":"`, `\`, "</script>", strings.Repeat("\U0001f600", 2000), strings.Repeat("h", 16<<10), "\ud7ff\ue000"}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, random.IntN(40))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		texts = append(texts, string(b))
	}
	for _, text := range texts {
		r := &Record{Type: TypeDeny, Host: text, Path: text, Secrets: []string{text}, Uses: []Use{{Secret: text}}, Process: Process{PID: 1, Exe: text}}
		line := appendRecord([]byte("{"), time.Now(), 0, r)
		for _, c := range line {
			if c < 0x20 || c > 0x7e {
				t.Fatalf("%q became %q", text, line)
			}
		}
		var e Entry
		if err := decode(append(line, '}'), &e); err != nil {
			t.Fatalf("%q became %q: %v", text, line, err)
		}
		want := strings.ToValidUTF8(text, "\ufffd")
		if len(text) <= maxItem && utf8.ValidString(text) && (e.Host != want || e.Secrets[0] != "" && e.Secrets[0] != want) {
			t.Errorf("%q was read back as %q", text, e.Host)
		}
		if len(e.Host) > 6*maxString+40 {
			t.Errorf("%d bytes of a host remain", len(e.Host))
		}
		if len(text) > maxString && !strings.HasSuffix(e.Host, " bytes)") {
			t.Errorf("cut without saying so: %q", e.Host[len(e.Host)-20:])
		}
	}
}

func TestEncodingAgreesWithEncodingJSON(t *testing.T) {
	r := everyField()
	want, err := json.Marshal(struct {
		*Record
		Duration int64 `json:"duration_us"`
	}{r, 3000})
	if err != nil {
		t.Fatal(err)
	}
	var a, b map[string]any
	line := "{" + string(appendRecord(nil, time.Now(), 0, r)) + "}"
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want, &b); err != nil {
		t.Fatal(err)
	}
	delete(a, "time")
	delete(a, "mono")
	if !reflect.DeepEqual(a, b) {
		t.Errorf("line %v\nwant %v", a, b)
	}
}

func TestTheMACIsHMAC(t *testing.T) {
	c := newChain(point{})
	for _, n := range []int{0, 1, 32, 63, 64, 65, 1000} {
		key := [32]byte{1, 2, byte(n)}
		message := []byte(strings.Repeat("x", n))
		if got, want := c.mac(&key, message), standardMAC(key[:], message); got != want {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

func TestLongListsAreCutVisibly(t *testing.T) {
	r := &Record{Type: TypeOpen}
	for range 1000 {
		r.Variables = append(r.Variables, "V")
	}
	var e Entry
	if err := decode(append(appendRecord([]byte("{"), time.Now(), 0, r), '}'), &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Variables) != maxList+1 || e.Variables[maxList] != "…(+744 more)" {
		t.Errorf("%d entries, the last is %q", len(e.Variables), e.Variables[len(e.Variables)-1])
	}
}
