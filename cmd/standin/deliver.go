package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"standin/audit"
	"standin/control"
	"standin/rules"
	"standin/vault"
)

// deliver hands a real value to the command, as the rules say: the exception
// for what is not HTTP. It is on record before the command has it. What is
// returned stands in the secret's variable: the value, or the path of its file.
// The value is noted in delivered, by its placeholder.
func (l *live) deliver(secret *rules.Secret, delivered map[string]string) (string, error) {
	ctx := context.Background()
	value, err := l.session.Delivered(ctx, secret.Name)
	if err != nil {
		return "", err
	}
	rec := l.record("deliver")
	use := audit.Use{Secret: secret.Name, Fingerprint: l.g.record.Fingerprint(value.Reveal())}
	use.Version = l.versionOf(ctx, secret, use.Fingerprint)
	rec.Uses = []audit.Use{use}
	rec.Secrets, rec.Variables, rec.Reason = []string{secret.Name}, secret.Env, secret.Deliver.String()
	if err := l.g.record.Append(ctx, rec); err != nil {
		return "", err
	}
	l.handedOut(secret.Name)
	delivered[l.placeholders[secret.Name]] = string(value.Reveal())
	if secret.Deliver == rules.Env {
		return string(value.Reveal()), nil
	}
	l.handingFiles.Lock()
	defer l.handingFiles.Unlock()
	if err := l.session.Live(); err != nil {
		return "", err
	}
	if err := l.openDeliveries(); err != nil {
		return "", err
	}
	path := filepath.Join(l.deliveries(), secret.Name)
	if err := vault.ReplaceFile(path, value.Reveal()); err != nil {
		return "", fmt.Errorf("deliver secret %q: %w", secret.Name, err)
	}
	return path, nil
}

// versionOf is the version that its source gives the value with this fingerprint,
// or "" if it has another one by now.
func (l *live) versionOf(ctx context.Context, secret *rules.Secret, fingerprint string) string {
	now, err := l.resolver.Resolve(ctx, secret.Source, secret.MinLength)
	if err != nil || l.g.record.Fingerprint(now.Secret.Reveal()) != fingerprint {
		return ""
	}
	return now.Version
}

// deliveries is the folder of the values that this session hands out as files.
func (l *live) deliveries() string {
	return filepath.Join(l.g.home.Run(), l.session.ID+deliveredSuffix)
}

// Beside each folder of delivered values lies a file that its gateway has locked.
const (
	deliveredSuffix = ".delivered"
	ownerSuffix     = ".owner"
)

// openDeliveries makes the folder, under a lock that ends with this process.
func (l *live) openDeliveries() error {
	if l.owner != nil {
		return nil
	}
	owner, err := os.OpenFile(ownerOf(l.deliveries()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("deliver secrets: %w", err)
	}
	if locked, err := tryLock(owner); err != nil || !locked {
		owner.Close()
		return fmt.Errorf("deliver secrets: lock %q: %w", owner.Name(), errors.Join(err, errors.New("it is not to be had")))
	}
	l.owner = owner
	return vault.PrivateDir(l.deliveries())
}

func ownerOf(deliveries string) string {
	return strings.TrimSuffix(deliveries, deliveredSuffix) + ownerSuffix
}

// withdraw removes the files that were handed out, when the grants end.
func (l *live) withdraw() error {
	l.handingFiles.Lock()
	defer l.handingFiles.Unlock()
	if l.owner == nil {
		return nil
	}
	defer l.owner.Close()
	return removeDeliveries(l.deliveries())
}

func removeDeliveries(folder string) error {
	err := os.RemoveAll(folder)
	if err == nil {
		err = os.Remove(ownerOf(folder))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove delivered files: %w", err)
	}
	return nil
}

// sweep removes what gateways that were killed left behind in clear, at once:
// delivered files whose owner has ended, and the sockets of their sessions.
func (h home) sweep() error {
	entries, err := os.ReadDir(h.Run())
	if err != nil {
		return fmt.Errorf("sweep %q: %w", h.Run(), err)
	}
	var failed error
	for _, e := range entries {
		path := filepath.Join(h.Run(), e.Name())
		switch {
		case strings.HasSuffix(path, deliveredSuffix) && e.IsDir():
			failed = errors.Join(failed, sweepDeliveries(path))
		case strings.HasSuffix(path, ".sock") && e.Name() != serveSocket+".sock": // a new one takes the place of that
			failed = errors.Join(failed, control.Sweep(path))
		}
	}
	return failed
}

// sweepDeliveries removes a folder of delivered files that nobody owns.
func sweepDeliveries(folder string) error {
	owner, err := os.OpenFile(ownerOf(folder), os.O_RDWR|noFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return removeDeliveries(folder)
	}
	if err != nil {
		return fmt.Errorf("remove delivered files: %w", err)
	}
	defer owner.Close()
	if locked, err := tryLock(owner); err != nil || !locked {
		return err
	}
	return removeDeliveries(folder)
}
