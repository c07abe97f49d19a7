//go:build linux

package cases

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// gRPC, by a server and by clients of two implementations.

func clientsOfGRPC() []client {
	return []client{
		{"grpc-go calls in all four ways", nil, func(c *Case) {
			c.grpcClient(os.Args[0], clientRole, "grpc", api)
		}},
		{"grpc-js calls in all four ways", []string{"node", "npm"}, func(c *Case) {
			c.grpcClient("node", c.module("grpc.js", grpcScript), api)
		}},
	}
}

// echoService answers with what it is told, and with the token that it was shown.
// A call of Wait lasts until the client ends it, and then says how it ended.
func echoService(ended chan<- error) *grpc.ServiceDesc {
	token := func(ctx context.Context) string {
		md, _ := metadata.FromIncomingContext(ctx)
		return strings.Join(md["authorization"], ",")
	}
	next := func(s grpc.ServerStream) (string, error) {
		var m wrapperspb.StringValue
		err := s.RecvMsg(&m)
		return m.GetValue(), err
	}
	stream := func(name string, client, server bool, serve func(grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ClientStreams: client, ServerStreams: server, Handler: func(_ any, s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("x-trailer", "seen "+token(s.Context())))
			return serve(s)
		}}
	}
	chat := func(s grpc.ServerStream) error {
		for {
			text, err := next(s)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.SendMsg(wrapperspb.String(text + " " + token(s.Context()))); err != nil {
				return err
			}
		}
	}
	return &grpc.ServiceDesc{ServiceName: "case.Echo", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		stream("Unary", false, false, chat), stream("Chat", true, true, chat),
		stream("Collect", true, false, func(s grpc.ServerStream) error {
			var all []string
			for {
				text, err := next(s)
				if err != nil {
					return s.SendMsg(wrapperspb.String(strings.Join(all, "+") + " " + token(s.Context())))
				}
				all = append(all, text)
			}
		}),
		stream("Split", false, true, func(s grpc.ServerStream) error {
			text, _ := next(s)
			for part := range strings.SplitSeq(text, "+") {
				if err := s.SendMsg(wrapperspb.String(part + " " + token(s.Context()))); err != nil {
					return err
				}
			}
			return grpcstatus.Error(codes.NotFound, "no more for "+token(s.Context()))
		}),
		stream("Wait", true, true, func(s grpc.ServerStream) error {
			if err := s.SendMsg(wrapperspb.String("begun")); err != nil {
				return err
			}
			<-s.Context().Done()
			ended <- s.Context().Err()
			return s.Context().Err()
		}),
	}}
}

// grpcClient runs one client against the service.
func (c *Case) grpcClient(argv ...string) {
	c.Helper()
	ended := make(chan error, 8)
	server := grpc.NewServer()
	server.RegisterService(echoService(ended), struct{}{})
	queue := newConnQueue(c.U1.ln.Addr())
	go func() { _ = server.Serve(queue) }()
	c.Cleanup(server.Stop)
	c.U1.H2(func(conn net.Conn) {
		done := make(chan struct{})
		queue.put(&watched{Conn: conn, closed: done})
		<-done
	})
	seen := "Bearer " + c.P
	c.said(c.launch(nil)(argv...), strings.Join([]string{
		"unary: one " + seen + ", OK, trailer seen " + seen,
		"collect: a+b+c " + seen + ", OK",
		"split: x " + seen + "; y " + seen + "; NOT_FOUND no more for " + seen,
		"chat: 20 replies, each before the next message, OK",
		"at once: 500 of 500, OK",
		"deadline: DEADLINE_EXCEEDED", "cancelled: CANCELLED",
	}, "\n"))
	for range 2 {
		select {
		case <-ended:
		case <-time.After(patience):
			c.Fatal("the server did not learn that a call is over")
		}
	}
	c.U1.asserted()
	paths := map[string]int{}
	for _, q := range c.U1.Received() {
		c.Equal(q.Values("authorization"), []string{"Bearer " + R})
		c.Equal(q.Values("te"), []string{"trailers"})
		paths[strings.TrimPrefix(q.Target, "/case.Echo/")]++
		if strings.HasSuffix(q.Target, "/Wait") && len(q.Values("grpc-timeout")) == 0 && !q.Aborted {
			c.Error("the upstream was not told that a call was cancelled")
		}
	}
	c.Equal(paths, map[string]int{"Unary": 1, "Collect": 1, "Split": 1, "Chat": 2, "Wait": 2})
	c.Recorded(7, Want{"type": "substitute", "surface": "header Authorization"})
}

// watched says when it is closed.
type watched struct {
	net.Conn
	closed chan struct{}
}

func (w *watched) Close() error {
	err := w.Conn.Close()
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return err
}

// playGRPC is the client in Go, with nothing but the environment for proxy and roots.
func playGRPC(host string) int {
	conn, err := grpc.NewClient(host+":443", grpc.WithTransportCredentials(credentials.NewTLS(nil)))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer conn.Close()
	base, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("GITHUB_TOKEN")), patience)
	defer cancel()
	open := func(ctx context.Context, name string) grpc.ClientStream {
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/case.Echo/"+name)
		if err != nil {
			fmt.Println(name, err)
			os.Exit(1)
		}
		return s
	}
	hear := func(s grpc.ClientStream) (string, error) {
		var m wrapperspb.StringValue
		err := s.RecvMsg(&m)
		return m.GetValue(), err
	}
	ending := func(err error) string {
		if errors.Is(err, io.EOF) {
			return "OK"
		}
		return map[codes.Code]string{codes.NotFound: "NOT_FOUND", codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.Canceled: "CANCELLED"}[grpcstatus.Code(err)]
	}
	tell := func(s grpc.ClientStream, texts ...string) {
		for _, t := range texts {
			_ = s.SendMsg(wrapperspb.String(t))
		}
		_ = s.CloseSend()
	}

	s := open(base, "Unary")
	tell(s, "one")
	text, _ := hear(s)
	_, err = hear(s)
	fmt.Printf("unary: %s, %s, trailer %s\n", text, ending(err), strings.Join(s.Trailer()["x-trailer"], ","))
	s = open(base, "Collect")
	tell(s, "a", "b", "c")
	text, _ = hear(s)
	_, err = hear(s)
	fmt.Printf("collect: %s, %s\n", text, ending(err))
	s = open(base, "Split")
	tell(s, "x+y")
	one, _ := hear(s)
	two, _ := hear(s)
	_, err = hear(s)
	fmt.Printf("split: %s; %s; %s %s\n", one, two, ending(err), grpcstatus.Convert(err).Message())
	s = open(base, "Chat")
	n := 0
	for i := range 20 {
		_ = s.SendMsg(wrapperspb.String(fmt.Sprint(i)))
		if text, err := hear(s); err == nil && strings.HasPrefix(text, fmt.Sprint(i, " ")) {
			n++
		}
	}
	_ = s.CloseSend()
	_, err = hear(s)
	fmt.Printf("chat: %d replies, each before the next message, %s\n", n, ending(err))
	s = open(base, "Chat")
	go func() {
		for i := range 500 {
			_ = s.SendMsg(wrapperspb.String(fmt.Sprint(i, strings.Repeat(" ", 1000))))
		}
		_ = s.CloseSend()
	}()
	for n = 0; ; n++ {
		if text, err = hear(s); err != nil || !strings.HasPrefix(text, fmt.Sprint(n, " ")) {
			break
		}
	}
	fmt.Printf("at once: %d of 500, %s\n", n, ending(err))
	brief, end := context.WithTimeout(base, 2*time.Second)
	defer end()
	s = open(brief, "Wait")
	_, _ = hear(s)
	_, err = hear(s)
	fmt.Println("deadline:", ending(err))
	brief, end = context.WithCancel(base)
	s = open(brief, "Wait")
	_, _ = hear(s)
	end()
	_, err = hear(s)
	fmt.Println("cancelled:", ending(err))
	return 0
}

// grpcScript is the client for Node. A StringValue is one field, written by hand.
const grpcScript = `
const grpc = require('@grpc/grpc-js')
const fs = require('fs')
const encode = text => {
  const body = Buffer.from(text)
  const head = [0x0a]
  for (let n = body.length; ; n >>>= 7) { if (n < 128) { head.push(n); break } head.push(n & 127 | 128) }
  return Buffer.concat([Buffer.from(head), body])
}
const decode = b => {
  if (b.length === 0) return ''
  let at = 1, n = 0, shift = 0
  for (;;) { const c = b[at++]; n |= (c & 127) << shift; shift += 7; if (c < 128) break }
  if (b[0] !== 0x0a || at + n !== b.length) throw new Error('malformed: ' + b.toString('hex'))
  return b.subarray(at).toString()
}
const method = (name, requestStream, responseStream) => ({ path: '/case.Echo/' + name, requestStream, responseStream,
  requestSerialize: encode, requestDeserialize: decode, responseSerialize: encode, responseDeserialize: decode })
const Client = grpc.makeGenericClientConstructor({ Unary: method('Unary', false, false), Collect: method('Collect', true, false),
  Split: method('Split', false, true), Chat: method('Chat', true, true), Wait: method('Wait', true, true) }, 'Echo')
const client = new Client(process.argv[2] + ':443', grpc.credentials.createSsl())
const md = () => { const m = new grpc.Metadata(); m.set('authorization', 'Bearer ' + process.env.GITHUB_TOKEN); return m }
const code = n => grpc.status[n]
const ended = call => new Promise(resolve => { call.on('status', resolve); call.on('error', () => {}) })
async function main () {
  await new Promise((resolve, reject) => {
    let answer
    const call = client.Unary('one', md(), (err, value) => { if (err) reject(err); answer = value })
    call.on('status', s => { console.log('unary: ' + answer + ', ' + code(s.code) + ', trailer ' + s.metadata.get('x-trailer').join(',')); resolve() })
  })
  await new Promise((resolve, reject) => {
    const call = client.Collect(md(), (err, value) => { if (err) return reject(err); console.log('collect: ' + value + ', OK'); resolve() })
    for (const t of ['a', 'b', 'c']) call.write(t)
    call.end()
  })
  const split = client.Split('x+y', md())
  const parts = []
  split.on('data', t => parts.push(t))
  let s = await ended(split)
  console.log('split: ' + parts.join('; ') + '; ' + code(s.code) + ' ' + s.details)
  const chat = client.Chat(md())
  let n = 0
  const over = ended(chat)
  for (let i = 0; i < 20; i++) {
    const reply = new Promise(resolve => chat.once('data', resolve))
    chat.write(String(i))
    if ((await reply).startsWith(i + ' ')) n++
  }
  chat.resume()
  chat.end()
  s = await over
  console.log('chat: ' + n + ' replies, each before the next message, ' + code(s.code))
  const both = client.Chat(md())
  n = 0
  both.on('data', t => { if (t.startsWith(n + ' ')) n++ })
  const all = ended(both)
  for (let i = 0; i < 500; i++) both.write(i + ' '.repeat(1000))
  both.end()
  s = await all
  console.log('at once: ' + n + ' of 500, ' + code(s.code))
  const late = client.Wait(md(), { deadline: Date.now() + 2000 })
  late.resume()
  s = await ended(late)
  console.log('deadline: ' + code(s.code))
  const call = client.Wait(md())
  const gone = ended(call)
  await new Promise(resolve => call.once('data', resolve))
  call.resume()
  call.cancel()
  s = await gone
  console.log('cancelled: ' + code(s.code))
  process.exit(0)
}
main().catch(e => { console.log(String(e)); process.exit(1) })
`
