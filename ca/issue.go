package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

const (
	// skew is how far a client's clock may be behind ours.
	skew = time.Hour
	// leafLife is the longest that a leaf is valid. Java and Apple's clients
	// refuse years; a gateway that serves for longer issues anew.
	leafLife = 7 * 24 * time.Hour
)

// signerTemplate is what root and intermediate have in common.
func signerTemplate(kind string, cfg Config) *x509.Certificate {
	now := cfg.Now()
	return &x509.Certificate{
		Subject: pkix.Name{
			Organization: []string{"Standin"},
			CommonName:   "Standin " + kind + " " + cfg.Name,
		},
		NotBefore:             now.Add(-skew),
		NotAfter:              cfg.NotAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

// newIntermediate makes the certificate that signs the leaves. Java honours
// name constraints here and not on a trust anchor, so both carry them; the
// purpose keeps a stolen key from signing code or mail.
func newIntermediate(cfg Config, hosts *hostSet, root *Root, public crypto.PublicKey) (*x509.Certificate, error) {
	template := signerTemplate("intermediate", cfg)
	template.MaxPathLenZero = true
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if template.NotAfter.After(root.cert.NotAfter) {
		template.NotAfter = root.cert.NotAfter
	}
	if template.NotBefore.Before(root.cert.NotBefore) {
		template.NotBefore = root.cert.NotBefore
	}
	hosts.constrain(template)
	return sign(template, root.cert, public, root.key)
}

// leafTemplate has no subject: a name stands in the SAN, which is critical
// then, and a client that still reads common names finds none.
func (a *Authority) leafTemplate(now time.Time, hosts ...string) *x509.Certificate {
	template := &x509.Certificate{
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          a.leafKeyID,
	}
	if template.NotBefore.Before(a.intermediate.NotBefore) {
		template.NotBefore = a.intermediate.NotBefore
	}
	if template.NotAfter.After(a.intermediate.NotAfter) {
		template.NotAfter = a.intermediate.NotAfter
	}
	for _, host := range hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return template
}

// sign returns the parsed certificate: only a parsed parent has the key
// identifier that its children must name, or strict clients refuse them.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	if len(template.SubjectKeyId) == 0 {
		if template.SubjectKeyId, err = keyID(public); err != nil {
			return nil, err
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return cert, nil
}

// newSerial returns a random positive number of 128 bits.
func newSerial() (*big.Int, error) {
	var b [16]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("make serial number: %w", err)
		}
		if serial := new(big.Int).SetBytes(b[:]); serial.Sign() > 0 {
			return serial, nil
		}
	}
}

// keyID is RFC 7093's first method: 160 bits of SHA-256 over the key.
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}
