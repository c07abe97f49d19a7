package launch

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"
)

// userBundles are the variables by which users name a file of roots.
var userBundles = []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NIX_SSL_CERT_FILE"}

// systemBundles are where systems keep their roots in one file. Windows has no
// such file: there the bundle holds the session's authority only, and tools
// that replace their roots by it trust intercepted hosts only.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS
	"/etc/ssl/cert.pem",                                 // macOS, BSD
	"/usr/local/etc/ssl/cert.pem",                       // FreeBSD
}

// javaStores are where Java looks without being told; * stands for one name.
var javaStores = []string{
	"/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts",
	"/usr/lib/jvm/*/lib/security/cacerts", "/usr/lib/jvm/*/jre/lib/security/cacerts", "/opt/*/lib/security/cacerts",
	"~/.sdkman/candidates/java/*/lib/security/cacerts", "~/.jdks/*/lib/security/cacerts", "$JAVA_HOME/lib/security/cacerts",
}

// SystemStores are the files of this system in which programs look that read no
// variable: roots in PEM, and those of Java. Links are followed.
func SystemStores(environ []string) (bundles, javas []string) {
	env := parseEnviron(environ)
	for _, pattern := range javaStores {
		if strings.HasPrefix(pattern, "~") && env["HOME"] == "" || strings.HasPrefix(pattern, "$") && env["JAVA_HOME"] == "" {
			continue
		}
		pattern = strings.NewReplacer("~", env["HOME"], "$JAVA_HOME", env["JAVA_HOME"]).Replace(pattern)
		found, _ := filepath.Glob(pattern) // a home with a bracket in its name finds nothing
		javas = append(javas, found...)
	}
	return resolved(systemBundles), resolved(javas)
}

// resolved follows links, and leaves out what is no file.
func resolved(paths []string) (found []string) {
	for _, path := range paths {
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		if info, err := os.Stat(target); err == nil && info.Mode().IsRegular() && !slices.Contains(found, target) {
			found = append(found, target)
		}
	}
	return found
}

// roots are the two files of PEM, and the certificates of the larger one.
type roots struct {
	node   []byte
	bundle []byte
	ders   [][]byte
}

// readRoots joins what is trusted already with the session's authority. Only
// certificates are taken over: a user's file may hold a private key, too.
func readRoots(rootPEM []byte, env environ) (*roots, error) {
	own := certificates(rootPEM)
	if len(own) == 0 {
		return nil, errors.New("authority is not PEM")
	}
	files := certificateFiles{}
	var ders [][]byte
	for _, name := range userBundles {
		ders = append(ders, files.read(env[name])...)
	}
	for _, path := range systemBundles {
		if len(ders) > 0 {
			break
		}
		ders = append(ders, files.read(path)...)
	}
	ders = unique(ders, own)
	return &roots{
		node:   encode(unique(own, files.read(env["NODE_EXTRA_CA_CERTS"]))),
		bundle: encode(ders),
		ders:   ders,
	}, nil
}

// certificateFiles are the certificates of files, by path: users name one file in
// several variables.
type certificateFiles map[string][][]byte

// read returns what is in a file. A file that cannot be read is as good as none:
// so do the tools take it that read these variables and merge.
func (f certificateFiles) read(path string) [][]byte {
	ders, known := f[path]
	if !known {
		ders = readCertificates(path)
		f[path] = ders
	}
	return ders
}

func readCertificates(path string) [][]byte {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 16<<20 {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return certificates(data)
}

func certificates(data []byte) (ders [][]byte) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return ders
		}
		if block.Type == "CERTIFICATE" {
			ders = append(ders, block.Bytes)
		}
	}
}

// unique joins lists, and keeps the first of what is the same.
func unique(lists ...[][]byte) (kept [][]byte) {
	seen := map[[sha256.Size]byte]bool{}
	for _, ders := range lists {
		for _, der := range ders {
			if sum := sha256.Sum256(der); !seen[sum] {
				seen[sum] = true
				kept = append(kept, der)
			}
		}
	}
	return kept
}

func encode(ders [][]byte) []byte {
	size := 0
	for _, der := range ders {
		size += len(der)*3/2 + 64 // a little more than it takes
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	for _, der := range ders {
		_ = pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a buffer takes all
	}
	return out.Bytes()
}

// truststore makes a store without a password: Java reads it with or without
// one being set. Names differ, or Java would keep one of two alike.
func (r *roots) truststore() ([]byte, error) {
	entries := make([]pkcs12.TrustStoreEntry, 0, len(r.ders))
	for _, der := range r.ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // Go is stricter than those who made some old root
		}
		sum := sha256.Sum256(der)
		name := cert.Subject.CommonName + " " + hex.EncodeToString(sum[:8])
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: cert, FriendlyName: name})
	}
	data, err := pkcs12.Passwordless.EncodeTrustStoreEntries(entries, "")
	if err != nil {
		return nil, fmt.Errorf("encode trust store: %w", err)
	}
	return data, nil
}
