// Package cases drives the built program, from outside, through the cases that
// it must survive. Each case is a test with its id in its name (TestCases/A01),
// on real sockets and with real TLS; what is asserted is what the upstreams
// recorded and what the record says, never only a status.
//
// It holds tests only, and it imports nothing of the product: it builds the
// binary, makes a vault, trusts rules, starts sessions with "standin run" and
// then speaks to their proxies itself, byte by byte.
//
// # A case
//
//	{"A02", func(c *Case) {
//		r := c.S1().Do(api, get("/user", api, "Authorization: Bearer "+c.P)) // one tunnel, raw bytes
//		c.Status(r, 200)
//		q := c.U1.Requests(1)[0]                                            // WIRE: exactly one request arrived
//		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
//		c.Recorded(1, Want{"type": "substitute", "secret": "github"})       // AUDIT
//	}},
//
//	{"A01", func(c *Case) {
//		r := c.S1().Do(evil, get("/", evil, "Authorization: Bearer "+c.P))
//		c.Refused(r, 403, "placeholder_misplaced") // status, code, id, hint, Proxy-Status
//		c.U2.Nothing()                             // WIRE: not one decrypted byte
//		c.Recorded(1, Want{"type": "deny", "code": "placeholder_misplaced", "host": evil})
//	}},
//
// Cases stand in tables, one per section (sectionA in a_test.go), and the
// tables in the list "sections"; ids.txt lists the ids that must run.
//
// A case has everything to itself: a copy of the vault, a rules file, its own
// upstreams on their own ports, its own sessions and gateways. So all cases run
// in parallel. What a case needs otherwise it says before the first session:
//
//	c.Rules.Add("- {name: pin, hosts: [pin.test], passthrough: true, reason: pins}")
//	u := c.Upstream("pin.test:443", Serve{TLS: c.Certificate("pin.test")}) // a further server and its upstreams: entry
//	c.Rules.Secret("odd", value)      // one more secret: in the vault, in the rules, in $ODD
//	c.U1.HTTP1()                      // this upstream offers no HTTP/2
//	c.U1.Handle(func(w http.ResponseWriter, r *http.Request) { … })
//	c.UR.Script(func(conn *wireConn) { … })     // a raw server, after TLS
//
// Clients, from the lowest: Session.Door (TCP to the proxy), Session.Connect
// (CONNECT with the credentials), Session.Tunnel (and TLS, with the name and
// ALPN that one likes), Conn.Send and Conn.Response, Session.Do for all of it;
// Session.H2 and H2.Send, H2.Await for frames; Session.Each runs a Message
// over HTTP/1.1 and over HTTP/2. Case.Standin runs any other command of the
// program, Case.Start a session with other flags, clock.Start one whose wall
// clock the case moves, smallDisk a log on a file system that is soon full.
// TestClients and TestBadInput start real clients, and mistakes, by the same
// means.
//
// # After every case
//
// NOLEAK: no form of a secret (raw, base64 in three alignments and two
// alphabets, hex, percent, JSON) is in anything that the client received, any
// output, log or audit file, the environment or command line of the command, or
// any file under the home and the temporary folder but vault.age. WIRE: a case
// that asserted nothing about recorded bytes fails; U2 and U3 never hold a
// secret; every value that an upstream saw has its record. ALIVE: the gateway
// of each session still running has its pid, serves a plain request, and its
// goroutines, descriptors and tunnels are back where they were. AUDIT: "audit
// verify" with the recovery key ends with 0 or 12.
//
// STANDIN_FULL=1 runs the long forms: 500 kills, a log of a gigabyte;
// STANDIN_TAMPER=N makes N more changes to a log. STANDIN_RACE=1 builds the program with the race detector; STANDIN_KEEP=1
// leaves the files of all cases for a look.
package cases
