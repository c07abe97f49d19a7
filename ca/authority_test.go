package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func newAuthority(t testing.TB, hosts ...string) *Authority {
	t.Helper()
	a, err := New(Config{Hosts: hosts, NotAfter: time.Now().Add(time.Hour), Name: "s-test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func leaf(t testing.TB, a *Authority, host string) *tls.Certificate {
	t.Helper()
	cert, err := a.Leaf(context.Background(), host)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// verify checks a chain as Go's clients do.
func verify(a *Authority, cert *tls.Certificate, host string) error {
	options := x509.VerifyOptions{DNSName: host, Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	options.Roots.AddCert(a.Root())
	for _, der := range cert.Certificate[1:] {
		intermediate, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		options.Intermediates.AddCert(intermediate)
	}
	_, err := cert.Leaf.Verify(options)
	return err
}

func TestLeafIsIssuedForPermittedHostsOnly(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "api.allowed.test", "*.wild.test", "192.0.2.7", "2001:db8::7")
	for _, host := range []string{"api.allowed.test", "a.wild.test", "a_b.wild.test", "192.0.2.7", "2001:db8::7"} {
		cert := leaf(t, a, host)
		if err := verify(a, cert, host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	refused := []string{
		"", "evil.test", "x.api.allowed.test", "allowed.test", "wild.test", "a.b.wild.test", ".wild.test", "*.wild.test",
		"A.wild.test", "a\x00.wild.test", "-a.wild.test", "api.allowed.test.", "api.allowed.test:443",
		"192.0.2.8", "192.0.2.07", "::ffff:192.0.2.7", "2001:db8::8", "2001:DB8::7", "none.invalid",
	}
	for _, host := range refused {
		_, err := a.Leaf(context.Background(), host)
		var denied *NotPermittedError
		if !errors.As(err, &denied) || denied.Host != host {
			t.Errorf("%q: got %v, want it not permitted", host, err)
		}
	}
}

func TestHostsThatAreNotCanonicalAreRefused(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"", ".", "*", "*.", "*.*.a.test", "A.test", "a.test.", ".a.test", "a..test", "a.test:443", "ä.test", "a b.test",
		"010.0.0.1x/", "[::1]", "::FFFF", "::ffff:10.0.0.1", "fe80::1%eth0", strings.Repeat("a", 64) + ".test",
	} {
		if _, err := New(Config{Hosts: []string{host}, NotAfter: time.Now().Add(time.Hour)}); err == nil {
			t.Errorf("%q: permitted", host)
		}
	}
}

func TestNamesAndTimesAreBounded(t *testing.T) {
	t.Parallel()
	hour := time.Now().Add(time.Hour)
	for name, cfg := range map[string]Config{
		"no end":         {},
		"end in past":    {NotAfter: time.Now().Add(-time.Second)},
		"long name":      {NotAfter: hour, Name: strings.Repeat("x", 33)},
		"control name":   {NotAfter: hour, Name: "a\nb"},
		"negative cache": {NotAfter: hour, LeafCache: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCertificatesHaveTheShapeThatClientsWant(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	a, err := New(Config{
		Hosts: []string{"api.allowed.test"}, NotAfter: now.Add(30 * 24 * time.Hour), Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, a, "api.allowed.test")
	if len(cert.Certificate) != 2 {
		t.Fatalf("chain of %d, want leaf and intermediate", len(cert.Certificate))
	}
	intermediate, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	root, l := a.Root(), cert.Leaf
	if root.MaxPathLen != 1 || intermediate.MaxPathLen != 0 || !intermediate.MaxPathLenZero {
		t.Errorf("path lengths %d and %d, want 1 and 0", root.MaxPathLen, intermediate.MaxPathLen)
	}
	if root.Subject.String() == intermediate.Subject.String() || root.Subject.CommonName == "" {
		t.Errorf("subjects %q and %q", root.Subject, intermediate.Subject)
	}
	if string(l.AuthorityKeyId) != string(intermediate.SubjectKeyId) || string(intermediate.AuthorityKeyId) != string(root.SubjectKeyId) ||
		len(root.SubjectKeyId) == 0 || len(intermediate.SubjectKeyId) == 0 || len(l.SubjectKeyId) == 0 {
		t.Error("key identifiers do not chain")
	}
	for _, c := range []*x509.Certificate{root, intermediate, l} {
		if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 128 || c.SerialNumber.BitLen() < 64 {
			t.Errorf("%q: serial of %d bits", c.Subject, c.SerialNumber.BitLen())
		}
	}
	if got := l.NotAfter.Sub(now); got != leafLife {
		t.Errorf("leaf lives for %v, want %v", got, leafLife)
	}
	if l.NotBefore.Before(root.NotBefore) || !l.NotBefore.Before(now) || l.IsCA {
		t.Error("leaf is valid before its authority, or signs")
	}
	sanCritical := false
	for _, extension := range l.Extensions {
		sanCritical = sanCritical || extension.Id.String() == "2.5.29.17" && extension.Critical
	}
	if len(l.Subject.Names) != 0 || !sanCritical {
		t.Errorf("subject %q, SAN critical %v; want an empty subject and a critical SAN", l.Subject, sanCritical)
	}
}

func TestSubjectsOfTwoAuthoritiesDiffer(t *testing.T) {
	t.Parallel()
	cfg := Config{NotAfter: time.Now().Add(time.Hour)}
	a, errA := New(cfg)
	b, errB := New(cfg)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if a.Root().Subject.String() == b.Root().Subject.String() {
		t.Fatal("two roots have one subject")
	}
}

func TestLeafIsMadeOncePerNameHoweverManyAsk(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "*.wild.test")
	serials := make([]*big.Int, 100)
	var all sync.WaitGroup
	for i := range serials {
		all.Go(func() {
			if cert, err := a.Leaf(context.Background(), "one.wild.test"); err == nil {
				serials[i] = cert.Leaf.SerialNumber
			}
		})
	}
	all.Wait()
	for _, serial := range serials {
		if serial == nil || serial.Cmp(serials[0]) != 0 {
			t.Fatal("more than one leaf was made for one name")
		}
	}
}

func TestLeafCacheIsBounded(t *testing.T) {
	t.Parallel()
	a, err := New(Config{Hosts: []string{"*.wild.test"}, NotAfter: time.Now().Add(time.Hour), LeafCache: 8})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		leaf(t, a, fmt.Sprintf("h%d.wild.test", i))
	}
	if got := a.leaves.Len(); got != 8 {
		t.Fatalf("%d leaves kept, want 8", got)
	}
	if len(a.issuing) != 0 {
		t.Fatalf("%d issues left open", len(a.issuing))
	}
}

func TestLeafIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := New(Config{Hosts: []string{"a.test"}, NotAfter: now.Add(10 * 24 * time.Hour), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	first := leaf(t, a, "a.test")
	now = now.Add(leafLife - 2*skew)
	if leaf(t, a, "a.test") != first {
		t.Fatal("renewed too early")
	}
	now = now.Add(2 * skew)
	second := leaf(t, a, "a.test")
	if second == first || !second.Leaf.NotAfter.Equal(a.intermediate.NotAfter) {
		t.Fatal("not renewed, or beyond its authority")
	}
	now = now.Add(2 * 24 * time.Hour)
	if leaf(t, a, "a.test") != second {
		t.Fatal("renewed although it cannot last longer")
	}
	now = now.Add(2 * 24 * time.Hour)
	if _, err := a.Leaf(context.Background(), "a.test"); !errors.Is(err, ErrExpired) {
		t.Fatalf("got %v after the authority's end", err)
	}
}

func TestClosedAuthorityIssuesNothing(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "a.test")
	leaf(t, a, "a.test")
	a.Close()
	if _, err := a.Leaf(context.Background(), "a.test"); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want it closed", err)
	}
	if a.key != nil || a.leafKey != nil || a.leaves.Len() != 0 {
		t.Fatal("keys or leaves are still held")
	}
}

func TestIssuesAboveTheRateWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		start := time.Now()
		for range issueRate {
			if err := l.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(start); waited != 0 {
			t.Fatalf("a burst waited for %v", waited)
		}
		for range issueRate {
			if err := l.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(start); waited != time.Second {
			t.Fatalf("the next burst took %v, want a second", waited)
		}
	})
}

func TestWaiterThatLeavesGivesItsTurnBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		for range issueRate {
			l.take(time.Now())
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range 5000 {
			if err := l.wait(gone); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
		}
		start := time.Now()
		if err := l.wait(t.Context()); err != nil || time.Since(start) > 2*time.Millisecond {
			t.Fatalf("waited for %v (%v) behind those who left", time.Since(start), err)
		}
	})
}

func TestFollowersSurviveALeaderThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, "*.wild.test")
		for range issueRate {
			a.limiter.take(time.Now())
		}
		leader, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { _, err := a.Leaf(leader, "x.wild.test"); failed <- err }()
		synctest.Wait()
		made := make(chan error, 1)
		go func() { _, err := a.Leaf(t.Context(), "x.wild.test"); made <- err }()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Fatalf("leader: %v", err)
		}
		if err := <-made; err != nil {
			t.Fatalf("follower: %v", err)
		}
	})
}

func BenchmarkLeafNew(b *testing.B) {
	a := newAuthority(b, "a.test")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.issue("a.test"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeafCached(b *testing.B) {
	a := newAuthority(b, "a.test")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Leaf(context.Background(), "a.test"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(Config{Hosts: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}); err != nil {
			b.Fatal(err)
		}
	}
}
