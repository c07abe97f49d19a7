package vault

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strings"
)

const (
	// MinLength is the shortest value that is taken. Shorter ones stand in
	// ordinary text by chance, and scrubbing them would garble it.
	MinLength = 8

	// marker stands in every placeholder; a value that holds it is one.
	marker = "zstandin_"

	minDistinct = 5
	minBits     = 18 // Shannon entropy of the bytes times their number
	minLetters  = 12 // only letters of one case: shorter ones are mostly words
	minDigits   = 12 // only digits: shorter ones are numbers, dates and ids
)

// CheckStrength refuses, with *WeakError, a value that cannot be told from
// ordinary text: short, repeated, a sequence, a number, common words, or a
// placeholder. It cannot tell a good password from a bad one.
func CheckStrength(v []byte) error {
	lower := strings.ToLower(string(v))
	letters, digits, distinct, bits := measure(v)
	switch {
	case len(v) < MinLength:
		return &WeakError{fmt.Sprintf("it is shorter than %d bytes", MinLength)}
	case strings.Contains(lower, marker):
		return &WeakError{"it is a placeholder of standin, not a real value"}
	case bytes.IndexByte(v, 0) >= 0:
		return &WeakError{"it holds a NUL byte"}
	case distinct < minDistinct || bits < minBits:
		return &WeakError{"it has too few different characters"}
	case digits == len(v) && len(v) < minDigits:
		return &WeakError{"it is a short number"}
	case letters == len(v) && len(v) < minLetters && (lower == string(v) || strings.ToUpper(lower) == string(v)):
		return &WeakError{"it looks like a word"}
	case sequence(lower):
		return &WeakError{"it is a sequence"}
	case common(lower):
		return &WeakError{"it is made of common words"}
	}
	return nil
}

// Check is CheckStrength of the value, for callers that may not see it.
func (s Secret) Check() error { return CheckStrength(s.Reveal()) }

func measure(v []byte) (letters, digits, distinct int, bits float64) {
	var count [256]int
	for _, c := range v {
		count[c]++
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			letters++
		case c >= '0' && c <= '9':
			digits++
		}
	}
	for _, n := range count {
		if n > 0 {
			distinct++
			bits += float64(n) * math.Log2(float64(len(v))/float64(n))
		}
	}
	return letters, digits, distinct, bits
}

// sequence finds 12345678, hgfedcba, qwertyui and their repetitions: nearly
// every character follows its neighbour.
func sequence(lower string) bool {
	steps := 0
	for i := 1; i < len(lower); i++ {
		pair := lower[i-1 : i+1]
		up := int(pair[1]) - int(pair[0])
		if up == 1 || up == -1 || up == 0 || strings.Contains(rows, pair) {
			steps++
		}
	}
	return steps*10 >= (len(lower)-1)*8
}

const rows = "qwertyuiop asdfghjkl zxcvbnm poiuytrewq lkjhgfdsa mnbvcxz 90 09"

// common says whether the value is nothing but common words, and at most four digits.
func common(lower string) bool {
	digits := 0
	words := strings.FieldsFunc(lower, func(r rune) bool {
		if r >= '0' && r <= '9' {
			digits++
		}
		return (r < 'a' || r > 'z') && r < 0x80
	})
	if digits > 4 || len(words) == 0 {
		return false
	}
	for _, w := range words {
		if !commonWords[w] && !strings.Contains(sameLetters, w) {
			return false
		}
	}
	return true
}

const sameLetters = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

// commonWords are what example files hold in place of a value, the head of
// every list of leaked passwords, and words that stand in headers and bodies of
// nearly all responses.
var commonWords = words(`
	a me we us be in on at by do go if up so as an and api app auth access account admin administrator aws azure anthropic bearer basic bot
	change changeme changeit client code credential credentials database db default demo dev
	dummy edit email enter example fake fill foo bar baz foobar for generated github gitlab goes google
	here http https id insert is it key keys letmein live local localhost login mock my name new
	none null of old on openai or password passwd pass passphrase placeholder please postgres
	private prod production project public put pwd qwerty real redacted replace root sample
	secret secrets secure sentinel service set sk slack some something staging stripe test testing
	text that the this to todo token tokens undefined unset user username value variable
	welcome with www you your yours com org net io
	iloveyou monkey dragon sunshine princess football baseball superman batman trustno
	master shadow michael jennifer computer internet starwars whatever freedom
	accept application authorization cache charset content control cookie cors date encoding
	expires font form gzip header headers host html image javascript json keepalive keep alive language
	length location max age method modified no nosniff origin path plain referer request response
	server status store strict transport security type utf version xml object string number
	boolean true false function return const import export class message error errors success
	failed description permission organization repository unauthorized forbidden
	created updated deleted resource data result results document environment development
	configuration information international`)

func words(text string) map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(text) {
		m[w] = true
	}
	return m
}

// credentialWords stand in the names of variables that carry a secret.
var credentialWords = words(`key keys apikey token tokens secret secrets password passwd pass pwd passphrase
	credential credentials auth pat dsn webhook cookie session jwt bearer signature salt`)

// credentialPrefix begins values of well-known services.
var credentialPrefix = regexp.MustCompile(`^(gh[pousr]_|github_pat_|glpat-|sk-|sk_(live|test)_|rk_(live|test)_|xox[abposr]-|npm_|hf_|pypi-|AKIA|ASIA|AIza|ya29\.|SG\.|dop_v1_|eyJ|-----BEGIN [A-Z ]*PRIVATE KEY)`)

// LooksLikeCredential guesses, from a variable's name and the form of its
// value, whether a dotenv file keeps a secret in it rather than a setting.
func LooksLikeCredential(name string, v Secret) bool {
	named := false
	for _, w := range strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r < 'a' || r > 'z' }) {
		named = named || credentialWords[w] || strings.HasSuffix(w, "password") || strings.HasSuffix(w, "token") || strings.HasSuffix(w, "secret")
	}
	if strings.HasPrefix(strings.ToLower(name), "public") || strings.HasPrefix(strings.ToLower(name), "next_public") {
		named = false // by its name everybody may see it
	}
	return named || credentialPrefix.Match(v.Reveal()) || userinfo.Match(v.Reveal())
}

// userinfo is a URL that holds a password.
var userinfo = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#@\s]*:[^/?#@\s]+@`)
