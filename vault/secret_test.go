package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// canary is the value that must appear nowhere but where it is revealed.
const canary = "ghp_REALrealREALreal0123456789"

// leaks says in which form the canary stands in text, "" if in none.
func leaks(text []byte) string {
	lower := strings.ToLower(string(text))
	forms := map[string]string{"raw": canary, "hex": hex.EncodeToString([]byte(canary)),
		"bytes": strings.Trim(fmt.Sprint([]byte(canary)), "[]"), "gobytes": strings.Trim(fmt.Sprintf("%#v", []byte(canary)), "[]byte{}")}
	for pad := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("_", pad) + canary))
		forms[fmt.Sprintf("base64/%d", pad)] = encoded[4:36]
	}
	for form, want := range forms {
		if strings.Contains(lower, strings.ToLower(want)) {
			return form
		}
	}
	return ""
}

func TestLeaksFindsPlantedValues(t *testing.T) {
	v := []byte(canary)
	for _, planted := range []string{canary, fmt.Sprintf("%x", v), fmt.Sprint(v), fmt.Sprintf("%#v", v), fmt.Sprintf("%X", v),
		base64.StdEncoding.EncodeToString(v), base64.StdEncoding.EncodeToString(append([]byte("a"), v...))} {
		if leaks([]byte("x"+planted+"y")) == "" {
			t.Errorf("a planted value was not found: %s", planted)
		}
	}
}

type holder struct {
	Name   string
	Open   Secret
	hidden Secret
	Deep   struct{ List []Secret }
	Map    map[string]Secret
	Any    any
	Ptr    *Secret
}

func newHolder() holder {
	s := NewSecret([]byte(canary))
	h := holder{Name: "n", Open: s, hidden: s, Map: map[string]Secret{"k": s}, Any: s, Ptr: &s}
	h.Deep.List = []Secret{s}
	return h
}

func TestSecretPrintsInNoWay(t *testing.T) {
	h := newHolder()
	var out bytes.Buffer
	for _, verb := range "vTtbcdoOqxXUeEfFgGspw" {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "# ", "10.3"} {
			for _, v := range []any{h.Open, &h.Open, h, &h, []Secret{h.Open}, map[Secret0]Secret{{}: h.Open}} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
			}
		}
	}
	fmt.Fprintln(&out, h.Open, h, fmt.Errorf("wrapped: %v", h.Open))
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).With("with", h.Open).Info("m", "secret", h.Open, "holder", h, "ptr", &h)
	}
	walk(&out, reflect.ValueOf(h), 0)
	if form := leaks(out.Bytes()); form != "" {
		t.Fatalf("the value was printed as %s", form)
	}
	if !strings.Contains(out.String(), "[secret]") {
		t.Fatal("nothing stands in its place")
	}
}

type Secret0 struct{}

// walk prints all that reflection can reach, as spew and the like do.
func walk(out *bytes.Buffer, v reflect.Value, depth int) {
	fmt.Fprintf(out, "%s %v\n", v.Kind(), v)
	if depth > 8 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			walk(out, v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			walk(out, v.Field(i), depth+1)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(out, v.Index(i), depth+1)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			walk(out, v.MapIndex(k), depth+1)
		}
	}
}

func TestSecretCannotBeEncoded(t *testing.T) {
	s := NewSecret([]byte(canary))
	for name, encode := range map[string]func(any) ([]byte, error){
		"json": json.Marshal, "yaml": yamlMarshal, "xml": xml.Marshal,
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
	} {
		for _, v := range []any{s, &s, struct{ S Secret }{s}, struct{ S []Secret }{[]Secret{s}}} {
			data, err := encode(v)
			if err == nil {
				t.Errorf("%s: %T was encoded", name, v)
			} else if leaks(data) != "" || leaks([]byte(err.Error())) != "" {
				t.Errorf("%s: the value leaks", name)
			}
		}
	}
}

func yamlMarshal(v any) (data []byte, err error) {
	defer func() { // yaml.v3 panics with the error of a marshaller in some places
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return yaml.Marshal(v)
}

func TestSecretKeepsItsOwnCopy(t *testing.T) {
	source := []byte(canary)
	s := NewSecret(source)
	clear(source)
	if string(s.Reveal()) != canary || s.Len() != len(canary) || s.IsZero() {
		t.Error("the value changed with its source")
	}
	var zero Secret
	if zero.Reveal() != nil || !zero.IsZero() || zero.Len() != 0 || fmt.Sprint(zero) != "[secret]" {
		t.Error("the zero Secret is not empty")
	}
	if empty := NewSecret(nil); empty.Reveal() == nil || !empty.IsZero() {
		t.Error("an empty value is taken for none")
	}
}

func BenchmarkReveal(b *testing.B) {
	s := NewSecret([]byte(canary))
	for b.Loop() {
		if s.Len() == 0 {
			b.Fatal()
		}
	}
}
