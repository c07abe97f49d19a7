package grant

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"standin/rules"
)

// safeInHeader says whether text is a valid field value (RFC 9110, 5.5). A CR,
// LF or NUL would begin a header, or a request, of its own.
func safeInHeader(text string) bool { return httpguts.ValidHeaderFieldValue(text) }

// safeInBasic keeps a user from ending at a colon of its own, and controls out
// of both halves (RFC 7617, 2).
func safeInBasicUser(text string) bool {
	return safeInBasicPassword(text) && !strings.Contains(text, ":")
}
func safeInBasicPassword(text string) bool { return !strings.ContainsFunc(text, isControl) }

// safeInCookie is the cookie-octet of RFC 6265, 4.1.1, and bytes above ASCII.
func safeInCookie(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return isControl(r) || strings.ContainsRune(" \",;\\", r)
	})
}

// safeEscaped is for surfaces that escape whatever they are given.
func safeEscaped(string) bool { return true }

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// basic looks into "Basic" credentials. It answers true when value is such, so
// that it is not looked at again as plain text.
func (p *prep) basic(value string) (bool, error) {
	scheme, coded, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return false, nil
	}
	coded = strings.Trim(coded, " \t")
	plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(coded, "="))
	if err != nil {
		return false, nil
	}
	user, password, _ := strings.Cut(string(plain), ":")
	newUser, changedUser, err := p.replaced(user, rules.Surface{Kind: rules.BasicUser}, safeInBasicUser)
	if err != nil {
		return true, err
	}
	newPassword, changedPassword, err := p.replaced(password, rules.Surface{Kind: rules.BasicPassword}, safeInBasicPassword)
	if err != nil {
		return true, err
	}
	if !changedUser && !changedPassword {
		return false, nil
	}
	if changedUser {
		user = newUser
	}
	if changedPassword {
		password = newPassword
	}
	p.plan.edits = append(p.plan.edits, func(r *Request) {
		r.Header["Authorization"] = []string{scheme + " " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
	})
	return true, nil
}

// cookies looks at one Cookie line. The pairs that no surface names keep their bytes.
func (p *prep) cookies(line int, value string) error {
	names := p.named(rules.Cookie)
	pairs := strings.Split(value, ";")
	changed := false
	for i, pair := range pairs {
		name, content, _ := strings.Cut(pair, "=")
		bare := strings.TrimSpace(name)
		if err := p.misplaced(bare, "cookie name"); err != nil {
			return err
		}
		for _, named := range names {
			if named == bare && p.cookieCount(named) > 1 {
				return &Refusal{Code: "bad_request", Surface: "cookie " + named}
			}
		}
		text, ok, err := p.replaced(content, rules.Surface{Kind: rules.Cookie, Name: bare}, safeInCookie)
		if err != nil {
			return err
		}
		if ok {
			pairs[i], changed = name+"="+text, true
		}
	}
	if changed {
		joined := strings.Join(pairs, ";")
		p.plan.edits = append(p.plan.edits, func(r *Request) { r.Header["Cookie"][line] = joined })
	}
	return nil
}

// cookieCount is how often a cookie stands in the request.
func (p *prep) cookieCount(name string) int {
	n := 0
	for _, line := range p.r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			if bare, _, _ := strings.Cut(pair, "="); strings.TrimSpace(bare) == name {
				n++
			}
		}
	}
	return n
}

// path looks at each segment of the path, raw and decoded. Only the segment
// that the rule's "{}" names may hold a placeholder.
func (p *prep) path() error {
	raw := p.r.Path
	if !strings.Contains(raw, Marker) && !strings.Contains(raw, "%") {
		return nil
	}
	segments := strings.Split(raw, "/")
	changed := false
	for i, segment := range segments {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			decoded = segment
		}
		if i-1 != p.r.Match.Segment || p.r.Match.Segment < 0 {
			if err := p.misplaced(decoded, "path"); err != nil {
				return err
			}
			if err := p.misplaced(segment, "path"); err != nil {
				return err
			}
			continue
		}
		text, ok, err := p.replaced(decoded, rules.Surface{Kind: rules.Path}, safeInPath)
		if err != nil {
			return err
		}
		if ok {
			segments[i], changed = url.PathEscape(text), true
		}
	}
	if changed {
		joined := strings.Join(segments, "/")
		p.plan.edits = append(p.plan.edits, func(r *Request) { r.Path = joined })
	}
	return nil
}

// safeInPath keeps a value from being a segment that escaping cannot hide: an
// empty or a dot segment changes where the request goes.
func safeInPath(text string) bool { return text != "" && text != "." && text != ".." }

// query looks at the query.
func (p *prep) query() error {
	text, changed, err := p.pairs(p.r.Query, rules.Query, "query")
	if changed {
		p.plan.edits = append(p.plan.edits, func(r *Request) { r.Query = text })
	}
	return err
}

// pairs looks at each pair of a query or a form, and returns the text with the
// values put in. The pairs that no surface names keep their bytes and their order.
func (p *prep) pairs(raw string, kind rules.Kind, place string) (string, bool, error) {
	names := p.named(kind)
	if len(names) == 0 && !strings.Contains(raw, Marker) && !strings.Contains(raw, "%") {
		return "", false, nil
	}
	pieces := strings.Split(raw, "&")
	count := map[string]int{}
	changed := false
	for i, piece := range pieces {
		rawName, rawValue, hasValue := strings.Cut(piece, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			name = rawName
		}
		count[name]++
		at := rules.Surface{Kind: kind, Name: name}
		for _, named := range names {
			if named == name && count[name] > 1 {
				return "", false, &Refusal{Code: "bad_request", Surface: at.String()}
			}
		}
		if err := p.misplaced(name, place); err != nil {
			return "", false, err
		}
		decoded, err := url.QueryUnescape(rawValue)
		if err != nil {
			decoded = rawValue
		}
		if !hasValue {
			continue
		}
		text, ok, err := p.replaced(decoded, at, safeEscaped)
		if err != nil {
			return "", false, err
		}
		if ok {
			pieces[i], changed = rawName+"="+escapeQuery(text), true
		}
	}
	return strings.Join(pieces, "&"), changed, nil
}

// escapeQuery writes a space as %20, which query and form parsers both read.
func escapeQuery(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}

// body looks at a body that was read first. Placeholders at places that no
// surface names stay, inert: agents quote their environment in every prompt.
func (p *prep) body() error {
	if p.r.Body == nil {
		return nil
	}
	var err error
	media, _, _ := mime.ParseMediaType(p.r.Header.Get("Content-Type"))
	switch {
	case media == "application/x-www-form-urlencoded":
		err = p.form()
	case strings.HasPrefix(media, "multipart/"):
		p.quoted(view(p.r.Body), nil)
	default:
		err = p.json()
	}
	if err == nil && p.rule.Misplaced == rules.Refuse && len(p.plan.Misplaced) > 0 {
		return &Refusal{Code: "placeholder_misplaced", Secret: p.plan.Misplaced[0], Surface: "body"}
	}
	return err
}

// quoted notes the placeholders of the body that lie in none of the spans.
func (p *prep) quoted(body string, spans []span) {
	for _, hit := range p.s.index.All(body) {
		inside := false
		for _, sp := range spans {
			inside = inside || sp.start <= hit.Start && hit.End <= sp.end
		}
		if !inside {
			p.plan.Misplaced = append(p.plan.Misplaced, hit.Placeholder.Secret)
		}
	}
}

// form looks at the fields that "form" surfaces name.
func (p *prep) form() error {
	names := p.named(rules.Form)
	var spans []span
	count := map[string]int{}
	for at, piece := range pieces(p.r.Body) {
		rawName, _, hasValue := bytes.Cut(piece, []byte("="))
		name, err := url.QueryUnescape(string(rawName))
		if err != nil {
			if len(names) == 0 {
				continue
			}
			return &Refusal{Code: "bad_request", Surface: "form", Cause: errMalformed}
		}
		for i, named := range names {
			if named != name {
				continue
			}
			if count[name]++; count[name] > 1 {
				return &Refusal{Code: "bad_request", Surface: "form " + name, Cause: errRepeated}
			}
			if hasValue {
				spans = append(spans, span{at + len(rawName) + 1, at + len(piece), i})
			}
		}
	}
	return p.splice(spans, coding{
		surface: func(i int) rules.Surface { return rules.Surface{Kind: rules.Form, Name: names[i]} },
		decode:  url.QueryUnescape, encode: escapeQuery, safe: safeEscaped,
	})
}

// pieces yields the pairs of a form and where they begin.
func pieces(body []byte) func(func(int, []byte) bool) {
	return func(yield func(int, []byte) bool) {
		at := 0
		for piece := range bytes.SplitSeq(body, []byte("&")) {
			if !yield(at, piece) {
				return
			}
			at += len(piece) + 1
		}
	}
}

// json looks at the strings that "json" surfaces name.
func (p *prep) json() error {
	pointers := p.named(rules.JSON)
	if len(pointers) == 0 || len(p.r.Body) == 0 {
		p.quoted(view(p.r.Body), nil)
		return nil
	}
	spans, err := findJSON(p.r.Body, pointers)
	if err != nil {
		return &Refusal{Code: "bad_request", Surface: "json", Cause: err}
	}
	return p.splice(spans, coding{
		surface: func(i int) rules.Surface { return rules.Surface{Kind: rules.JSON, Name: pointers[i]} },
		decode:  func(s string) (string, error) { return unescapeJSON([]byte(s)), nil },
		encode:  escapeJSON, safe: utf8.ValidString,
	})
}

// coding is how the parts of one kind of body are read and written.
type coding struct {
	surface func(int) rules.Surface
	decode  func(string) (string, error)
	encode  func(string) string
	safe    func(string) bool
}

// escapeJSON writes text as it stands between the quotes of a JSON string.
func escapeJSON(text string) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		return ""
	}
	return string(bytes.TrimSuffix(bytes.TrimPrefix(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte(`"`)), []byte(`"`)))
}

// splice replaces the placeholders that stand in spans of the body, each span
// decoded and encoded by its surface; every other byte stays as it is.
func (p *prep) splice(spans []span, c coding) error {
	body := p.r.Body
	var out []byte
	var served []span
	from := 0
	for _, sp := range spans {
		at := c.surface(sp.surface)
		decoded, err := c.decode(string(body[sp.start:sp.end]))
		if err != nil {
			return &Refusal{Code: "bad_request", Surface: at.String(), Cause: errMalformed}
		}
		hits := p.s.index.All(decoded)
		if len(hits) != 1 || !p.allows(hits[0].Placeholder.Secret, at) {
			continue // noted as quoted below
		}
		text, _, err := p.replaced(decoded, at, c.safe)
		if err != nil {
			return err
		}
		out = append(append(out, body[from:sp.start]...), c.encode(text)...)
		from = sp.end
		served = append(served, sp)
	}
	p.quoted(view(body), served)
	if len(served) > 0 {
		out = append(out, body[from:]...)
		p.plan.edits = append(p.plan.edits, func(r *Request) { r.Body = out })
	}
	return nil
}
