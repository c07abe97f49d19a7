package grant

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"standin/grant/body"
	"standin/grant/coding"
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
		at := rules.Surface{Kind: rules.Cookie, Name: bare}
		text, ok, err := p.givenBack(content, at)
		if !ok && err == nil {
			text, ok, err = p.replaced(content, at, safeInCookie)
		}
		if err != nil {
			return err
		}
		if ok {
			pairs[i], changed = name+"="+text, true
		}
	}
	if (changed || len(names) > 0) && slices.ContainsFunc(p.r.Header["Cookie"], opensQuote) {
		return &Refusal{Code: "bad_request", Surface: "cookie"}
	}
	if changed {
		joined := strings.Join(pairs, ";")
		p.plan.edits = append(p.plan.edits, func(r *Request) { r.Header["Cookie"][line] = joined })
	}
	return nil
}

// opensQuote says whether a quoted text could go on behind a ";" of a Cookie line,
// so that some readers see other pairs there.
func opensQuote(line string) bool {
	for pair := range strings.SplitSeq(line, ";") {
		if strings.Count(pair, `"`)%2 != 0 || strings.Contains(pair, `\"`) {
			return true
		}
	}
	return false
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
		decoded, _ := body.Unescape(segment, false)
		if (i-1 != p.r.Match.Segment || p.r.Match.Segment < 0) && !p.returnedInPath(decoded) {
			if err := p.misplaced(decoded, "path"); err != nil {
				return err
			}
			if err := p.misplaced(segment, "path"); err != nil {
				return err
			}
			continue
		}
		at := rules.Surface{Kind: rules.Path}
		text, ok, err := p.givenBack(segment, at)
		if !ok && err == nil {
			text, ok, err = p.replaced(decoded, at, safeInPath)
			text = url.PathEscape(text)
		}
		if err != nil {
			return err
		}
		if ok {
			segments[i], changed = text, true
		} else if err := p.misplaced(segment, "path"); err != nil {
			return err // before an escaped letter, which makes it a longer word
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
		rawName, rawValue, _ := strings.Cut(piece, "=")
		name, _ := body.Unescape(rawName, true)
		value, whole := body.Unescape(rawValue, true)
		count[name]++
		at := rules.Surface{Kind: kind, Name: name}
		if slices.Contains(names, name) && (count[name] > 1 || !whole) {
			return "", false, &Refusal{Code: "bad_request", Surface: at.String()}
		}
		for _, text := range []string{name, rawName} {
			if err := p.misplaced(text, place); err != nil {
				return "", false, err
			}
		}
		text, ok, err := p.givenBack(rawValue, at)
		if !ok && err == nil {
			text, ok, err = p.replaced(value, at, safeEscaped)
			text = escapeQuery(text)
		}
		if err != nil {
			return "", false, err
		}
		if ok && !whole {
			return "", false, &Refusal{Code: "bad_request", Surface: at.String()}
		}
		if ok {
			pieces[i], changed = rawName+"="+text, true
		} else if err := p.misplaced(rawValue, place); err != nil {
			return "", false, err // behind "%", which takes its first letters for digits, or before an escaped letter
		}
	}
	return strings.Join(pieces, "&"), changed, nil
}

// escapeQuery writes a space as %20, which query and form parsers both read.
func escapeQuery(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}

// newStream reads src as the rule and the Content-Type say.
func (p *prep) newStream(src io.Reader) (*stream, error) {
	s := &stream{p: p, src: src, layout: body.Raw{}, outside: rules.Surface{Kind: rules.Body}}
	types := p.r.Header["Content-Type"]
	if len(types) > 1 {
		return nil, &Refusal{Code: "bad_request", Surface: "body"}
	}
	field := ""
	if len(types) == 1 {
		field = types[0]
	}
	media := body.Media(field)
	s.counted = countsBytes(media)
	parts := func(kind rules.Kind) []string {
		names := p.named(kind)
		for _, name := range names {
			s.surfaces = append(s.surfaces, rules.Surface{Kind: kind, Name: name})
		}
		return names
	}
	charset := body.Charset(field)
	switch {
	case media == "application/x-www-form-urlencoded" && len(p.named(rules.Form)) > 0:
		s.layout = body.NewForm(parts(rules.Form))
	case strings.HasPrefix(media, "multipart/"):
		names := parts(rules.Multipart)
		if len(names) == 0 {
			break
		}
		boundary, err := body.Boundary(field)
		if err != nil || media != "multipart/form-data" {
			return nil, &Refusal{Code: "bad_request", Surface: "multipart"}
		}
		if s.layout, err = body.NewMultipart(boundary, names); err != nil {
			return nil, malformed(err)
		}
	case len(p.named(rules.JSON)) == 0:
	case body.IsJSON(media):
		s.layout = body.NewJSON(parts(rules.JSON))
	case body.Unlabelled(media):
		s.layout = body.NewUnlabelled(parts(rules.JSON), charset)
		return s, nil
	}
	if charset != nil && len(s.surfaces) > 0 {
		return nil, malformed(charset)
	}
	return s, nil
}

// body looks at a body that was read first. Placeholders at places that no
// surface names stay, inert: agents quote their environment in every prompt.
func (p *prep) body() error {
	if p.r.Body == nil {
		return nil
	}
	changed := false
	put := func(secret string, at rules.Surface) (*held, error) {
		changed = true
		return p.place(secret, at)
	}
	misplaced := func(secret string) error {
		if p.rule.Misplaced == rules.Refuse {
			return &Refusal{Code: "placeholder_misplaced", Secret: secret, Surface: "body"}
		}
		p.plan.Misplaced = append(p.plan.Misplaced, secret)
		return nil
	}
	out, err := p.all(put, misplaced)
	if err != nil {
		return err
	}
	if changed {
		p.plan.edits = append(p.plan.edits, func(r *Request) { r.Sent = out })
	}
	return nil
}

// all is the whole of a body that was read first. Without a coding, what stays as
// it is stays where it is.
func (p *prep) all(put func(string, rules.Surface) (*held, error), misplaced func(string) error) ([][]byte, error) {
	if p.r.Coding == "" {
		s, err := p.newStream(nil)
		if err != nil {
			return nil, err
		}
		s.put, s.misplaced = put, misplaced
		s.in, s.part, s.whole = p.r.Body, body.Outside, true
		if err := s.scan(true); err != nil {
			return nil, err
		}
		return s.pieces, nil
	}
	reader, _, done, err := p.pipe(bytes.NewReader(p.r.Body), put, misplaced)
	if err != nil {
		return nil, err
	}
	defer done()
	out, err := io.ReadAll(reader)
	return [][]byte{out}, err
}

// pipe takes the coding off src, puts values in, and the coding on again.
func (p *prep) pipe(src io.Reader, put func(string, rules.Surface) (*held, error), misplaced func(string) error) (io.Reader, *stream, func(), error) {
	var decoder *coding.Decoder
	if p.r.Coding != "" {
		var err error
		if decoder, err = coding.Decode(p.r.Coding, src); err != nil {
			return nil, nil, nil, &Refusal{Code: "encoded_body", Cause: err}
		}
		src = recoded{decoder}
	}
	s, err := p.newStream(src)
	if err != nil {
		return nil, nil, nil, err
	}
	s.put, s.misplaced = put, misplaced
	if decoder == nil {
		return s, s, s.free, nil
	}
	return decoder.Encode(s), s, func() { s.free(); decoder.Close() }, nil
}

// countsBytes says whether a format has lengths before what they are of, in gRPC's
// messages and in the fields of Protocol Buffers.
func countsBytes(media string) bool {
	return slices.ContainsFunc([]string{"application/grpc", "application/connect+", "application/proto", "application/protobuf", "application/x-protobuf"},
		func(known string) bool { return strings.HasPrefix(media, known) })
}
