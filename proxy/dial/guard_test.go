package dial

import (
	"net"
	"net/netip"
	"testing"
)

func TestGuardJudgesTheAddressItself(t *testing.T) {
	for address, want := range map[string]struct{ public, blind bool }{
		"140.82.121.6":         {true, true},
		"2606:4700:4700::1111": {true, true},
		"64:ff9b::8c52:7906":   {true, true}, // NAT64 of 140.82.121.6

		"127.0.0.1": {false, true}, "::1": {false, true}, "10.0.0.7": {false, true}, "172.31.0.1": {false, true},
		"192.168.1.1": {false, true}, "100.64.0.1": {false, true}, "169.254.1.1": {false, true}, "fe80::1": {false, true},
		"fd00::1": {false, true}, "198.18.0.1": {false, true}, "224.0.0.1": {false, true}, "240.0.0.1": {false, true},
		"255.255.255.255": {false, true}, "ff02::1": {false, true}, "2001::1": {false, true}, "2001:db8::1": {false, true},
		"::ffff:127.0.0.1": {false, true}, "64:ff9b::7f00:1": {false, true}, "2002:7f00:1::": {false, true}, "2002:a00:1::1": {false, true},
		"2002:8c52:7906::1": {false, true}, // 6to4, wherever it leads

		"0.0.0.0": {false, false}, "::": {false, false}, "::ffff:0.0.0.0": {false, false},
		"169.254.169.254": {false, false}, "::ffff:169.254.169.254": {false, false}, "64:ff9b::a9fe:a9fe": {false, false},
		"2002:a9fe:a9fe::1": {false, false}, "fd00:ec2::254": {false, false}, "100.100.100.200": {false, false}, "168.63.129.16": {false, false},
	} {
		socket := netip.AddrPortFrom(netip.MustParseAddr(address), 443).String()
		d := &Dialer{}
		if got := d.check(socket, Public) == nil; got != want.public {
			t.Errorf("%s for an intercepted host: allowed %v, want %v", address, got, want.public)
		}
		if got := d.check(socket, Blind) == nil; got != want.blind {
			t.Errorf("%s for a host that passes: allowed %v, want %v", address, got, want.blind)
		}
		if d.check(socket, Named) != nil {
			t.Errorf("%s is refused though the user named it", address)
		}
	}
}

func TestTheGatewayItselfIsNoUpstream(t *testing.T) {
	d := &Dialer{}
	for _, own := range []string{"127.0.0.1:3128", "[::1]:3129", "0.0.0.0:3130"} {
		address, err := net.ResolveTCPAddr("tcp", own)
		if err != nil {
			t.Fatal(err)
		}
		d.Reserve(address)
	}
	for _, socket := range []string{"127.0.0.1:3128", "[::ffff:127.0.0.1]:3128", "[::1]:3129", "127.0.0.1:3130", "192.168.1.5:3130"} {
		if d.check(socket, Named) == nil {
			t.Errorf("%s leads to the gateway and is allowed", socket)
		}
	}
	if d.check("127.0.0.1:3129", Named) != nil {
		t.Error("another address with a port of the gateway's is refused")
	}
}
