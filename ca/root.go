package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// A Root signs the intermediates of sessions. It holds its key as long as it
// lives: a session that has none of its own makes one and lets go of it.
type Root struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// A RootError says why a certificate and its key cannot be a root.
type RootError struct{ Problem string }

func (e *RootError) Error() string { return "load authority: " + e.Problem }

// NewRoot makes a root for cfg.Hosts, which ends at cfg.NotAfter.
func NewRoot(cfg Config) (*Root, error) {
	cfg, hosts, err := cfg.check()
	if err != nil {
		return nil, err
	}
	return newRoot(cfg, hosts)
}

func newRoot(cfg Config, hosts *hostSet) (*Root, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := signerTemplate("root", cfg)
	template.MaxPathLen = 1
	hosts.constrain(template)
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Root{cert: cert, key: key}, nil
}

// ParseRoot reads a root and its key from PEM. Errors are *RootError and hold
// nothing of the key.
func ParseRoot(certPEM, keyPEM []byte, now time.Time) (*Root, error) {
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, &RootError{Problem: err.Error()}
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, &RootError{Problem: err.Error()}
	}
	if problem := checkRoot(cert, key, now); problem != "" {
		return nil, &RootError{Problem: problem}
	}
	return &Root{cert: cert, key: key}, nil
}

// Certificate returns the root itself.
func (r *Root) Certificate() *x509.Certificate { return r.cert }

// CertificatePEM returns the root itself in PEM.
func (r *Root) CertificatePEM() []byte { return encodeCertificate(r.cert) }

// KeyPEM returns the private key, for the vault.
func (r *Root) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return nil, fmt.Errorf("encode authority key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// checkRoot says what is wrong with a root, or nothing.
func checkRoot(cert *x509.Certificate, key crypto.Signer, now time.Time) string {
	switch {
	case now.Before(cert.NotBefore):
		return "certificate is not valid before " + cert.NotBefore.UTC().Format(time.RFC3339)
	case now.After(cert.NotAfter):
		return "certificate expired at " + cert.NotAfter.UTC().Format(time.RFC3339)
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return "certificate is not one of an authority (CA:false)"
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return "certificate may not sign others (key usage lacks certSign)"
	case cert.MaxPathLen == 0 && cert.MaxPathLenZero:
		return "certificate allows no intermediate (pathlen 0)"
	case !cert.PermittedDNSDomainsCritical || len(cert.PermittedDNSDomains) == 0:
		return "certificate is not bound to names by critical constraints"
	case len(cert.SubjectKeyId) == 0:
		return "certificate has no subject key identifier"
	}
	switch public := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() && public.Curve != elliptic.P384() && public.Curve != elliptic.P521() {
			return "key is weak: want P-256 or better"
		}
		if !public.Equal(key.Public()) {
			return "key does not belong to the certificate"
		}
	case *rsa.PublicKey:
		if public.N.BitLen() < 2048 {
			return "key is weak: want 2048 bits or more"
		}
		if !public.Equal(key.Public()) {
			return "key does not belong to the certificate"
		}
	default:
		return "key is of a kind that not every client knows: want P-256"
	}
	return ""
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("certificate is not PEM")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("more than one certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New("certificate is malformed")
	}
	return cert, nil
}

// parseKey gives fixed errors only: a parser's could quote the key.
func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("key is not PEM")
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, errors.New("key is encrypted, and there is no passphrase for it")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, errors.New("key is not a private key")
	}
	signer, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("key is malformed or of an unknown kind")
	}
	return signer, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
