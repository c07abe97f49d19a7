package vault

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestDotenvReadsWhatUsersWrite(t *testing.T) {
	t.Parallel()
	const file = "\xef\xbb\xbf# comment\r\n" +
		"A=plain\r\n" +
		"\n" +
		"export B = spaced out # comment\n" +
		"  C='single # $HOME \\n' # comment\n" +
		"D=\"double \\\"q\\\" \\\\ \\$HOME\\n\\t#\"\n" +
		"E=\n" +
		"F='-----BEGIN KEY-----\nabc\n-----END KEY-----'\n" +
		"G=a#b=c\n" +
		"H=   # nothing\n" +
		"I.j-k_9=pa$$5w0rd$\n" +
		"J=\"two\r\nlines\"\r\n" +
		"A=again\n" +
		"K=it's\n" +
		"exported=1\n" +
		"L=last"
	want := []struct {
		name, value string
		line        int
	}{{"A", "plain", 2}, {"B", "spaced out", 4}, {"C", "single # $HOME \\n", 5}, {"D", "double \"q\" \\ $HOME\n\t#", 6}, {"E", "", 7},
		{"F", "-----BEGIN KEY-----\nabc\n-----END KEY-----", 8}, {"G", "a#b=c", 11}, {"H", "", 12}, {"I.j-k_9", "pa$$5w0rd$", 13},
		{"J", "two\nlines", 14}, {"A", "again", 16}, {"K", "it's", 17}, {"exported", "1", 18}, {"L", "last", 19}}
	pairs, err := ParseDotenv([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if len(pairs) != len(want) {
		t.Fatalf("%d pairs, want %d", len(pairs), len(want))
	}
	for i, w := range want {
		if p := pairs[i]; p.Name != w.name || string(p.Value.Reveal()) != w.value || p.Line != w.line {
			t.Errorf("got %s=%q in line %d, want %v", p.Name, p.Value.Reveal(), p.Line, w)
		}
	}
}

func TestDotenvRefusesWhatItWouldHaveToGuess(t *testing.T) {
	t.Parallel()
	for text, line := range map[string]int{
		"A=1\nB\n":                       2,
		"A=1\n\n" + canary + "\n":        3,
		"A='" + canary + "\nB=2\n":       1,
		"A=1\nB=\"" + canary + "\n\n\n":  2,
		"A='x'" + canary:                 1,
		"A=\"x\" " + canary:              1,
		"A='x\ny'z":                      2,
		"A=$" + canary:                   1,
		"A=\"${" + canary + "}\"":        1,
		"A=$(" + canary + ")":            1,
		"A=`" + canary + "`":             1,
		"A=\"" + canary + "\\q\"":        1,
		"A=\"\n\n`\"":                    3,
		"A=" + canary + "\\\nB=2":        1,
		"1A=" + canary:                   1,
		"A B=" + canary:                  1,
		"=" + canary:                     1,
		"A=x\nB=\x01" + canary:           2,
		"A=x\nB=\x00" + canary:           2,
		"\xff\xfeA\x00=\x00":             1,
		canary + ": " + canary + "=x y":  1,
		"A=\"" + canary + "\\":           1,
		"export=1\nexport export A=1\n#": 2,
	} {
		pairs, err := ParseDotenv([]byte(text))
		var bad *DotenvError
		if !errors.As(err, &bad) || bad.Line != line || pairs != nil {
			t.Errorf("%q: %v, want an error in line %d", text, err, line)
		} else if leaks([]byte(err.Error())) != "" {
			t.Errorf("%q: the error shows the value", text)
		}
	}
}

// writeDotenv is the other direction, for the fuzzer.
func writeDotenv(name, value string) string {
	if !strings.ContainsAny(value, "'\r") {
		return name + "='" + value + "'"
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`", "\n", `\n`, "\r", `\r`).Replace(value)
	return "export " + name + ` = "` + quoted + `" # it's "quoted"`
}

// Property: whatever value is written with quotes is read back exactly, behind
// any file that can be read; what cannot be read gives a line within the file.
func FuzzDotenv(f *testing.F) {
	for _, seed := range []string{"A=1\n", "export A='x' # c\r\n", "A=\"\\n\"", "A", "A=$B", "", "A='", "\x00", "A=\"a\nb\"\n#", "A=b\r"} {
		f.Add(seed, "va'lue\r\n$`\\\"")
	}
	f.Fuzz(func(t *testing.T, before, value string) {
		if strings.Contains(value, "\x00") {
			return
		}
		lines := strings.Count(before, "\n") + 1
		pairs, err := ParseDotenv([]byte(before))
		var bad *DotenvError
		if err != nil && (!errors.As(err, &bad) || bad.Line < 1 || bad.Line > lines) {
			t.Fatalf("the error %v names no line of the file", err)
		}
		for _, p := range pairs {
			if p.Line < 1 || p.Line > lines || !variableName(p.Name) {
				t.Fatalf("pair %q in line %d", p.Name, p.Line)
			}
		}
		if err != nil {
			return
		}
		all, err := ParseDotenv([]byte(before + "\n" + writeDotenv("NEW", value) + "\nEND=1"))
		if err != nil || len(all) != len(pairs)+2 {
			t.Fatalf("%d pairs became %d: %v", len(pairs), len(all), err)
		}
		got := all[len(pairs)]
		if fmt.Sprint(got.Name, string(got.Value.Reveal()), got.Line) != fmt.Sprint("NEW", value, lines+1) {
			t.Fatalf("%q came back as %q in line %d", value, got.Value.Reveal(), got.Line)
		}
	})
}
