package client_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, text string
		want       client.Config
		err        string
	}{
		{
			"beside the file and elsewhere",
			"addrs = [\"a:1\", \"b:2\"]\nca_file = \"ca.crt\"\ncert_file = \"certs/me.crt\"\nkey_file = \"/etc/me.key\"\nthrough = true\n",
			client.Config{
				Addrs: []string{"a:1", "b:2"}, CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "certs", "me.crt"),
				KeyFile: "/etc/me.key", Through: true,
			},
			"",
		},
		{"nothing in it", "", client.Config{}, ""}, // what is missing may come from elsewhere; Open says what still is
		{"no TOML", "addrs = [", client.Config{}, "client.toml"},
		{"of another kind", "addrs = 7", client.Config{}, "client.toml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, "client.toml")
			must(t, os.WriteFile(file, []byte(c.text), 0o600))
			got, err := client.LoadConfig(file)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want one with %q", err, c.err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	if _, err := client.LoadConfig(filepath.Join(dir, "none.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	good := newTown(t, "test").config("127.0.0.1:1")
	for _, c := range []struct {
		name string
		edit func(*client.Config)
		want string
		not  error // the class, but for files that cannot be read
	}{
		{"no addresses", func(c *client.Config) { c.Addrs = nil }, "addresses", kv.ErrInvalid},
		{"no port", func(c *client.Config) { c.Addrs = []string{"a:1", "b"} }, `"b"`, kv.ErrInvalid},
		{"no CA", func(c *client.Config) { c.CAFile = "" }, "CA file", kv.ErrInvalid},
		{"no certificate", func(c *client.Config) { c.CertFile = "" }, "certificate file", kv.ErrInvalid},
		{"no key", func(c *client.Config) { c.KeyFile = "" }, "key file", kv.ErrInvalid},
		{"negative timeout", func(c *client.Config) { c.Timeout = -time.Second }, "-1s", kv.ErrInvalid},
		{"bad limits", func(c *client.Config) { c.Limits.KeyBytes = -1 }, "key bytes", kv.ErrInvalid},
		{"a key that is not there", func(c *client.Config) { c.KeyFile += ".gone" }, "client.key.gone", fs.ErrNotExist},
		{"a certificate of another CA", func(c *client.Config) { c.CAFile = newTown(t, "test").config().CAFile }, "does not stand under", nil},
		{"a CA that is none", func(c *client.Config) { c.CAFile = c.KeyFile }, "client.key", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			_, err := client.Open(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.not != nil && !errors.Is(err, c.not) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}
