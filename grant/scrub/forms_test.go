package scrub

import (
	"strings"
	"testing"
)

// What the encoders themselves have written, so that this is not our own reading
// of them: of a value with all that they differ about.
func TestFormsOfWellKnownEncodersAreFound(t *testing.T) {
	const value = `pä"ss\w/rd&=%+ü9 <'>!(*)~:@$,;?#[x]👍-_.`
	s := scrubberOf(value)
	for encoder, text := range map[string]string{
		"Python quote":                   `p%C3%A4%22ss%5Cw/rd%26%3D%25%2B%C3%BC9%20%3C%27%3E%21%28%2A%29~%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"Python quote, nothing safe":     `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9%20%3C%27%3E%21%28%2A%29~%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"Python quote_plus":              `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9+%3C%27%3E%21%28%2A%29~%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"Python json":                    `p\u00e4\"ss\\w/rd&=%+\u00fc9 <'>!(*)~:@$,;?#[x]\ud83d\udc4d-_.`,
		"encodeURIComponent":             `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9%20%3C'%3E!(*)~%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"encodeURI":                      `p%C3%A4%22ss%5Cw/rd&=%25+%C3%BC9%20%3C'%3E!(*)~:@$,;?#%5Bx%5D%F0%9F%91%8D-_.`,
		"URLSearchParams":                `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9+%3C%27%3E%21%28*%29%7E%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"JSON.stringify":                 `pä\"ss\\w/rd&=%+ü9 <'>!(*)~:@$,;?#[x]👍-_.`,
		"querystring":                    `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9%20%3C'%3E!(*)~%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"curl --data-urlencode":          `p%c3%a4%22ss%5cw%2frd%26%3d%25%2b%c3%bc9+%3c%27%3e%21%28%2a%29~%3a%40%24%2c%3b%3f%23%5bx%5d%f0%9f%91%8d-_.`,
		"Java URLEncoder":                `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9+%3C%27%3E%21%28*%29%7E%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		"PHP urlencode":                  `p%C3%A4%22ss%5Cw%2Frd%26%3D%25%2B%C3%BC9+%3C%27%3E%21%28%2A%29%7E%3A%40%24%2C%3B%3F%23%5Bx%5D%F0%9F%91%8D-_.`,
		".NET UrlEncode":                 `p%c3%a4%22ss%5cw%2frd%26%3d%25%2b%c3%bc9+%3c%27%3e!(*)%7e%3a%40%24%2c%3b%3f%23%5bx%5d%f0%9f%91%8d-_.`,
		"encodeURIComponent, lower case": `p%c3%a4%22ss%5cw%2frd%26%3d%25%2b%c3%bc9%20%3c'%3e!(*)~%3a%40%24%2c%3b%3f%23%5bx%5d%f0%9f%91%8d-_.`,
		"PHP json_encode":                `p\u00e4\"ss\\w\/rd&=%+\u00fc9 <'>!(*)~:@$,;?#[x]\ud83d\udc4d-_.`,
		"PHP json_encode, Symfony":       `p\u00e4\u0022ss\\w\/rd\u0026=%+\u00fc9 \u003C\u0027\u003E!(*)~:@$,;?#[x]\ud83d\udc4d-_.`,
		"Gson":                           `pä\"ss\\w/rd\u0026\u003d%+ü9 \u003c\u0027\u003e!(*)~:@$,;?#[x]👍-_.`,
		"System.Text.Json":               `p\u00E4\u0022ss\\w/rd\u0026=%\u002B\u00FC9 \u003C\u0027\u003E!(*)~:@$,;?#[x]\uD83D\uDC4D-_.`,
		"Go json":                        `pä\"ss\\w/rd\u0026=%+ü9 \u003c'\u003e!(*)~:@$,;?#[x]👍-_.`,
	} {
		if got := s.String("k=" + text + "&"); got != "k="+placeholder+"&" {
			t.Errorf("%s: %s became %s", encoder, text, got)
		}
	}
}

func TestAFormIsWrittenAsItWasFound(t *testing.T) {
	for _, value := range []string{canary, `pä"ss w/rd&`, "\xff\xfe-no-utf8-\xc3", "tab\tnul\x00\u2028"} {
		for _, f := range formsOf(Value{value, placeholder}) {
			if !f.mark && f.how.Write(value) != f.text {
				t.Errorf("form %d of %q is %q, and written %q", f.how, value, f.text, f.how.Write(value))
			}
		}
	}
}

// The memory of a scrubber grows with the forms, so they are few: for a value of
// letters that need no escape raw, every byte escaped (twice two), base64 and hex.
func TestFormsAreFew(t *testing.T) {
	for value, most := range map[string]int{
		canary: 10, "a-plain.value_0123": 10, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEX=": 22,
		`pä"ss\w/rd&=%+ü9 <'>!(*)~:@$,;?#[x]^{|}` + "`\t\u2028-_.": 49,
	} {
		if n := len(formsOf(Value{value, placeholder})); n > most {
			t.Errorf("%q has %d forms", value, n)
		}
	}
	if got := scrubberOf(strings.Repeat("long ", 3000)).String("x"); got != "x" {
		t.Error(got)
	}
}
