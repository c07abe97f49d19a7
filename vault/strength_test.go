package vault

import (
	"errors"
	"strings"
	"testing"
)

func TestWeakValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"", "short", "1234567", "12345678", "aaaaaaaaaaaa", "abababababab", "abcdefghijkl", "qwertyuiop",
		"0987654321", "20251231", "1735689600", "password", "Password1!", "changeme", "CHANGE_ME_PLEASE", "your-api-key-here", "<your-token>",
		"${OPENAI_API_KEY}", "$GITHUB_TOKEN", "xxxxxxxxxxxxxxxx", "sk-xxxxxxxxxxxxxxxx", "secret-key", "application/json", "localhost",
		"http://localhost", "undefined", "description", "ghp_zstandin_abcdefghijklmnopqrstuvwxyz", "x-ZSTANDIN_-4711abcXYZ", "null null", "        ",
		"abcd\x00efgh9X"} {
		var weak *WeakError
		if err := CheckStrength([]byte(v)); !errors.As(err, &weak) {
			t.Errorf("%q was taken", v)
		} else if len(v) > 12 && strings.Contains(err.Error(), v) {
			t.Errorf("%q: the error holds it", v)
		}
	}
}

func TestRealValuesAreTaken(t *testing.T) {
	t.Parallel()
	for _, v := range []string{canary, "sk-ant-api03-Qm9vYmFyQmF6", "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy", "AKIAIOSFODNN7EXAMPLE",
		"hunter2-hunter2", "Tr0ub4dor&3", "abcd efgh ijkl mnop qrst"[:9] + "zkwv mqpt", "nqzvhtwmkplr", "4929103847561029", "p@ss/w0rd!x9",
		"postgres://app:9fK2-xLq@db.internal:5432/app", "correct-horse-battery-staple", "{\"type\":\"service_account\",\"private_key_id\":\"9f2c\"}",
		"-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\n-----END PRIVATE KEY-----", "\xff\xfe\x01\x80\x9a\x77\x10\xc3", "8f14e45fceea167a"} {
		if err := CheckStrength([]byte(v)); err != nil {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestCredentialsAreToldFromSettings(t *testing.T) {
	t.Parallel()
	for pair, want := range map[string]bool{"OPENAI_API_KEY=x": true, "GITHUB_TOKEN=x": true, "DB_PASSWORD=x": true, "PGPASSWORD=x": true,
		"DATABASE_URL=postgres://u:p@h/d": true, "X=" + canary: true, "SENTRY_DSN=x": true, "dbPassword=x": true,
		"PORT=3000": false, "BASE_URL=https://api.example.com/": false, "NODE_ENV=production": false, "KEYBOARD=de": false,
		"URL=https://h/a:b@c": false, "PUBLIC_KEY=x": false, "NEXT_PUBLIC_KEY=x": false, "MONKEY=x": false} {
		name, value, _ := strings.Cut(pair, "=")
		if got := LooksLikeCredential(name, NewSecret([]byte(value))); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
