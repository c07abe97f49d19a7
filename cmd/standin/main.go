// Command standin is a forward proxy that swaps credentials on the wire: a
// command started by "standin run" holds placeholders only, and the real
// values are put in for the hosts, and at the places, that the rules name.
//
// It assembles the other packages and does nothing on the wire itself. It is
// the only package that knows all the others, and the only one that prints or
// exits.
package main

import (
	"io"
	"log"
	"os"

	"standin/launch/netns"
)

func main() {
	// net/http's transport says here what a server sent out of turn, value or not.
	log.SetOutput(io.Discard)
	if len(os.Args) == 2 && os.Args[1] == netns.InitArgument {
		os.Exit(netns.Init()) // the first process of a room
	}
	p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, args: os.Args[1:], env: os.Environ()}
	os.Exit(p.main())
}
