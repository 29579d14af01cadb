package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCA(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	must(t, NewCA(dir, "prod-1"))
	return dir
}

func load(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	must(t, err)
	return pair.Leaf
}

func verify(t *testing.T, dir string, leaf *x509.Certificate, usage x509.ExtKeyUsage) error {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(load(t, dir, "ca"))
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestCertificates(t *testing.T) {
	dir := newCA(t)
	must(t, IssueNode(dir, "n1", []string{"127.0.0.1", "::1", "n1.example"}))
	must(t, IssueClient(dir, "c1"))

	ca := load(t, dir, "ca")
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA may do %b, with path length %d", ca.KeyUsage, ca.MaxPathLen)
	}
	node, client := load(t, dir, "n1"), load(t, dir, "c1")
	if got := node.URIs[0].String(); got != "manykv://prod-1/node/n1" || len(node.URIs) != 1 {
		t.Errorf("node is %s", got)
	}
	if got := client.URIs[0].String(); got != "manykv://prod-1/client/c1" || len(client.URIs) != 1 {
		t.Errorf("client is %s", got)
	}
	if !slices.Equal(node.DNSNames, []string{"n1.example"}) || len(node.IPAddresses) != 2 {
		t.Errorf("node has hosts %v and %v", node.DNSNames, node.IPAddresses)
	}
	for what, test := range map[string]struct {
		leaf  *x509.Certificate
		usage x509.ExtKeyUsage
		want  bool
	}{
		"node as server":   {node, x509.ExtKeyUsageServerAuth, true},
		"node as client":   {node, x509.ExtKeyUsageClientAuth, true},
		"client as client": {client, x509.ExtKeyUsageClientAuth, true},
		"client as server": {client, x509.ExtKeyUsageServerAuth, false},
	} {
		if err := verify(t, dir, test.leaf, test.usage); (err == nil) != test.want {
			t.Errorf("%s: got %v, want success %t", what, err, test.want)
		}
	}
	for what, test := range map[string]struct {
		cert *x509.Certificate
		life time.Duration
	}{"CA": {ca, caLife}, "node": {node, leafLife}, "client": {client, leafLife}} {
		if got := test.cert.NotAfter.Sub(test.cert.NotBefore); got != test.life+backdate {
			t.Errorf("%s lives %s, want %s", what, got, test.life+backdate)
		}
		if since := time.Since(test.cert.NotBefore); since < backdate || since > backdate+time.Minute {
			t.Errorf("%s is valid since %s ago, want %s", what, since, backdate)
		}
	}
}

func TestKeysArePrivate(t *testing.T) {
	dir := newCA(t)
	must(t, IssueNode(dir, "n1", nil))
	for _, name := range []string{"ca.key", "gossip.key", "n1.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode())
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := newCA(t)
	must(t, IssueNode(dir, "n1", nil))
	before := readAll(t, dir)
	for what, again := range map[string]func() error{
		"CA":             func() error { return NewCA(dir, "prod-2") },
		"node":           func() error { return IssueNode(dir, "n1", nil) },
		"client as node": func() error { return IssueClient(dir, "n1") },
	} {
		if err := again(); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v, want fs.ErrExist", what, err)
		}
	}
	// A dangling link would let another user choose where the key goes.
	must(t, os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "n2.key")))
	if err := IssueNode(dir, "n2", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link: got %v, want fs.ErrExist", err)
	}
	must(t, os.Remove(filepath.Join(dir, "n2.key")))
	// One file of three is enough to refuse, and then none of the others is made.
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "gossip.key"), nil, 0o600))
	if err := NewCA(other, "prod-1"); !errors.Is(err, fs.ErrExist) || len(readAll(t, other)) != 1 {
		t.Errorf("half a CA: got %v and %d files, want fs.ErrExist and 1", err, len(readAll(t, other)))
	}
	if after := readAll(t, dir); len(after) != len(before) {
		t.Errorf("got %d files, want %d", len(after), len(before))
	} else {
		for name, content := range before {
			if after[name] != content {
				t.Errorf("%s has changed", name)
			}
		}
	}
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	files := make(map[string]string)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		files[e.Name()] = string(content)
	}
	return files
}

func TestNames(t *testing.T) {
	dir := newCA(t)
	long := strings.Repeat("x", maxName)
	must(t, IssueNode(dir, long, nil))
	must(t, IssueClient(dir, "0-9"))
	for name, words := range map[string]string{
		"":         "has 0 characters, want 1 to 63",
		long + "x": "has 64 characters",
		"N1":       `holds 'N', want only a-z, 0-9 and -`,
		"a/b":      `holds '/'`,
		"../n":     `holds '.'`,
		"ä":        `holds 'ä'`,
	} {
		for what, err := range map[string]error{
			"cluster": NewCA(filepath.Join(t.TempDir(), "x"), name),
			"node":    IssueNode(dir, name, nil),
			"client":  IssueClient(dir, name),
		} {
			if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s %q: got %v, want %q", what, name, err, words)
			}
		}
	}
	for _, name := range []string{"ca", "gossip"} {
		if err := IssueNode(dir, name, nil); err == nil || !strings.Contains(err.Error(), "overwrite") {
			t.Errorf("node %q: got %v, want it refused", name, err)
		}
	}
}

func TestGossipKey(t *testing.T) {
	dir := newCA(t)
	file := filepath.Join(dir, "gossip.key")
	key, err := ReadGossipKey(file)
	must(t, err)
	other, err := ReadGossipKey(filepath.Join(newCA(t), "gossip.key"))
	must(t, err)
	if len(key) != 32 || string(key) == string(other) {
		t.Fatalf("got %d bytes, the same as another cluster's: %t", len(key), string(key) == string(other))
	}
	for content, words := range map[string]string{
		"":        "got 0 bytes, want 32",
		"abcd\n":  "got 2 bytes, want 32",
		"nothex!": "want 32 bytes in hex",
	} {
		must(t, os.WriteFile(file, []byte(content), 0o600))
		if _, err := ReadGossipKey(file); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", content, err, words)
		}
	}
	if _, err := ReadGossipKey(file + ".no"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v, want fs.ErrNotExist", err)
	}
}

func TestDamagedCA(t *testing.T) {
	for what, test := range map[string]struct {
		damage func(dir string)
		words  string
	}{
		"no CA":          {func(dir string) { must(t, os.Remove(filepath.Join(dir, "ca.crt"))) }, "no such file"},
		"no key":         {func(dir string) { must(t, os.Remove(filepath.Join(dir, "ca.key"))) }, "no such file"},
		"empty CA":       {func(dir string) { overwrite(t, dir, "ca.crt", "") }, `no PEM block "CERTIFICATE"`},
		"garbage in CA":  {func(dir string) { overwrite(t, dir, "ca.crt", block("CERTIFICATE")) }, "ca.crt: x509"},
		"garbage in key": {func(dir string) { overwrite(t, dir, "ca.key", block("PRIVATE KEY")) }, "ca.key"},
		"key of another": {func(dir string) {
			overwrite(t, dir, "ca.key", readAll(t, newCA(t))["ca.key"])
		}, "is not the key of"},
		"a leaf": {func(dir string) {
			must(t, IssueNode(dir, "n0", nil))
			overwrite(t, dir, "ca.crt", readAll(t, dir)["n0.crt"])
		}, "is not a CA certificate"},
	} {
		dir := newCA(t)
		test.damage(dir)
		if err := IssueNode(dir, "n1", nil); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %v, want %q", what, err, test.words)
		}
		if _, err := os.Stat(filepath.Join(dir, "n1.key")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a key was left behind", what)
		}
	}
}

func overwrite(t *testing.T, dir, name, content string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
}

func block(kind string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("garbage")}))
}
