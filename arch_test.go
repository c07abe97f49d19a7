package standin

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// imports says which packages of this module a package may import. A package
// that is not named may import none; cmd/standin may import all.
var imports = map[string][]string{
	"audit":                 {"audit/segment"},
	"audit/segment":         {},
	"ca":                    {},
	"control":               {},
	"launch":                {},
	"launch/netns":          {"launch"},
	"launch/netns/names":    {},
	"launch/peer":           {},
	"rules":                 {},
	"rules/catalog":         {},
	"vault":                 {},
	"grant":                 {"grant/body", "grant/coding", "grant/scrub", "rules", "vault"},
	"grant/answer":          {"grant/coding", "grant/scrub"},
	"grant/scrub":           {"grant/body"},
	"grant/body":            {},
	"grant/coding":          {},
	"proxy":                 {"audit", "grant", "grant/answer", "grant/coding", "grant/scrub", "rules", "proxy/dial", "proxy/websocket"},
	"proxy/dial":            {"grant", "rules"},
	"proxy/websocket":       {},
	"bench":                 {},
	"cmd/standin/cases":     {},
	"examples/verify-audit": {},
}

// reveals are the files that may call Secret.Reveal: where a value is put on
// the wire, compared with what comes back, delivered, or kept.
var reveals = []string{
	"grant/plan.go",               // puts it into a request
	"grant/session.go",            // its keyed fingerprint, and what scrubbing looks for
	"vault/resolver.go",           // has it changed
	"vault/secret.go",             // its own length
	"vault/source.go",             // a key of a file's content
	"vault/store.go",              // encrypted, to disk
	"vault/strength.go",           // is it fit to be kept
	"cmd/standin/deliver.go",      // what the rules hand to the command
	"cmd/standin/demo.go",         // the recovery key of the demo
	"cmd/standin/envfile.go",      // variables that the user's own file sets
	"cmd/standin/vault_init.go",   // the recovery key, shown once
	"cmd/standin/vault_unlock.go", // the identity, for the kernel's keyring
}

// modules are all that the program and its tests may be built from, each with its
// line in DECISIONS.md.
var modules = []string{
	"filippo.io/age", "github.com/andybalholm/brotli", "github.com/creack/pty", "github.com/elazarl/goproxy",
	"github.com/coder/websocket", "github.com/hashicorp/golang-lru/v2", "github.com/klauspost/compress", "github.com/rogpeppe/go-internal",
	"github.com/smallstep/truststore", "github.com/spf13/cobra", "github.com/zalando/go-keyring", "go.uber.org/goleak",
	"google.golang.org/grpc", "google.golang.org/protobuf", "golang.org/x/crypto", "golang.org/x/net", "golang.org/x/sys", "golang.org/x/term", "gopkg.in/yaml.v3",
	"software.sslmate.com/src/go-pkcs12",
}

// testModules are those of them that no program may be built from.
var testModules = []string{"github.com/coder/websocket", "google.golang.org/grpc", "google.golang.org/protobuf"}

// Budgets are smoke alarms: raising one is a commit of its own, with the reason.
const (
	fileLines     = 400
	testFileLines = 600
	functionLines = 80
	parameters    = 5
	packageFiles  = 12
)

// source is one parsed Go file.
type source struct {
	path, dir string
	lines     int
	file      *ast.File
	fset      *token.FileSet
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || path != "." && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(path), filepath.ToSlash(filepath.Dir(path)), strings.Count(string(text), "\n"), file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("found only %d Go files: this test looks in the wrong place", len(all))
	}
	return all
}

func TestPackagesImportOnlyWhatTheirPlaceAllows(t *testing.T) {
	for _, s := range sources(t) {
		if s.dir == "." || s.dir == "cmd/standin" {
			continue
		}
		allowed, named := imports[s.dir]
		if !named && !strings.HasPrefix(s.dir, "bench/") {
			t.Errorf("%s: package %s is not in the import policy", s.path, s.dir)
		}
		for _, spec := range s.file.Imports {
			name, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), "standin/")
			if !ours || slices.Contains(allowed, name) || strings.HasPrefix(s.dir, "bench") && strings.HasPrefix(name, "bench/") {
				continue
			}
			if s.test() && (name == s.dir || name == "rules" && s.dir == "rules/catalog") {
				continue
			}
			t.Errorf("%s: package %s must not import %s", s.path, s.dir, name)
		}
	}
}

func TestOnlyListedFilesRevealSecrets(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Reveal" {
				used[s.path] = true
				if !slices.Contains(reveals, s.path) {
					t.Errorf("%s reveals a secret and is not on the list", s.fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
	for _, path := range reveals {
		if !used[path] {
			t.Errorf("%s is on the list of files that reveal secrets, and does not", path)
		}
	}
}

func TestFilesAndFunctionsKeepTheirBudgets(t *testing.T) {
	files := map[string]int{}
	for _, s := range sources(t) {
		limit := fileLines
		if s.test() {
			limit = testFileLines
		} else {
			files[s.dir]++
		}
		if s.lines > limit {
			t.Errorf("%s has %d lines, over %d", s.path, s.lines, limit)
		}
		for _, decl := range s.file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || s.test() {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > functionLines {
				t.Errorf("%s: %s has %d lines, over %d", s.fset.Position(f.Pos()), f.Name.Name, n, functionLines)
			}
			if n := f.Type.Params.NumFields(); n > parameters {
				t.Errorf("%s: %s has %d parameters, over %d", s.fset.Position(f.Pos()), f.Name.Name, n, parameters)
			}
			if f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s: no init: start-up is explicit", s.fset.Position(f.Pos()))
			}
		}
	}
	for dir, n := range files {
		if n > packageFiles && dir != "cmd/standin" {
			t.Errorf("package %s has %d files, over %d", dir, n, packageFiles)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test() && !strings.Contains(s.dir, "testdata") {
			documented[s.dir] = documented[s.dir] || s.file.Doc != nil && len(s.file.Doc.Text()) > 80
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no comment that says what it does, and what it does not", dir)
		}
	}
}

func TestOnlyAllowedModulesAreUsed(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := os.ReadFile("DECISIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, version, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "require ")), " ")
		if !ok || !strings.HasPrefix(version, "v") || strings.Contains(version, "// indirect") {
			continue
		}
		if !slices.Contains(modules, name) {
			t.Errorf("module %s is not allowed", name)
		}
		if !strings.Contains(string(decisions), name) {
			t.Errorf("module %s has no line in DECISIONS.md", name)
		}
	}
}

func TestOnlyTestsUseTheModulesOfTests(t *testing.T) {
	for _, s := range sources(t) {
		for _, spec := range s.file.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if !s.test() && slices.ContainsFunc(testModules, func(m string) bool { return strings.HasPrefix(path, m) }) {
				t.Errorf("%s imports %s, which is for tests", s.path, path)
			}
		}
	}
}

func TestNothingIsLeftOpenInTheCode(t *testing.T) {
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"} {
				if strings.Contains(group.Text(), word) {
					t.Errorf("%s says %s", s.fset.Position(group.Pos()), word)
				}
			}
		}
	}
}
