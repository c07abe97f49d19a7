package main

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"standin/audit"
	"standin/audit/segment"
	"standin/control"
	"standin/launch"
	"standin/rules"
	"standin/vault"
)

// hinted is an error whose way out is known where it was made.
type hinted struct {
	err  error
	text string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// hint is something to type, made from the type of the error, or "".
func hint(err error) string {
	var known *hinted
	if errors.As(err, &known) {
		return known.text
	}
	for _, by := range []func(error) string{sourceHint, vaultHint, policyHint, logHint, runHint, placeHint} {
		if text := by(err); text != "" {
			return text
		}
	}
	return ""
}

// strangerHint is the way out for a process that is not of the command's tree.
const strangerHint = "let the command start it, or start it by a standin run of its own; docs/isolation.md has more"

// vaultHint is for errors of the vault and of files of state.
func vaultHint(err error) string {
	var (
		missing  *vault.MissingError
		exists   *vault.ExistsError
		mode     *vault.ModeError
		corrupt  *vault.CorruptError
		newer    *vault.VersionError
		rollback *vault.RollbackError
		unknown  *vault.NotFoundError
		weak     *vault.WeakError
		keys     *vault.KeyringError
		outside  *vault.IdentityFileError
	)
	switch {
	case errors.As(err, &missing) && missing.Identity != "":
		return "put vault.age back from a backup; or give its secrets up, and begin anew: mv " + shellWord(missing.Identity) + " " + shellWord(missing.Identity+".old") + " && standin vault init"
	case errors.As(err, &missing):
		return "standin vault init"
	case errors.As(err, &exists):
		return "use it as it is, or move it away first: both vault.age and identity.age"
	case errors.As(err, &mode):
		return mode.Fix
	case errors.As(err, &outside):
		return "put the identity back from where you keep a copy of it: " + shellWord(outside.Path) + " is where identity.age says that it is"
	case errors.Is(err, vault.ErrPassphrase):
		return "type it again; a passphrase that is lost cannot be had back: standin vault init in another --home, and set the values anew"
	case errors.As(err, &newer):
		return "a newer standin wrote it: install that version; the file was left as it is"
	case errors.As(err, &corrupt):
		return "put back vault.age and identity.age of the same backup; the files were left as they are"
	case errors.As(err, &rollback):
		return "if you put back a backup on purpose, end the running sessions and start again"
	case errors.As(err, &unknown):
		return "standin vault list"
	case errors.As(err, &weak):
		return "a value must be told from ordinary text, or it cannot be scrubbed from responses; take a generated one"
	case errors.As(err, &keys):
		return "unlock the keyring of your desktop, or keep the identity in a file: standin vault init --identity-file FILE"
	case errors.Is(err, errNoKernelKeyring):
		return "name a file that holds the passphrase: --passphrase-file FILE, or $STANDIN_PASSPHRASE_FILE"
	case errors.Is(err, errNoTerminal):
		return "name a file that holds it: --passphrase-file FILE, or $STANDIN_PASSPHRASE_FILE"
	case errors.Is(err, errNoHome):
		return "name a folder: standin --home DIR …"
	}
	return ""
}

// sourceHint is for sources of secrets that could not be read.
func sourceHint(err error) string {
	var source *vault.SourceError
	if !errors.As(err, &source) {
		return ""
	}
	scheme, name, _ := strings.Cut(source.Source, ":")
	switch {
	case source.Cause == vault.CauseNotFound && scheme == "vault":
		return "standin vault set " + name
	case source.Cause == vault.CauseNotFound && scheme == "exec":
		return "install the program, or name it by its whole path under \"sources:\" of the rules file"
	case scheme == "file":
		return fileHint(source, name)
	case source.Cause == vault.CauseNotFound && scheme == "env":
		return "export " + name + "=…"
	case scheme == "exec":
		return "run the command of that source by hand, as \"sources:\" in the rules file names it"
	}
	return ""
}

// fileHint is for a file: source.
func fileHint(source *vault.SourceError, name string) string {
	path, key, keyed := strings.Cut(name, "#")
	var mode *vault.ModeError
	switch {
	case errors.As(source, &mode):
		return mode.Fix
	case source.Cause == vault.CauseNotFound && keyed && !errors.Is(source, fs.ErrNotExist):
		return "the key " + key + " is a name of a dotenv file, or of a JSON object (/a/b goes into it): see which " + shellWord(path) + " has, or correct the source in the rules file"
	case source.Cause == vault.CauseMalformed:
		return "write the whole path: file:/etc/…, or file:~/…"
	}
	return "ls -l " + shellWord(path)
}

// placeHint is for folders and files that cannot be reached or written.
func placeHint(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "that file system is read-only: keep what Standin writes elsewhere: standin --home DIR …, or $STANDIN_HOME"
	case errors.Is(err, fs.ErrPermission):
		return "look who may do that, there and in the folder above: ls -ld; or keep what Standin writes elsewhere: standin --home DIR …"
	}
	return ""
}

// policyHint is for the rules file.
func policyHint(err error) string {
	var (
		line    *rules.Error
		file    *rules.FileError
		none    *rules.NoRulesError
		profile *rules.UnknownProfileError
	)
	switch {
	case errors.As(err, &line):
		return line.Fix
	case errors.As(err, &file):
		return file.Fix
	case errors.As(err, &none):
		return "standin rules init github"
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(err.Error(), "load rules"):
		return "standin rules init github, or name another file: --rules FILE"
	case errors.As(err, &profile) && len(profile.Known) > 0:
		return "the file has " + strings.Join(profile.Known, ", ")
	}
	return ""
}

// logHint is for the audit log.
func logHint(err error) string {
	var (
		down      *audit.UnavailableError
		malformed *audit.MalformedError
		key       *audit.KeyError
		older     *audit.OlderVaultError
		mode      *segment.ModeError
		lost      *segment.LostError
	)
	switch {
	case errors.As(err, &older):
		return "find out who put it there; if it was you, with a backup: standin vault accept --reason TEXT"
	case errors.Is(err, audit.ErrNumbers):
		return "that file is not of standin's making: standin audit recover --reason TEXT"
	case errors.As(err, &mode):
		return mode.Fix
	case errors.As(err, &lost):
		return "put it back as it was, or end the gateway and look: standin audit verify"
	case errors.Is(err, segment.ErrLocked):
		return "end the gateways of this home first: standin session list"
	case errors.As(err, &down):
		return "df -h " + shellWord(down.Path)
	case errors.As(err, &malformed):
		return "find out what happened: standin audit verify"
	case errors.As(err, &key) && key.Key == "recovery":
		return "take the key that \"standin vault init\" handed over once, for this vault: AGE-SECRET-KEY-1…"
	case errors.As(err, &key):
		return "standin vault status"
	}
	return ""
}

// runHint is for what keeps a command from starting.
func runHint(err error) string {
	var (
		start    *launch.StartError
		session  *unknownSessionError
		nested   *nestedError
		taken    *control.TakenError
		absent   *absentError
		unproven *unprovenError
		ending   *endingError
	)
	switch {
	case errors.As(err, &ending):
		return "wait until it has ended; then: standin serve"
	case errors.As(err, &taken) && taken.Live:
		return "use it: standin run --gateway " + shellWord(taken.Path) + " -- CMD; or end it first"
	case errors.As(err, &taken):
		return "look at it, and move it away: ls -l " + shellWord(taken.Path)
	case errors.As(err, &absent):
		return "start one: standin serve; it prints its socket"
	case errors.As(err, &unproven):
		return "name the socket that \"standin serve\" of this home printed, or get a new token: standin session token"
	case errors.As(err, &start) && start.Code == 127:
		return "check the name and $PATH; what follows \"--\" is run as it stands, without a shell"
	case errors.As(err, &start):
		return "check that the file is a program and may be executed"
	case errors.Is(err, syscall.ENOSPC):
		return "free space on that disk: df -h"
	case errors.As(err, &session):
		return "standin session list"
	case errors.As(err, &nested):
		return "ask for less: standin session show " + nested.Outer + "; or start it outside of that session"
	}
	return ""
}

// startError gives a command that cannot start its exit code.
func startError(err error) error {
	var start *launch.StartError
	switch {
	case exhausted(err):
		return &hinted{err, "ulimit -n 1024, before it"}
	case errors.As(err, &start):
		return exitError(start.Code, err)
	}
	return err
}
