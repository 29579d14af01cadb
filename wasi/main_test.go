package wasi

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/transport/pki"
)

func TestMain(m *testing.M) {
	// memberlist's Shutdown does not wait for a probe that is under way; it ends with
	// its timeout.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startCluster runs three nodes in this process, on loopback, and connects to them.
func startCluster(t testing.TB) *client.Client {
	t.Helper()
	const nodes = 3
	dir := t.TempDir()
	certs := filepath.Join(dir, "certs")
	must(t, pki.NewCA(certs, "test"))
	must(t, pki.IssueClient(certs, "client"))
	addrs := freeAddrs(t, nodes)
	for i, addr := range addrs {
		name := fmt.Sprintf("n%d", i+1)
		must(t, pki.IssueNode(certs, name, nil))
		n, err := cluster.Open(cluster.Config{
			Name: name, DataDir: filepath.Join(dir, name), Listen: addr, Join: addrs, BootstrapExpect: nodes,
			CAFile: filepath.Join(certs, "ca.crt"), GossipKeyFile: filepath.Join(certs, "gossip.key"),
			CertFile: filepath.Join(certs, name+".crt"), KeyFile: filepath.Join(certs, name+".key"),
		})
		must(t, err)
		t.Cleanup(func() {
			ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
			defer done()
			must(t, n.Close(ctx))
		})
	}
	ctx, done := context.WithTimeout(t.Context(), 30*time.Second)
	defer done()
	c, err := client.Open(ctx, client.Config{
		Addrs: addrs, CAFile: filepath.Join(certs, "ca.crt"),
		CertFile: filepath.Join(certs, "client.crt"), KeyFile: filepath.Join(certs, "client.key"), Timeout: 20 * time.Second,
	})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// freeAddrs returns addresses of UDP ports that are free while all of them are held,
// which is until it returns.
func freeAddrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		must(t, err)
		defer c.Close()
		addrs = append(addrs, c.LocalAddr().String())
	}
	return addrs
}
