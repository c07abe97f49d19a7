package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/term"

	"standin/vault"
)

// maxValue is the longest value that is read, with its newline.
const maxValue = 64<<10 + 2

var (
	errDiffer      = errors.New("read value: what was typed the second time is not the same")
	errInterrupted = errors.New("ask: interrupted")
)

// terminal is the terminal of the user, whatever stdin and stdout are.
func terminal() (in, out *os.File, err error) {
	name, other := "/dev/tty", "/dev/tty"
	if runtime.GOOS == "windows" {
		name, other = "CONIN$", "CONOUT$"
	}
	if in, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return nil, nil, errNoTerminal
	}
	if out, err = os.OpenFile(other, os.O_RDWR, 0); err != nil {
		in.Close()
		return nil, nil, errNoTerminal
	}
	return in, out, nil
}

// askHidden asks on the terminal without showing what is typed. An interrupt
// gives the terminal its echo back first.
func askHidden(prompt string) ([]byte, error) {
	in, out, err := terminal()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	defer out.Close()
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return nil, errNoTerminal
	}
	defer term.Restore(int(in.Fd()), before)
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	hideTyping(int(in.Fd()))
	fmt.Fprint(out, prompt)
	go func() { // ends with the line, or with the program that an interrupt ends
		text, err := term.ReadPassword(int(in.Fd()))
		answered <- answer{text, err}
	}()
	select {
	case a := <-answered:
		fmt.Fprintln(out)
		if errors.Is(a.err, io.EOF) {
			return nil, errors.New("ask: the terminal was closed")
		}
		return a.text, a.err
	case <-interrupts:
		fmt.Fprintln(out)
		return nil, exitError(130, errInterrupted)
	}
}

// askTwice asks for something that cannot be looked at again.
func askTwice(prompt string) ([]byte, error) {
	first, err := askHidden(prompt + ": ")
	if err != nil {
		return nil, err
	}
	second, err := askHidden(prompt + ", once more: ")
	defer clear(second)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errDiffer
	}
	return first, nil
}

// readValue takes a value from the user: typed twice where stdin is a terminal,
// else all of stdin without one newline at its end.
func (p *program) readValue(name string) (vault.Secret, error) {
	var text []byte
	var err error
	if term.IsTerminal(int(p.in.Fd())) {
		text, err = askTwice("Value of " + name)
	} else {
		text, err = io.ReadAll(io.LimitReader(p.in, maxValue+1))
		if err == nil && len(text) > maxValue {
			err = errors.New("read value: it is longer than 64 KiB")
		}
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	}
	defer clear(text)
	if err != nil {
		return vault.Secret{}, err
	}
	if len(text) == 0 {
		return vault.Secret{}, errors.New("read value: it is empty")
	}
	return vault.NewSecret(text), nil
}

// newPassphrase is a passphrase for a new vault, from its file or asked twice.
func (p *program) newPassphrase(path string) ([]byte, error) {
	if path == "" {
		path = p.getenv("STANDIN_PASSPHRASE_FILE")
	}
	if path == "" {
		return askTwice("Passphrase for the new vault")
	}
	return readPassphrase(path)
}
