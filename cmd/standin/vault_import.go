package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"standin/vault"
)

// maxDotenv bounds dotenv files, in bytes.
const maxDotenv = 1 << 20

type vaultImport struct {
	file           string
	all, dry, json bool
}

// importedPair is one assignment of the file and what becomes of it.
type importedPair struct {
	Variable string `json:"variable"`
	Line     int    `json:"line"`
	Secret   string `json:"secret,omitempty"` // "": left in the file
	Why      string `json:"why,omitempty"`
	value    vault.Secret
}

func newVaultImport(p *program) *cobra.Command {
	var o vaultImport
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take the secrets of a dotenv file into the vault",
		Long: `Take the secrets of a dotenv file into the vault: what by its name or form is a
credential. Settings are left alone. The file is not changed; what to delete from
it, and what to write into the rules file, is printed.`,
		Args: exactly("FILE"),
		RunE: p.onVault(func(_ *cobra.Command, args []string, store *vault.Store) error {
			o.file = args[0]
			return o.run(p, store)
		}),
	}
	passphraseFlag(cmd)
	cmd.Flags().BoolVar(&o.all, "all", false, "take every value, settings too")
	cmd.Flags().BoolVar(&o.dry, "dry-run", false, "say what would be done, and do nothing")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (o *vaultImport) run(p *program, store *vault.Store) error {
	pairs, err := readDotenv(o.file)
	if err != nil {
		return err
	}
	plan := o.plan(pairs)
	var add []vault.Named
	for i, item := range plan {
		if item.Secret == "" {
			continue
		}
		old, _, err := store.Secret(item.Secret)
		var unknown *vault.NotFoundError
		switch {
		case errors.As(err, &unknown):
			add = append(add, vault.Named{Name: item.Secret, Value: item.value})
		case err != nil:
			return err
		case old.Equal(item.value):
			plan[i].Why = "it was there already"
		default:
			return &hinted{fmt.Errorf("import %q: line %d: the vault has another value as %q; nothing was imported", o.file, item.Line, item.Secret),
				"standin vault rotate " + item.Secret + ", then take the line out of the file and import the rest"}
		}
	}
	if !o.dry && len(add) > 0 {
		if err := store.SetAll(add); err != nil {
			return err
		}
	}
	return o.tell(p, plan)
}

func readDotenv(path string) ([]vault.Pair, error) {
	data, err := readLimited(path, maxDotenv)
	defer clear(data)
	if err != nil {
		return nil, fmt.Errorf("import %q: %w", path, errors.Unwrap(err))
	}
	pairs, err := vault.ParseDotenv(data)
	if err != nil {
		return nil, fmt.Errorf("import %q: %w", path, err)
	}
	return pairs, nil
}

// plan says for each assignment whether it is taken, under which name, or why not.
func (o *vaultImport) plan(pairs []vault.Pair) []importedPair {
	last := make(map[string]int)
	for _, pair := range pairs {
		last[pair.Name] = pair.Line
	}
	taken := make(map[string]bool)
	plan := make([]importedPair, 0, len(pairs))
	for _, pair := range pairs {
		item := importedPair{Variable: pair.Name, Line: pair.Line, value: pair.Value}
		var weak *vault.WeakError
		switch {
		case last[pair.Name] != pair.Line:
			item.Why = "line " + strconv.Itoa(last[pair.Name]) + " replaces it"
		case pair.Value.IsZero():
			item.Why = "it is empty"
		case !o.all && !vault.LooksLikeCredential(pair.Name, pair.Value):
			item.Why = "it looks like a setting"
		case errors.As(pair.Value.Check(), &weak):
			item.Why = weak.Reason
		default:
			item.Secret = suggestName(pair.Name)
			for n := 2; taken[item.Secret]; n++ {
				item.Secret = suggestName(pair.Name) + "-" + strconv.Itoa(n)
			}
			taken[item.Secret] = true
		}
		plan = append(plan, item)
	}
	return plan
}

// suggestName makes openai/api-key of OPENAI_API_KEY.
func suggestName(variable string) string {
	parts := strings.FieldsFunc(strings.ToLower(variable), func(r rune) bool { return r == '_' || r == '.' || r == '-' })
	switch len(parts) {
	case 0:
		return "secret"
	case 1:
		return parts[0]
	}
	name := parts[0] + "/" + strings.Join(parts[1:], "-")
	return name[:min(len(name), 120)]
}

// importReport is what "vault import --json" prints.
type importReport struct {
	File     string         `json:"file"`
	DryRun   bool           `json:"dry_run"`
	Imported []importedPair `json:"imported"`
	Left     []importedPair `json:"left"`
	Delete   []int          `json:"delete_lines"`
}

func (o *vaultImport) tell(p *program, plan []importedPair) error {
	report := importReport{File: o.file, DryRun: o.dry, Imported: []importedPair{}, Left: []importedPair{}, Delete: []int{}}
	names := make(map[string]bool)
	for _, item := range plan {
		if item.Secret != "" {
			report.Imported = append(report.Imported, item)
			names[item.Variable] = true
		} else {
			report.Left = append(report.Left, item)
		}
	}
	for _, item := range plan { // earlier values of a variable that was taken are secrets, too
		if names[item.Variable] && !o.dry {
			report.Delete = append(report.Delete, item.Line)
		}
	}
	if o.json {
		return printJSON(p.out, report)
	}
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	verb := "imported"
	if o.dry {
		verb = "would import"
	}
	for _, item := range report.Imported {
		fmt.Fprintf(table, "%s\t%s\tline %d\tas %s%s\n", verb, item.Variable, item.Line, item.Secret, after(item.Why))
	}
	for _, item := range report.Left {
		fmt.Fprintf(table, "left\t%s\tline %d\t%s\n", item.Variable, item.Line, item.Why)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return report.advise(p.out)
}

func after(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// advise says what is still to be done.
func (r *importReport) advise(w io.Writer) error {
	if len(r.Imported) == 0 {
		_, err := fmt.Fprintln(w, "nothing to import; --all takes every value")
		return err
	}
	file := harmless(r.File)
	if r.DryRun {
		fmt.Fprintf(w, "\nNothing was imported: leave %s as it is.\n", file)
		return r.adviseRules(w)
	}
	if len(r.Delete) == len(r.Imported)+len(r.Left) {
		fmt.Fprintf(w, "\nNow delete the file, and its copies in editors and backups:\n\n  rm %s\n", file)
	} else {
		fmt.Fprintf(w, "\nNow delete from %s, and from its copies in editors and backups:\n\n", file)
		for _, line := range r.Delete {
			fmt.Fprintf(w, "  line %d\n", line)
		}
	}
	fmt.Fprintf(w, "\nIf it was ever committed or sent, have the credentials reissued and use \"standin vault rotate\".\n")
	return r.adviseRules(w)
}

// adviseRules says what the rules file is to have.
func (r *importReport) adviseRules(w io.Writer) error {
	fmt.Fprintf(w, "For the rules file:\n\nsecrets:\n")
	keys := make(map[string]bool)
	for _, item := range r.Imported {
		key, _, _ := strings.Cut(item.Secret, "/")
		if keys[key] {
			key = strings.ReplaceAll(item.Secret, "/", "-")
		}
		keys[key] = true
		if _, err := fmt.Fprintf(w, "  %s: {source: \"vault:%s\", env: [%s]}\n", key, item.Secret, item.Variable); err != nil {
			return err
		}
	}
	return nil
}
