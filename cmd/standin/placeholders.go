package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"standin/grant"
	"standin/rules"
	"standin/vault"
)

// placeholdersFor gives each secret of the policy its placeholder: the one that
// the rules file spells out, else the one that this home made at first use.
// They stay the same, since agents ask again when a key looks new.
func placeholdersFor(ctx context.Context, h home, policy *rules.Policy) (map[string]string, error) {
	found := map[string]string{}
	err := vault.WithLock(ctx, h.Placeholders(), func() error {
		kept := map[string]string{}
		data, err := vault.ReadPrivate(h.Placeholders())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && json.Unmarshal(data, &kept) != nil {
			return fmt.Errorf("read placeholders %q: not a map of names to placeholders", h.Placeholders())
		}
		made := false
		for name, secret := range policy.Secrets {
			if secret.Placeholder != "" {
				found[name] = secret.Placeholder
				continue
			}
			key := name + " " + secret.Shape
			if shape, ok := grant.Shape(kept[key]); !ok || shape != secret.Shape {
				kept[key], made = grant.NewPlaceholder(secret.Shape), true
			}
			found[name] = kept[key]
		}
		if !made {
			return nil
		}
		if data, err = json.MarshalIndent(kept, "", "  "); err != nil {
			return err
		}
		return vault.ReplaceFile(h.Placeholders(), append(data, '\n'))
	})
	return found, err
}
