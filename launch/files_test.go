package launch

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// newCA makes an authority for tests, and a server certificate under it.
func newCA(t testing.TB, name string, hosts ...string) (rootPEM []byte, server tls.Certificate) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = template, key
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, key := make(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	leaf, leafKey := make(template, root, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}),
		tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: leafKey}
}

func writeFiles(t testing.TB, cfg FilesConfig) *Files {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "files", "s-1")
	}
	if cfg.RootPEM == nil {
		cfg.RootPEM, _ = newCA(t, "test")
	}
	if cfg.ProxyURL == "" {
		cfg.ProxyURL = "http://127.0.0.1:43210"
	}
	files, err := WriteFiles(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFilesAreReadableInADirectoryThatIsNot(t *testing.T) {
	t.Parallel()
	files := writeFiles(t, FilesConfig{})
	seen := 0
	err := filepath.WalkDir(files.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		if entry.IsDir() {
			want = fs.ModeDir | 0o700
		} else {
			seen++
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		return nil
	})
	if err != nil || seen != 7 {
		t.Fatalf("%d files, want 7 (%v)", seen, err)
	}
	if _, err := WriteFiles(FilesConfig{Dir: files.Dir, RootPEM: []byte(readFile(t, files.Path(caFile))), ProxyURL: "http://127.0.0.1:1"}); err == nil {
		t.Error("files of another session were overwritten")
	}
	elsewhere := t.TempDir()
	link := filepath.Join(t.TempDir(), "s-2")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteFiles(FilesConfig{Dir: link, RootPEM: []byte(readFile(t, files.Path(caFile))), ProxyURL: "http://127.0.0.1:1"}); err == nil {
		t.Error("a planted link was followed")
	}
}

func TestBundleHoldsTheUsersOrTheSystemsRootsAndTheAuthority(t *testing.T) {
	t.Parallel()
	root, _ := newCA(t, "session")
	corp, _ := newCA(t, "corp")
	extra, _ := newCA(t, "extra")
	dir := t.TempDir()
	corpFile, extraFile := filepath.Join(dir, "corp.pem"), filepath.Join(dir, "extra.pem")
	const key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
	for path, data := range map[string]string{corpFile: "# comment\n" + key + string(corp), extraFile: string(extra)} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := writeFiles(t, FilesConfig{RootPEM: root, Environ: []string{"SSL_CERT_FILE=" + corpFile, "NODE_EXTRA_CA_CERTS=" + extraFile, "REQUESTS_CA_BUNDLE=/nonexistent"}})
	if got, want := readFile(t, files.Path(bundleFile)), string(corp)+string(root); got != want {
		t.Errorf("bundle is\n%s\nwant\n%s", got, want)
	}
	if got, want := readFile(t, files.Path(caFile)), string(root)+string(extra); got != want {
		t.Errorf("ca.pem is\n%s\nwant\n%s", got, want)
	}
	system := writeFiles(t, FilesConfig{RootPEM: root})
	bundle := readFile(t, system.Path(bundleFile))
	if !strings.HasSuffix(bundle, string(root)) {
		t.Error("the authority is not in the bundle")
	}
	for _, path := range systemBundles {
		if ders := readCertificates(path); len(ders) > 0 {
			if got := strings.Count(bundle, "BEGIN CERTIFICATE"); got != len(ders)+1 {
				t.Errorf("%d certificates, want the system's %d and one", got, len(ders))
			}
			break
		}
	}
}

func TestTrustStoreHoldsTheWholeBundle(t *testing.T) {
	t.Parallel()
	files := writeFiles(t, FilesConfig{})
	store, err := pkcs12.DecodeTrustStore([]byte(readFile(t, files.Path(truststoreFile))), "")
	if err != nil {
		t.Fatal(err)
	}
	bundle := certificates([]byte(readFile(t, files.Path(bundleFile))))
	if len(store) == 0 || len(store) != len(bundle) {
		t.Fatalf("%d certificates, the bundle has %d", len(store), len(bundle))
	}
	for i := range store {
		if !bytes.Equal(store[i].Raw, bundle[i]) {
			t.Fatalf("certificate %d differs", i)
		}
	}
}

func TestJavaReadsTheTrustStore(t *testing.T) {
	t.Parallel()
	keytool := need(t, "keytool")
	files := writeFiles(t, FilesConfig{})
	out, err := exec.Command(keytool, "-J-Xshare:auto", "-list", "-storetype", "PKCS12", "-keystore", files.Path(truststoreFile), "-storepass", "").CombinedOutput()
	want := strings.Count(readFile(t, files.Path(bundleFile)), "BEGIN CERTIFICATE")
	if got := strings.Count(string(out), "trustedCertEntry"); got != want {
		t.Fatalf("Java sees %d certificates, want %d (%v): %.500s", got, want, err, out)
	}
}

func TestJavaTakesItsSettingsFromAPathWithSpaces(t *testing.T) {
	t.Parallel()
	java := need(t, "java")
	files := writeFiles(t, FilesConfig{Dir: filepath.Join(t.TempDir(), "with 'a space")})
	cmd := exec.Command(java, "-XshowSettings:properties", "-version")
	cmd.Env, _ = Environ(EnvConfig{Environ: []string{"PATH=" + os.Getenv("PATH"), "JAVA_TOOL_OPTIONS=-Dtheirs=1"}, Files: files, ProxyURL: "http://sid:tok3n@127.0.0.1:43210"})
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"theirs = 1", "https.proxyHost = 127.0.0.1", "https.proxyPort = 43210",
		"javax.net.ssl.trustStore = " + files.Path(truststoreFile), "http.nonProxyHosts = localhost|127.*|[::1]",
	} {
		if !strings.Contains(string(out), want+"\n") {
			t.Errorf("Java has no %q: %s", want, out)
		}
	}
	if strings.Contains(string(out), "tok3n") {
		t.Error("Java prints the session's credential")
	}
}

func TestPruneRemovesOldSessionsOnly(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	old := writeFiles(t, FilesConfig{Dir: filepath.Join(parent, "old")})
	young := writeFiles(t, FilesConfig{Dir: filepath.Join(parent, "young")})
	used := writeFiles(t, FilesConfig{Dir: filepath.Join(parent, "used")})
	foreign, target := filepath.Join(parent, "foreign"), t.TempDir()
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, preloadFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(parent, "link")); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-48 * time.Hour)
	for _, dir := range []string{old.Dir, used.Dir, foreign, target} {
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := used.Touch(23 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := Prune(parent, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old.Dir); err == nil {
		t.Error("an old session's files are still there")
	}
	for _, path := range []string{young.Path(caFile), used.Path(caFile), foreign, filepath.Join(target, preloadFile)} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s is gone", path)
		}
	}
	if err := used.Touch(25 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Prune(parent, 24*time.Hour), young.Remove()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{used.Dir, young.Dir} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
	if err := Prune(filepath.Join(parent, "nowhere"), time.Hour); err != nil {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestWgetConfigurationKeepsTheUsersOwnButNoPasswordAndNoProxy(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	own := "tries = 3\nhttps_proxy = http://corp:1\nuse-proxy = off\nhttp_password = real\nheader = Authorization: real\nheader = Accept: x\nca_certificate=/x"
	if err := os.WriteFile(filepath.Join(home, ".wgetrc"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	files := writeFiles(t, FilesConfig{Environ: []string{"HOME=" + home}})
	want := "tries = 3\nheader = Accept: x\nca_certificate = " + files.Path(bundleFile) + "\n"
	if got := readFile(t, files.Path(wgetrcFile)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if wget, err := exec.LookPath("wget"); err == nil {
		cmd := exec.Command(wget, "--version")
		cmd.Env = []string{"WGETRC=" + files.Path(wgetrcFile)}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("wget cannot read it: %s", out)
		}
	}
}

func TestFilesRefuseWhatTheyCannotWrite(t *testing.T) {
	t.Parallel()
	root, _ := newCA(t, "test")
	for name, cfg := range map[string]FilesConfig{
		"no authority":  {ProxyURL: "http://127.0.0.1:1"},
		"no proxy":      {RootPEM: root},
		"bad proxy":     {RootPEM: root, ProxyURL: "http://u:s3cret@[::1"},
		"line in token": {RootPEM: root, ProxyURL: "http://127.0.0.1:1", GitHosts: []GitCredential{{Host: "h", Placeholder: "a\nb"}}},
		"no token":      {RootPEM: root, ProxyURL: "http://127.0.0.1:1", GitHosts: []GitCredential{{Host: "h"}}},
	} {
		cfg.Dir = filepath.Join(t.TempDir(), "s")
		_, err := WriteFiles(cfg)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(cfg.Dir); err == nil {
			t.Errorf("%s: a directory was left behind", name)
		}
	}
}

func BenchmarkWriteFiles(b *testing.B) {
	root, _ := newCA(b, "test")
	parent := b.TempDir()
	for b.Loop() {
		writeFiles(b, FilesConfig{Dir: filepath.Join(parent, time.Now().Format("150405.000000000")), RootPEM: root})
	}
}
