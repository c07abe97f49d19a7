// Package standin is a tour of the packages, in the order in which a request
// meets them. It holds no code.
//
//	launch   starts the command: what its environment holds and what it does not,
//	         its process tree, its exit code; launch/netns: the room that it
//	         lives in, if it has one of its own
//	control  how a launcher has a session of a gateway that is another process
//	proxy    the front door that the command's clients connect to: which session
//	         asks, and for which host; launch/peer: which process
//	rules    which rule decides, and what it lets stand where
//	ca       the leaf that the client is shown, under an authority of the
//	         session's own
//	proxy    the one server of all decrypted connections; proxy/websocket: those
//	         that become WebSockets
//	grant    the session: placeholders are found, the values are put in
//	vault    where the values lie, and the type that does not print them
//	audit    the record, on disk before the request leaves
//	proxy    the forwarder: upstream identity, guarded dialling, the answer
//	grant    the answer: decoded (grant/coding), scrubbed (grant/scrub: placeholders
//	         again where values stand) and passed on as it comes (grant/answer)
//
// Command cmd/standin puts them together. It is the only package that knows all
// the others. What may import what is checked by arch_test.go.
package standin
