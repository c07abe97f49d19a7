package grant

import (
	"strings"
	"testing"
)

// A host gets back what it has written, in the form in which it wrote it.
func TestAValueGoesBackInTheFormInWhichTheHostWroteIt(t *testing.T) {
	const odd = `pä"ss w/rd&=%+`
	for _, c := range []struct{ field, came, target, cookie, want string }{
		{"Set-Cookie", `sid=p%C3%A4%22ss%20w%2Frd%26%3D%25%2B; Path=/`, "/any", "sid=V", "sid=p%C3%A4%22ss%20w%2Frd%26%3D%25%2B"},
		{"Set-Cookie", `sid=p%c3%a4%22ss+w%2frd%26%3d%25%2b`, "/any", "a=b; sid=V; c=d", "a=b; sid=p%c3%a4%22ss+w%2frd%26%3d%25%2b; c=d"},
		{"Set-Cookie", `sid=u.` + odd, "/any", "sid=u.V", "sid=u." + odd},
		{"Set-Cookie", `sid="p\u00e4\"ss w\/rd&=%+"`, "/any", `sid="V"`, `sid="p\u00e4\"ss w\/rd&=%+"`},
		{"Location", "/cb?x=1&code=p%C3%A4%22ss+w%2Frd%26%3D%25%2B&u=%zz", "/cb?x=1&code=V&u=%zz", "", "/cb?x=1&code=p%C3%A4%22ss+w%2Frd%26%3D%25%2B&u=%zz"},
		{"Location", "https://a.test/cb?code=p%C3%A4%22ss%20w/rd%26%3D%25%2B", "/cb?code=V", "", "/cb?code=p%C3%A4%22ss%20w/rd%26%3D%25%2B"},
		{"Location", "/in/p%C3%A4%22ss%20w%2Frd&=%25+/x", "/in/V/x", "", "/in/p%C3%A4%22ss%20w%2Frd&=%25+/x"},
	} {
		s := placesSession(t, odd)
		show := strings.NewReplacer("V", pMain)
		h := head{path: show.Replace(c.target), cookie: show.Replace(c.cookie)}
		if _, code := sent(t, s, h); code != "placeholder_misplaced" {
			t.Fatalf("before %s: %q", c.came, code)
		}
		s.Returns(placesHost, "/login", c.field, c.came)
		r, code := sent(t, s, h)
		if code != "" {
			t.Errorf("%s: %s", c.came, code)
			continue
		}
		if got := r.Header.Get("Cookie"); c.cookie != "" && got != c.want {
			t.Errorf("%s: the cookie is %s, want %s", c.came, got, c.want)
		}
		if got := strings.TrimSuffix(r.Path+"?"+r.Query, "?"); c.cookie == "" && got != c.want {
			t.Errorf("%s: the target is %s, want %s", c.came, got, c.want)
		}
	}
}

// A host that merely echoes what the command has planted opens no place.
func TestAPlantedPlaceholderOpensNoPlace(t *testing.T) {
	s := placesSession(t, mainValue)
	s.Returns(placesHost, "/authorize", "Location", "/cb?state="+pMain+"&two="+pOther+"&code="+mainValue)
	s.Returns(placesHost, "/authorize", "Set-Cookie", "state="+pMain+"; Comment="+mainValue)
	s.Returns(placesHost, "/authorize", "Set-Cookie", "both="+pMain+"."+mainValue)
	for _, h := range []head{{path: "/cb?state=" + pMain}, {path: "/cb?two=" + pOther}, {path: "/", cookie: "state=" + pMain}, {path: "/", cookie: "both=" + pMain + "." + pMain}} {
		if _, code := sent(t, s, h); code != "placeholder_misplaced" {
			t.Errorf("%+v: %q", h, code)
		}
	}
	if r, code := sent(t, s, head{path: "/cb?code=" + pMain}); code != "" || r.Query != "code="+mainValue {
		t.Errorf("the host's own: %q %+v", code, r)
	}
}
