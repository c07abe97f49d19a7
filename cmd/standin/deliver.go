package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"standin/audit"
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
	if err := vault.PrivateDir(l.deliveries()); err != nil {
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
	return filepath.Join(l.g.home.Run(), l.session.ID+".delivered")
}

// withdraw removes the files that were handed out.
func (l *live) withdraw() error {
	if err := os.RemoveAll(l.deliveries()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove delivered files: %w", err)
	}
	return nil
}
