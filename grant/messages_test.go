package grant

import (
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"standin/rules"
)

// conversation is a session at a rule with the surface websocket for "main".
func conversation(t *testing.T, late Late) *Messages {
	t.Helper()
	s := streamSession(t)
	r := &Request{Match: rules.Match{Segment: -1, Rule: &rules.Rule{Name: "ws", WebSocket: true,
		Substitute: []rules.Substitution{{Secret: "main", In: []rules.Surface{{Kind: rules.WebSocket}}}}}}}
	plan, err := s.Prepare(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return plan.Messages(late)
}

// said is what one message became, piece by piece, and what was noticed in it.
func (m *Messages) said(text bool, pieces ...string) (out string, err error) {
	if err := m.Begin(text); err != nil {
		return "", err
	}
	for i, piece := range pieces {
		b, err := m.Next([]byte(piece), i == len(pieces)-1)
		if err != nil {
			return out, err
		}
		out += string(b)
	}
	return out, nil
}

// A message is what it would be in one piece, wherever it is cut; only the
// placeholder of a surface becomes a value, only in text, and on record first.
func FuzzMessages(f *testing.F) {
	f.Add("say P and Q, P", uint16(9), uint16(20), true)
	f.Add("PP SP P_", uint16(0), uint16(36), true)
	f.Add("P", uint16(5), uint16(5), false)
	f.Fuzz(func(t *testing.T, text string, one, two uint16, isText bool) {
		text = strings.NewReplacer("P", pMain, "Q", pOther, "S", pStranger).Replace(text)
		var notes []string
		m := conversation(t, Late{
			Record:    func(u Use) error { notes = append(notes, "use "+u.Secret+" at "+u.Surface); return nil },
			Misplaced: func(secret string) error { notes = append(notes, "misplaced "+secret); return nil },
		})
		cuts := []int{int(one) % (len(text) + 1), int(two) % (len(text) + 1)}
		slices.Sort(cuts)
		whole, err := m.said(isText, text)
		if err != nil {
			t.Fatal(err)
		}
		before := slices.Clone(notes)
		notes = nil
		if got, err := m.said(isText, text[:cuts[0]], text[cuts[0]:cuts[1]], text[cuts[1]:]); err != nil || got != whole || !slices.Equal(notes, before) {
			t.Fatalf("%q cut at %v: %q, %q, %v; whole: %q, %q", text, cuts, got, notes, err, whole, before)
		}
		used := slices.Contains(before, "use main at websocket")
		if changed := whole != text; changed != used || changed && !isText {
			t.Fatalf("%q became %q with %q", text, whole, before)
		}
		if _, left := m.plan.prep.s.index.Next(whole, 0); isText && left && !strings.Contains(strings.Join(before, " "), "misplaced") {
			t.Fatalf("%q became %q and nothing was noticed", text, whole)
		}
	})
}

func TestAMessageHoldsNothingBackPastItsEnd(t *testing.T) {
	m := conversation(t, Late{Record: func(Use) error { return nil }})
	for _, text := range []string{pMain[:20], pMain[:len(pMain)-1], "g", ""} {
		if got, err := m.said(true, text); err != nil || got != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	if got, err := m.said(true, pMain[20:]); err != nil || got != pMain[20:] {
		t.Errorf("the rest of a placeholder became %q, %v", got, err)
	}
}

func TestAMessageThatIsNotOnRecordGoesNowhere(t *testing.T) {
	m := conversation(t, Late{Record: func(Use) error { return &Refusal{Code: "audit_unavailable"} }})
	if got, err := m.said(true, "before "+pMain+" behind"); AsRefusal(err).Code != "audit_unavailable" || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNarrowingEndsAConversationThatTheGrantOpened(t *testing.T) {
	s := streamSession(t)
	s.Narrow(nil)
	m := conversation(t, Late{})
	m.plan.prep.s = s
	m.plan.prep.granted = map[string]*held{"main": {}}
	if err := m.Begin(true); AsRefusal(err).Code != "no_grant" {
		t.Error(err)
	}
}

// Formats that count bytes are not put out of step: without a placeholder they
// pass, with one they are refused.
func TestNoValueGoesIntoWhatCountsItsBytes(t *testing.T) {
	for _, media := range []string{"application/grpc", "Application/gRPC+proto; x=y", "application/x-protobuf", "application/connect+json", "application/grpc-web-text"} {
		for text, code := range map[string]string{"\x00\x00\x00\x00\x02\x0a\x00": "", "\x00\x00\x00\x00\x29\x0a\x27" + pMain: "unsafe_value", pStranger: ""} {
			u := upload{"/body", media, "", text}
			for how, got := range map[string]outcome{"whole": u.whole(t), "streamed": u.streamed(t, iotest.OneByteReader)} {
				if got.code != code || code == "" && got.body != text || code != "" && strings.Contains(got.body, streamValue) {
					t.Errorf("%s, %q, %s: %+v", media, text, how, got)
				}
			}
		}
	}
}
