package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// lookup turns "host:port" into an address our socket can reach. attempt chooses among several, so that a caller who
// tries again tries the next one.
func (t *Transport) lookup(ctx context.Context, addr string, attempt int) (*net.UDPAddr, error) {
	all, err := t.Lookup(ctx, addr)
	if err != nil {
		return nil, err
	}
	return net.UDPAddrFromAddrPort(all[attempt%len(all)]), nil
}

// Lookup turns "host:port" into the addresses behind it that our socket can reach, at least one. It asks the resolver
// only if host is a name, and not for longer than ctx.
func (t *Transport) Lookup(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	if literal, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{literal}, nil
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q: port: %w", addr, err)
	}
	network := "ip"
	if t.Addr().IP.To4() != nil {
		network = "ip4" // a socket bound to an IPv4 address reaches nothing else
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("address %q: host has no address", addr)
	}
	all := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		all[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return all, nil
}
