package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/manykv/manykv/client"
)

func TestCertificatesAreMadeOnceAndFitTogether(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct{ line, want string }{
		{"cert ca --cluster prod", "certs/ca.crt\ncerts/ca.key\ncerts/gossip.key\n"},
		{"cert node n1 --host 10.0.0.1 --host n1.example.org", "certs/n1.crt\ncerts/n1.key\n"},
		{"cert client app --addr 10.0.0.1:7400 --addr n1:7400", "certs/app.crt\ncerts/app.key\ncerts/client.toml\n"},
		{"cert client other --addr n1:7400 --out other.toml", "certs/other.crt\ncerts/other.key\nother.toml\n"},
	} {
		if r := runHere(t, nil, strings.Fields(c.line)...); r.code != 0 || filepath.ToSlash(r.stdout) != c.want {
			t.Fatalf("%s: got exit code %d,\n%s%s\nwant 0 and\n%s", c.line, r.code, r.stdout, r.stderr, c.want)
		}
	}
	for file, want := range map[string]client.Config{
		filepath.Join("certs", "client.toml"): {Addrs: []string{"10.0.0.1:7400", "n1:7400"}, CAFile: "certs/ca.crt", CertFile: "certs/app.crt", KeyFile: "certs/app.key"},
		"other.toml":                          {Addrs: []string{"n1:7400"}, CAFile: "certs/ca.crt", CertFile: "certs/other.crt", KeyFile: "certs/other.key"},
	} {
		if cfg, err := client.LoadConfig(file); err != nil || !reflect.DeepEqual(cfg, want) {
			t.Errorf("%s: got %+v, %v, want %+v", file, cfg, err, want)
		}
	}
	for _, c := range []struct{ line, says string }{
		{"cert ca --cluster prod", "never overwritten"},
		{"cert node n1", "never overwritten"},
		{"cert client third --addr n1:7400", "--out names another file"},
		{"cert client app --addr n1:7400 --out app.toml", "never overwritten"},
		{"cert node N1", `"N1"`},
	} {
		runHere(t, nil, strings.Fields(c.line)...).mustFail(t, exitFailed, c.says)
	}
	for _, addr := range []string{"foo", ":7400", "n1:", "n1:0", "n1:http", "n1:70000"} {
		r := runHere(t, nil, "cert", "client", "third", "--addr", "n1:7400", "--addr", addr, "--out", "third.toml")
		r.mustFail(t, exitUsage, `--addr "`+addr+`", want host:port`)
	}
	for _, file := range []string{filepath.Join("certs", "third.crt"), "third.toml"} {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("got %s, want nothing made when not all of it can be", file)
		}
	}
}

func TestConnectionFlagsWinOverTheFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	writeFile(t, dir, filepath.Join(defaultDir, clientFile), []byte("addrs = ['f:1']\nca_file = 'ca'\ncert_file = 'cert'\nkey_file = 'key'\n"))
	c := connection{timeout: defaultTimeout}
	cfg, err := c.load()
	if err != nil || !reflect.DeepEqual(cfg.Addrs, []string{"f:1"}) || cfg.Through || cfg.CAFile != filepath.Join(defaultDir, "ca") {
		t.Errorf("got %+v, %v, want the file in %s", cfg, err, defaultDir)
	}
	c = connection{timeout: defaultTimeout, addrs: []string{"a:1"}, through: true, key: "k"}
	cfg, err = c.load()
	if err != nil || !reflect.DeepEqual(cfg.Addrs, []string{"a:1"}) || !cfg.Through || cfg.KeyFile != "k" || cfg.CertFile != filepath.Join(defaultDir, "cert") {
		t.Errorf("got %+v, %v, want what was given, and the rest of the file", cfg, err)
	}
	t.Chdir(t.TempDir())
	c = connection{timeout: defaultTimeout, addrs: []string{"a:1"}, ca: "a", cert: "b", key: "c"}
	cfg, err = c.load()
	if err != nil || cfg.CAFile != "a" || cfg.CertFile != "b" || cfg.KeyFile != "c" {
		t.Errorf("got %+v, %v, want what was given to be enough", cfg, err)
	}
}
