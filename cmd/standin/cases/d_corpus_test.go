//go:build linux

package cases

import (
	"slices"
	"strings"
)

// The corpus of framings: D01 to D11 send it to an upstream that records bytes,
// D37 to servers of the field.

// framing is bytes that some servers would take for one request, some for two.
// "/T" stands for a target that is this input's own, and "{P}" for the placeholder.
type framing struct {
	text    string
	answers []string // statuses that are right, in order: "400", "200 400"
	arrived []string // "METHOD target body" of each request that is answered with 200
}

var malformed = []string{"400"}

// unsupported are transfer codings that nobody has to know (RFC 9112, 6.1).
var unsupported = []string{"400", "501"}

const embedded = "GET /T-inner HTTP/1.1\r\n{HOST}\r\nAuthorization: Bearer {P}\r\n\r\n"

func framedTwice() []framing {
	post := func(fields, body string) string { return "POST /T HTTP/1.1\r\n{HOST}\r\n" + fields + "\r\n\r\n" + body }
	outer, inner := "POST /T ", "GET /T-inner "
	return []framing{
		{post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"), []string{"400", "200 400", "200"}, []string{outer}},
		{post("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\nG"), []string{"400", "200 400", "200"}, []string{outer}},
		{post("Transfer-Encoding: chunked\r\nContent-Length: 3", "1\r\nZ\r\n0\r\n\r\n"), []string{"400", "200"}, []string{outer + "Z"}},
		{post("Content-Length: 200\r\nTransfer-Encoding: chunked", "0\r\n\r\n"+embedded), []string{"200 200", "400", "200"}, []string{outer, inner}},
		{post("Content-Length: 0\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"+embedded), []string{"200 200", "400", "200"}, []string{outer + "hello", inner}},
		{post("Content-Length: 5\r\ntransfer-encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n"), []string{"200", "400"}, []string{outer + "hello"}},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: identity", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: xchunked", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked, identity", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: identity, chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked, chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: gzip, chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked;q=1", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: \"chunked\"", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: \x0bchunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked\x00", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding:", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: ,", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: ch\u00fcnked", "hello"), unsupported, nil},
	}
}

func lengths() []framing {
	post := func(fields string) string { return "POST /T HTTP/1.1\r\n{HOST}\r\n" + fields + "\r\n\r\nabcd" }
	whole := []string{"POST /T abcd"}
	inputs := []framing{
		{post("Content-Length: 4"), []string{"200"}, whole},
		{post("Content-Length: 4\r\nContent-Length: 4"), []string{"200", "400"}, whole},
		{post("Content-Length: 4 "), []string{"200", "400"}, whole},
		{post("Content-Length: \t4"), []string{"200", "400"}, whole},
		{post("Content-Length: 0004"), []string{"200", "400"}, whole},
		// A body of GET is a body, and not the next request.
		{"GET /T HTTP/1.1\r\n{HOST}\r\nContent-Length: 4\r\n\r\nabcd", []string{"200"}, []string{"GET /T abcd"}},
		{"POST /T HTTP/1.1\r\n{HOST}\r\n\r\nabcd", []string{"200", "200 400", "400"}, []string{"POST /T "}},
		{"POST /T HTTP/1.1\r\n{HOST}\r\nContent-Length: 0\r\n\r\nabcd", []string{"200", "200 400"}, []string{"POST /T "}},
	}
	for _, fields := range []string{
		"Content-Length: 4\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 4", "Content-Length: 4, 4", "Content-Length: 4,4", "Content-Length: 4, 5", "Content-Length: +4", "Content-Length: -4", "Content-Length: 0x4", "Content-Length: 4;", "Content-Length: 4.0", "Content-Length: 4e0", "Content-Length: 4 4", "Content-Length: ٤", "Content-Length: ４",
		"Content-Length: 10000000000000000000", "Content-Length: 18446744073709551620", "Content-Length: 99999999999999999999", "Content-Length: 4\x00", "Content-Length: \"4\"", "Content-Length:", "Content-Length: four", "Content-Length: 4_0", "Content-Length: 4\r\nContent-Length:", "Content-Length: 4\r\nContent-Length: 04",
	} {
		inputs = append(inputs, framing{post(fields), malformed, nil})
	}
	return inputs
}

func codings() []framing {
	post := func(fields string) string {
		return "POST /T HTTP/1.1\r\n{HOST}\r\n" + fields + "\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
	}
	whole := []string{"POST /T abcd"}
	inputs := []framing{
		{post("Transfer-Encoding: chunked"), []string{"200"}, whole},
		// Folding is either refused or undone (RFC 9112, 5.2).
		{post("Transfer-Encoding:\r\n chunked"), []string{"400", "501", "200"}, whole},
		{post("X-Fold: a\r\n Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), []string{"400", "200"}, whole},
		{"POST /T HTTP/1.1\r\n{HOST}\r\nX-Fold: a\r\n\tContent-Length: 0\r\nContent-Length: 4\r\n\r\nabcd", []string{"400", "200"}, whole},
		{post("X-Fold: a\r\n Transfer-Encoding: chunked"), []string{"200 400", "400"}, []string{"POST /T "}},
	}
	for _, fields := range []string{
		"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding\x00: chunked", "\x00Transfer-Encoding: chunked", " Transfer-Encoding: chunked", "\tTransfer-Encoding: chunked",
		"Transfer-Encoding\r: chunked", "Transfer Encoding: chunked", "Transfer-Encoding", "Transfer-Encoding chunked", ": chunked", "Transfer-Encoding\xa0: chunked", "Trаnsfer-Encoding: chunked", "Content-Length : 4", "Content-Length\x0b: 4", "(Content-Length): 4", "Content-Length\r\n : 4",
	} {
		if strings.HasPrefix(fields, " ") || strings.HasPrefix(fields, "\t") {
			// In the place of the first field; elsewhere it is folding.
			inputs = append(inputs, framing{"POST /T HTTP/1.1\r\n" + fields + "\r\n{HOST}\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", malformed, nil})
			continue
		}
		inputs = append(inputs, framing{post(fields), malformed, nil})
	}
	return inputs
}

func lineEnds() []framing {
	bare := strings.NewReplacer("\r\n", "\n")
	one := []string{"GET /T "}
	inputs := []framing{
		{bare.Replace("GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\r\n\r\n"), []string{"200", "400"}, one},
		{"GET /T HTTP/1.1\n{HOST}\r\nX-A: b\n\r\n", []string{"200", "400"}, one},
		{"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x80\xff\r\n\r\n", []string{"200", "400"}, one},
		{"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: a\tb\r\n\r\n", []string{"200"}, one},
		// What one server takes for the end of the head, another for a field.
		{"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\n\n" + embedded, []string{"200 200", "400"}, []string{"GET /T ", "GET /T-inner "}},
	}
	for _, text := range []string{
		"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\rX-B: c\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\r\rX-B: c\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\r\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\n\r\r\n\r\n",
		"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x00\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\x00c\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX\x00A: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-\x80: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x7f\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x1b[31m\r\n\r\n",
		"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\x0bc\r\n\r\n", "GET /T HTTP/1.1\r{HOST}\r\r", "GET /T HTTP/1.1\r\n{HOST}\x00\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX A: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\n=: b\r\n: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nnothing\r\n\r\n", "GET /T\r HTTP/1.1\r\n{HOST}\r\n\r\n",
	} {
		text = strings.Replace(text, "HTTP/1.1\r{HOST}\r\r", "HTTP/1.1\r{HOST}\r\r\r\n\r\n", 1)
		inputs = append(inputs, framing{text, malformed, nil})
	}
	return inputs
}

func chunks() []framing {
	post := func(body string) string {
		return "POST /T HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n" + body
	}
	whole := []string{"POST /T abcd"}
	inputs := []framing{
		{post("4\r\nabcd\r\n0\r\n\r\n"), []string{"200"}, whole},
		{post("4;ext=1\r\nabcd\r\n0;last\r\n\r\n"), []string{"200", "400"}, whole},
		{post("0000000000000004\r\nabcd\r\n0\r\n\r\n"), []string{"200", "400"}, whole},
		// White space after the size (RFC 9112, 7.1.1) is taken off, and not sent on.
		{post("4 \r\nabcd\r\n0\r\n\r\n"), []string{"200", "400"}, whole},
		{post("4\t \r\nabcd\r\n0\r\n\r\n"), []string{"200", "400"}, whole},
		// A trailer that is none is dropped.
		{post("4\r\nabcd\r\n0\r\nX Y: 1\r\n\r\n"), []string{"200", "400"}, whole},
		// The end of the chunks is the end of the request.
		{post("4\r\nabcd\r\n0\r\n\r\n" + embedded), []string{"200 200"}, append(slices.Clone(whole), "GET /T-inner ")},
		{post("4\r\nabcd\r\n0\r\nX-Trailer: 1\r\n\r\n" + embedded), []string{"200 200"}, append(slices.Clone(whole), "GET /T-inner ")},
	}
	for _, body := range []string{
		"0x4\r\nabcd\r\n0\r\n\r\n", "-1\r\nabcd\r\n0\r\n\r\n", "+4\r\nabcd\r\n0\r\n\r\n", " 4\r\nabcd\r\n0\r\n\r\n", "00000000000000004\r\nabcd\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nabcd\r\n0\r\n\r\n", "10000000000000004\r\nabcd\r\n0\r\n\r\n",
		"4;ext=\nabcd\r\n0\r\n\r\n", "4\nabcd\r\n0\r\n\r\n", "4\r\nabcd\n0\r\n\r\n", "4\nabcd\n0\n\n", "4\r\nabcd\r\n0\n\n", "4\rabcd\r\n0\r\n\r\n", "4;\r\r\nabcd\r\n0\r\n\r\n", "\r\n4\r\nabcd\r\n0\r\n\r\n", "4\r\nabcde\r\n0\r\n\r\n", "5\r\nabcd\r\n0\r\n\r\n", "4\r\nabcd0\r\n\r\n", "4\r\nabcd\r\n\r\n0\r\n\r\n",
		"g\r\nabcd\r\n0\r\n\r\n", "4_\r\nabcd\r\n0\r\n\r\n", "٤\r\nabcd\r\n0\r\n\r\n", "4\x00\r\nabcd\r\n0\r\n\r\n", "4 4\r\nabcd\r\n0\r\n\r\n", "4" + strings.Repeat(";x=y", 4000) + "\r\nabcd\r\n0\r\n\r\n", "4\r\nabcd\r\n0\r\nGET /T-inner HTTP/1.1\r\n{HOST}\r\n\r\n",
	} {
		inputs = append(inputs, framing{post(body), malformed, nil})
	}
	return inputs
}

func olderProtocol() []framing {
	post := func(fields, body string) string {
		return "POST /T HTTP/1.0\r\n{HOST}\r\nConnection: keep-alive\r\n" + fields + "\r\n\r\n" + body
	}
	outer, inner := "POST /T ", "GET /T-inner "
	return []framing{
		{post("Transfer-Encoding: chunked", embedded), []string{"200 200", "200", "400"}, []string{outer, inner}},
		{post("Transfer-Encoding: chunked", "0\r\n\r\n"+embedded), []string{"200 400", "200", "400"}, []string{outer}},
		{post("Transfer-Encoding: chunked", "4\r\nabcd\r\n0\r\n\r\n"), []string{"200 400", "200", "400"}, []string{outer}},
		{post("Transfer-Encoding: chunked\r\nContent-Length: 4", "abcd"+embedded), []string{"200 200", "200", "400"}, []string{outer + "abcd", inner}},
		{post("Content-Length: 4", "abcd"+embedded), []string{"200 200", "200"}, []string{outer + "abcd", inner}},
	}
}

func requestLines() []framing {
	var inputs []framing
	for _, line := range []string{
		"GET  /T HTTP/1.1", "GET\t/T HTTP/1.1", "GET /T\tHTTP/1.1", "GET /T  HTTP/1.1", "GET /T HTTP/1.1 HTTP/1.1", "GET /T HTTP/1.1 ", " GET /T HTTP/1.1", "GET /T y HTTP/1.1", "GET /T", "GET", "", "GET /T HTTP", "GET /T HTTP/1", "GET /T HTTP/1,1", "GET /T http/1.1", "GET /T HTTP/1.1.1", "GET /T HTTP/01.1", "GET /T HTTP/1.10", "GET /T XTTP/1.1",
		"GET /T HTTP/2.0", "GET /T HTTP/3.0", "GET /T HTTP/0.9", "GET /T HTTP/9.9", "PRI * HTTP/2.0", "GET T HTTP/1.1", "GET * HTTP/1.1", "GET ?/T HTTP/1.1", "GET /T\x00 HTTP/1.1", "GET /T\x7f HTTP/1.1", "GET /T\xff HTTP/1.1", "GET /Té HTTP/1.1", "GET /T#x HTTP/1.1", "GET /T\\..\\ HTTP/1.1\x00", "GET\x00 /T HTTP/1.1", "(GET) /T HTTP/1.1", "GET /%zz/T HTTP/1.1", "GET /T%z HTTP/1.1",
		"GET /" + strings.Repeat("T", 1<<20) + " HTTP/1.1", strings.Repeat("G", 1<<20) + " /T HTTP/1.1", "GET /T HTTP/1.1" + strings.Repeat("1", 1<<20),
	} {
		inputs = append(inputs, framing{line + "\r\n{HOST}\r\n\r\n", []string{"400", "414", "431", "505"}, nil})
	}
	inputs = append(inputs, framing{"\r\n\r\nGET /T HTTP/1.1\r\n{HOST}\r\n\r\n", []string{"200", "400"}, []string{"GET /T "}})
	return inputs
}
