package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manykv/manykv/transport/pki"
	"github.com/quic-go/quic-go"
)

func TestIdentityIsAURI(t *testing.T) {
	const uri = "manykv://prod-1/node/n1"
	id, err := ParseIdentity(uri)
	must(t, err)
	if want := (Identity{"prod-1", RoleNode, "n1"}); id != want || id.String() != uri {
		t.Fatalf("got %#v and %q, want %#v", id, id.String(), want)
	}
	long := strings.Repeat("x", maxNameBytes+1)
	for _, bad := range []string{
		"", "n1", "manykv://", "manykv://a/node", "manykv://a/node/", "manykv:///node/n1", "manykv://a/admin/n1",
		"manykv://a/node/n1/", "manykv://a/node/n1?x", "manykv://A/node/n1", "manykv://a/node/n_1", "http://a/node/n1",
		"manykv://a/node/" + long, "manykv://" + long + "/node/n1", "manykv://a/node/n\n1",
	} {
		if id, err := ParseIdentity(bad); err == nil {
			t.Errorf("%q: got %#v, want an error", bad, id)
		}
	}
}

// refused calls, and wants to hear at once that an identity was refused, in these words.
func refused(t *testing.T, caller *Transport, call func(context.Context) error, words ...string) {
	t.Helper()
	err := call(testContext(t))
	if !errors.Is(err, ErrIdentity) || !errors.Is(err, ErrNotSent) || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%s calls: got %v, want ErrIdentity at once", caller.Self(), err)
	}
	if !containsAll(err.Error(), words) {
		t.Fatalf("%s calls: got %q, want it to say %q", caller.Self(), err, words)
	}
}

func TestOtherCAIsRefusedByTheDialler(t *testing.T) {
	ours, theirs := newTown(t, "a"), newTown(t, "a")
	n1 := theirs.node("n1")
	c := ours.client("c1")
	refused(t, c, func(ctx context.Context) error {
		_, _, err := c.CallAddr(ctx, n1.Addr().String(), 1, nil)
		return err
	}, `certificate of "n1"`, "unknown authority")
	if n := c.Stats().RefusedPeers; n != 1 {
		t.Fatalf("counted %d refusals, want 1", n)
	}
}

func TestOtherCAIsRefusedByTheListener(t *testing.T) {
	ours, theirs := newTown(t, "a"), newTown(t, "a")
	lines := newLogLines()
	n1 := ours.node("n1", func(c *Config) { c.Logger = lines.logger() })
	// A client that believes our CA, with a certificate of another one.
	cfg := theirs.config("c1", RoleClient)
	c, err := Open(cfg)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	trusting, err := loadCredentials(filepath.Join(ours.dir, "ca.crt"), filepath.Join(ours.dir, "n1.crt"),
		filepath.Join(ours.dir, "n1.key"))
	must(t, err)
	c.creds.ca = trusting.ca
	refused(t, c, func(ctx context.Context) error {
		_, _, err := c.CallAddr(ctx, n1.Addr().String(), 1, nil)
		return err
	}, "the server refused our certificate", "manykv://a/client/c1", "unknown certificate authority")
	lines.await(t, "refused a connection", "unknown authority")
	if served := n1.Stats().Served; served != 0 {
		t.Fatalf("%d handlers ran, want none", served)
	}
}

// otherCluster makes a node of another cluster under the CA of w: the same operator made both.
func (w *town) otherCluster(cluster, name string) Config {
	w.t.Helper()
	ca, key := filepath.Join(w.dir, "ca.crt"), filepath.Join(w.dir, "ca.key")
	certFile, keyFile := forge(w.t, ca, key, Identity{cluster, RoleNode, name}.String())
	cfg := w.config(name+"-unused", RoleNode)
	cfg.CertFile, cfg.KeyFile = certFile, keyFile
	return cfg
}

func TestOtherClusterIsRefused(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	n2, err := Open(w.otherCluster("b", "n2"))
	must(t, err)
	defer func() { must(t, n2.Close()) }()
	refused(t, n1, func(ctx context.Context) error {
		_, _, err := n1.CallAddr(ctx, n2.Addr().String(), 1, nil)
		return err
	}, `certificate of node n2 is for cluster "b", want "a"`)
	refused(t, n2, func(ctx context.Context) error {
		_, _, err := n2.CallAddr(ctx, n1.Addr().String(), 1, nil)
		return err
	}, `certificate of node n1 is for cluster "a", want "b"`)
}

func TestWrongNameIsRefused(t *testing.T) {
	w := newTown(t, "a")
	n1, c := w.node("n1"), w.client("c1")
	w.settle("n2", n1.Addr().String())
	refused(t, c, func(ctx context.Context) error {
		_, err := c.Call(ctx, "n2", 1, nil)
		return err
	}, `certificate of the server is for node "n1", want "n2"`)
	// A moment later the answer still comes at once, from memory or from another handshake.
	refused(t, c, func(ctx context.Context) error {
		_, err := c.Call(ctx, "n2", 1, nil)
		return err
	}, `want "n2"`)
}

func TestRefusedPeerIsTriedAgainLater(t *testing.T) {
	w := newTown(t, "a")
	n1, c := w.node("n1"), w.client("c1")
	w.settle("n2", n1.Addr().String())
	addr := n1.Addr().String()
	refused(t, c, func(ctx context.Context) error {
		_, err := c.Call(ctx, "n2", 1, nil)
		return err
	})
	must(t, n1.Close())
	w.node("n2", func(cfg *Config) { cfg.Listen = addr })
	eventually(t, "the right node is accepted", func() bool {
		_, err := c.Call(testContext(t), "n2", 1, nil)
		return err == nil
	})
}

// stranger dials without our code.
func stranger(t *testing.T, to *Transport, config *tls.Config) (*quic.Conn, error) {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	qt := &quic.Transport{Conn: udp}
	t.Cleanup(func() {
		must(t, qt.Close())
		must(t, udp.Close())
	})
	config.InsecureSkipVerify = true
	qc, err := qt.Dial(testContext(t), to.Addr(), config, dialConfig())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = qc.CloseWithError(0, "") })
	return qc, nil
}

// turnedAway wants a stranger's connection to end with this alert, before or after its own half of the handshake.
func turnedAway(t *testing.T, qc *quic.Conn, err error, alert tls.AlertError) {
	t.Helper()
	if err == nil {
		select {
		case <-qc.Context().Done():
			err = context.Cause(qc.Context())
		case <-testContext(t).Done():
			t.Fatal("the connection stands, want it refused")
		}
	}
	failure, ok := errors.AsType[*quic.TransportError](err)
	if !ok || !failure.Remote || failure.ErrorCode != 0x100+quic.TransportErrorCode(alert) {
		t.Fatalf("got %v, want the server's alert %d", err, alert)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	w := newTown(t, "a")
	lines := newLogLines()
	n1 := w.node("n1", func(c *Config) { c.Logger = lines.logger() })
	client, err := loadCredentials(filepath.Join(w.dir, "ca.crt"), clientCert(t, w, ".crt"), clientCert(t, w, ".key"))
	must(t, err)

	qc, err := stranger(t, n1, &tls.Config{NextProtos: []string{protoClient}})
	turnedAway(t, qc, err, alertCertificateRequired)
	lines.await(t, "refused a connection", "certificate")

	qc, err = stranger(t, n1, &tls.Config{NextProtos: []string{"h3"}})
	turnedAway(t, qc, err, alertNoApplicationProtocol)

	certs := []tls.Certificate{client.cert}
	qc, err = stranger(t, n1, &tls.Config{NextProtos: []string{protoPeer}, Certificates: certs})
	turnedAway(t, qc, err, alertBadCertificate)
	eventually(t, "all three are counted", func() bool { return n1.Stats().RefusedPeers == 3 })
}

func clientCert(t *testing.T, w *town, suffix string) string {
	t.Helper()
	w.config("c1", RoleClient)
	return filepath.Join(w.dir, "c1"+suffix)
}

func TestClientMayOnlyCall(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1", func(c *Config) { c.GossipKey = fill(gossipKeyBytes) })
	creds, err := loadCredentials(filepath.Join(w.dir, "ca.crt"), clientCert(t, w, ".crt"), clientCert(t, w, ".key"))
	must(t, err)
	for _, kind := range []streamKind{streamControl, streamData, streamGossip, streamBulk} {
		qc, err := stranger(t, n1, creds.client(protoClient, ""))
		must(t, err)
		s, err := qc.OpenStream()
		must(t, err)
		hello := kind.hello()
		_, err = s.Write(hello[:])
		must(t, err)
		badEnd(t, qc, `client "c1" opens a stream that only nodes may`)
	}
}

// badEnd wants the server to end a connection, saying this.
func badEnd(t *testing.T, qc *quic.Conn, words ...string) {
	t.Helper()
	select {
	case <-qc.Context().Done():
	case <-testContext(t).Done():
		t.Fatal("the connection stands, want it ended")
	}
	err := context.Cause(qc.Context())
	failure, ok := errors.AsType[*quic.ApplicationError](err)
	if !ok || !failure.Remote || failure.ErrorCode != codeBadFrame || !containsAll(failure.ErrorMessage, words) {
		t.Fatalf("got %v, want code %d and %q", err, codeBadFrame, words)
	}
}

func TestOpenRefuses(t *testing.T) {
	w, other := newTown(t, "a"), newTown(t, "a")
	n1 := w.node("n1")
	must(t, pki.IssueClient(other.dir, "c9"))
	for what, test := range map[string]struct {
		change func(*Config)
		words  []string
	}{
		"port in use":         {func(c *Config) { c.Listen = n1.Addr().String() }, []string{n1.Addr().String(), "in use"}},
		"no address":          {func(c *Config) { c.Listen = "nonsense" }, []string{"nonsense"}},
		"client that accepts": {func(c *Config) { c.Accept = true }, []string{"only nodes accept"}},
		"no files":            {func(c *Config) { c.CAFile = "" }, []string{"CAFile"}},
		"missing CA":          {func(c *Config) { c.CAFile += ".no" }, []string{"CA certificate", "no such file"}},
		"CA that is none":     {func(c *Config) { c.CAFile = c.KeyFile }, []string{"no certificate in PEM"}},
		"key of another":      {func(c *Config) { c.KeyFile = filepath.Join(w.dir, "n1.key") }, []string{"does not match"}},
		"certificate of another CA": {func(c *Config) {
			c.CertFile, c.KeyFile = filepath.Join(other.dir, "c9.crt"), filepath.Join(other.dir, "c9.key")
		}, []string{"does not stand under"}},
		"certificate without identity": {func(c *Config) {
			c.CertFile, c.KeyFile = forge(t, c.CAFile, filepath.Join(w.dir, "ca.key"))
		}, []string{"0 identity URIs"}},
		"certificate with two": {func(c *Config) {
			c.CertFile, c.KeyFile = forge(t, c.CAFile, filepath.Join(w.dir, "ca.key"),
				"manykv://a/node/x", "manykv://a/node/y")
		}, []string{"2 identity URIs"}},
		"short gossip key": {func(c *Config) { c.GossipKey = []byte("x") }, []string{"GossipKey has 1 bytes, want 32"}},
		"negative message": {func(c *Config) { c.MaxMessageBytes = -1 }, []string{"MaxMessageBytes -1"}},
		"negative rate":    {func(c *Config) { c.BulkBytesPerSecond = -1 }, []string{"BulkBytesPerSecond -1"}},
		"tiny rate":        {func(c *Config) { c.BulkBytesPerSecond = 1000 }, []string{"BulkBytesPerSecond 1000, want at least 65536"}},
		"negative wait":    {func(c *Config) { c.ConnectWait = -1 }, []string{"ConnectWait -1ns"}},
		"negative budget":  {func(c *Config) { c.InflightBytes = -1 }, []string{"InflightBytes -1"}},
	} {
		cfg := w.config("c1", RoleClient)
		test.change(&cfg)
		got, err := Open(cfg)
		if err == nil {
			must(t, got.Close())
			t.Errorf("%s: opened, want an error", what)
			continue
		}
		if !containsAll(err.Error(), test.words) {
			t.Errorf("%s: got %q, want it to say %q", what, err, test.words)
		}
	}
}
