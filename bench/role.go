package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"

	"standin/bench/authority"
	"standin/bench/load"
	"standin/bench/reference"
	"standin/bench/upstream"
)

// roleWord is the first argument of this program's other processes.
const roleWord = "as"

// role is one of the other processes. Each says one line when it is ready, and
// ends when its standard input does, so that none outlives the benchmark.
func role(args []string, in *os.File, out, errs io.Writer) int {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	say := func(v any) error { return json.NewEncoder(out).Encode(v) }
	ready := func(addr string) error { return say(announced{Proxy: addr}) }
	var err error
	switch {
	case len(args) == 2 && args[0] == "upstream":
		go untilEnd(in, end)
		err = asUpstream(ctx, args[1], ready)
	case len(args) == 5 && args[0] == "reference":
		go untilEnd(in, end)
		err = asReference(ctx, args[1:], ready)
	case len(args) == 1 && args[0] == "load":
		err = asLoad(in, say)
	case len(args) == 1 && args[0] == "hold":
		if err = say(announced{os.Getenv("HTTPS_PROXY"), os.Getenv("NODE_EXTRA_CA_CERTS"), os.Getenv(carrier)}); err == nil {
			untilEnd(in, end)
		}
	default:
		err = fmt.Errorf("no role %q", args)
	}
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	return 0
}

// announced is the line that says that a process is ready.
type announced struct {
	Proxy string // its address, or the URL in HTTPS_PROXY
	Roots string // file of the session's authority
	Token string // the placeholder
}

func untilEnd(in io.Reader, end func()) {
	_, _ = io.Copy(io.Discard, in)
	end()
}

func asUpstream(ctx context.Context, dir string, ready func(string) error) error {
	ca, err := authority.Load(dir)
	if err != nil {
		return err
	}
	return upstream.Run(ctx, ca, ready)
}

// asReference takes its name, the folder of the authority, the upstream's
// address and the file for a CPU profile, which may be empty.
func asReference(ctx context.Context, args []string, ready func(string) error) error {
	ca, err := authority.Load(args[1])
	if err != nil {
		return err
	}
	if args[3] != "" {
		file, err := os.Create(args[3])
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return reference.Run(ctx, args[0], reference.Config{Authority: ca, Upstream: args[2], Bearer: upstream.Secret}, ready)
}

// asLoad reads a job, then rounds. For each it makes ready, says so, waits for
// one more line, and says what came of it.
func asLoad(in io.Reader, say func(any) error) error {
	lines := bufio.NewScanner(in)
	var job load.Job
	if err := read(lines, &job); err != nil {
		return err
	}
	client, err := load.New(job)
	if err != nil {
		return errors.Join(err, say(load.Result{Error: err.Error()}))
	}
	defer client.Close()
	for {
		var round load.Round
		err := read(lines, &round)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := client.Ready(); err != nil {
			return say(load.Result{Error: err.Error()})
		}
		if err := say(load.Result{}); err != nil {
			return err
		}
		if !lines.Scan() {
			return lines.Err()
		}
		if err := say(client.Run(round)); err != nil {
			return err
		}
	}
}

func read(lines *bufio.Scanner, into any) error {
	if !lines.Scan() {
		return cmp.Or(lines.Err(), io.EOF)
	}
	return json.Unmarshal(lines.Bytes(), into)
}
