package rules

import (
	"errors"
	"strings"
	"testing"
)

func TestAuthorityHasOneForm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"api.allowed.test:443":              "api.allowed.test:443",
		"API.Allowed.TEST:443":              "api.allowed.test:443", // C09
		"xn--BCHER-KVA.test:443":            "xn--bcher-kva.test:443",
		"localhost:1":                       "localhost:1",
		"10.0.0.7:8443":                     "10.0.0.7:8443",
		"[::1]:443":                         "[::1]:443",
		"[2001:DB8::1]:65535":               "[2001:db8::1]:65535",
		"a--b.test:80":                      "a--b.test:80",
		"1and1.com:443":                     "1and1.com:443",
		"0xgg.test:443":                     "0xgg.test:443",
		"a.0xg:443":                         "a.0xg:443",
		strings.Repeat("a.", 126) + "b:443": strings.Repeat("a.", 126) + "b:443",
	} {
		a, err := ParseAuthority(in)
		if err != nil || a.String() != want {
			t.Errorf("ParseAuthority(%q) = %v, %v; want %s", in, a, err, want)
		}
	}
}

func TestAuthorityInAnotherFormIsRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", ":443", "a.test", "a.test:", "a.test:0", "a.test:00443", "a.test:0443", "a.test:65536", "a.test:4x", "a.test:+443", "a.test:４４３", "a.test:443:443",
		"api.allowed.test.:443", ".api.test:443", "a..b:443", // C10
		"[api.allowed.test]:443", "[[::1]]:443", "[::1:443", "[::1]443", "::1:443", "[]:443", "[127.0.0.1]:443", // C11
		"[fe80::1%eth0]:443", "[fe80::1%25eth0]:443", "[0:0:0:0:0:0:0:1]:443", "[::ffff:127.0.0.1]:443", "[::ffff:7f00:1]:443", "[::01]:443",
		"bücher.test:443", "BÜCHER.test:443", "xn--bcher-kva．test:443", "a。test:443", "a\u00adb.test:443", "a\u200db.test:443", "\u212aelvin.test:443", // C17, C19
		"127.1:443", "127.0.0.01:443", "0177.0.0.1:443", "2130706433:443", "0x7f000001:443", "0x7f.0.0.1:443", "1.2.3:443", "1.2.3.4.5:443", "256.1.1.1:443", "a.0x1:443", "a.1:443", "1.2.3.0X4:443", "0x:443",
		"a_b.test:443", "-a.test:443", "a-.test:443", "a b.test:443", "a\x00.test:443", "a.test\n:443", "user@a.test:443", "a.test/x:443", "a%2etest:443", "*.test:443",
		strings.Repeat("a", 64) + ".test:443", strings.Repeat("a.", 127) + "b:443",
	} {
		a, err := ParseAuthority(in)
		var typed *AuthorityError
		if !errors.As(err, &typed) || a != (Authority{}) {
			t.Errorf("ParseAuthority(%q) = %v, %v; want an *AuthorityError", in, a, err)
		} else if len(in) > 8 && strings.Contains(err.Error(), in[:8]) {
			t.Errorf("the error repeats what a stranger sent: %v", err)
		}
	}
}

func TestHostMayLeaveThePortOut(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"A.test": "a.test:8443", "a.test:80": "a.test:80", "[::1]": "[::1]:8443", "10.0.0.1": "10.0.0.1:8443"} {
		if a, err := ParseHost(in, 8443); err != nil || a.String() != want {
			t.Errorf("ParseHost(%q) = %v, %v; want %s", in, a, err, want)
		}
	}
	for _, in := range []string{"", "a.test:", "a.test.", "a.test, b.test", "[::1", "::1"} {
		if a, err := ParseHost(in, 443); err == nil {
			t.Errorf("ParseHost(%q) = %v, want an error", in, a)
		}
	}
}

func TestOnlyAddressesAreIPs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"1.2.3.4:1": true, "[::1]:1": true, "a.test:1": false, "1.a:1": false, "ff:1": false} {
		a, err := ParseAuthority(in)
		if err != nil || a.IsIP() != want {
			t.Errorf("%q: IsIP = %v (%v), want %v", in, a.IsIP(), err, want)
		}
	}
	if (Authority{}).IsIP() {
		t.Error("the zero Authority is an address")
	}
}

func TestHostPatterns(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]HostPattern{
		"api.example.com":           {"api.example.com", false, 443},
		"api.example.com:8443":      {"api.example.com", false, 8443},
		"*.example.com":             {"example.com", true, 443},
		"*.example.com:80":          {"example.com", true, 80},
		"*.a.github.io":             {"a.github.io", true, 443},
		"*.allowed.test":            {"allowed.test", true, 443},
		"127.0.0.1":                 {"127.0.0.1", false, 443},
		"::1":                       {"::1", false, 443},
		"[::1]:8443":                {"::1", false, 8443},
		"localhost":                 {"localhost", false, 443},
		"*.bucket.s3.amazonaws.com": {"bucket.s3.amazonaws.com", true, 443},
	} {
		h, problem, _ := parseHostPattern(in, 443)
		if problem != "" || h != want {
			t.Errorf("%q = %+v (%s), want %+v", in, h, problem, want)
		}
		if again, problem, _ := parseHostPattern(h.String(), 443); problem != "" || again != h {
			t.Errorf("%q is written as %q, which is %+v (%s)", in, h, again, problem)
		}
	}
}

func TestC40WildcardsOverPublicSuffixesAreRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"*", "*.*", "*.test", "*.com", "*.co.uk", "*.github.io", "*.s3.amazonaws.com", "*.foo.ck", "*.ck",
		"*.compute.amazonaws.com", "*.localhost", "a.*.com", "*a.com", "**.com", "*.10.0.0.1", "*.[::1]", "*.", "*.example.com.", "*.Example.com"} {
		if h, problem, fix := parseHostPattern(in, 443); problem == "" || fix == "" {
			t.Errorf("%q = %+v with problem %q and fix %q", in, h, problem, fix)
		}
	}
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"api.allowed.test:443", "[::1]:443", "10.0.0.1:80", "XN--A.test:1", "127.1:1", "a..b:1", "[fe80::1%a]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAuthority(s)
		if err != nil {
			if a != (Authority{}) {
				t.Fatalf("%q: %+v with an error", s, a)
			}
			return
		}
		// What is accepted has one form, is that form but for case, and holds
		// nothing that another program could read otherwise.
		if !strings.EqualFold(a.String(), s) {
			t.Fatalf("%q became %q", s, a)
		}
		if again, err := ParseAuthority(a.String()); err != nil || again != a {
			t.Fatalf("%q became %+v, then %+v (%v)", s, a, again, err)
		}
		if strings.Trim(a.Host, "abcdefghijklmnopqrstuvwxyz0123456789.:-") != "" || a.Port == 0 {
			t.Fatalf("%q became %+v", s, a)
		}
		if h, err := ParseHost(s, 1); err != nil || h != a {
			t.Fatalf("%q is %+v to ParseHost (%v)", s, h, err)
		}
	})
}
