package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrongUseExitsWith2AndAHelpfulLine(t *testing.T) {
	t.Chdir(t.TempDir()) // no .manykv here
	for _, c := range []struct {
		line string // in words
		says string
	}{
		{"nonsense", `unknown command "nonsense"`},
		{"bucket", "manykv bucket needs a command: create, list"},
		{"bucket drop", `unknown command "drop" of manykv bucket`},
		{"cert server", "want one of: ca, client, node"},
		{"get files", "manykv get BUCKET KEY"},
		{"get files k --nonsense", "unknown flag: --nonsense"},
		{"get files k --timeout soon", "--timeout"},
		{"get files k --timeout 0s", "--timeout 0s, want more than 0"},
		{"get files k", "'manykv up' starts a cluster"},
		{"get files k --addr 127.0.0.1:1", "--addr needs --ca, --cert and --key"},
		{"set files k", "manykv set BUCKET KEY VALUE"},
		{"set-many files key", `argument "key", want KEY=VALUE`},
		{"get-many files", "manykv get-many BUCKET KEY..."},
		{"delete-many files", "manykv delete-many BUCKET KEY..."},
		{"import files", "manykv import BUCKET DIR"},
		{"import files . --parallel 0", "--parallel 0, want 1 to 64"},
		{"status --wait -1s", "--wait -1s, want 0 or more"},
		{"bench --batch 0", "--batch 0, want 1 to 10000"},
		{"bench --batch 10000 --value-size 10000", "want at most"},
		{"bench --ops get,put", "want some of set-many,get-many"},
		{"bench --duration 0s", "--duration 0s, want more than 0"},
		{"up --nodes 0", "--nodes 0, want 1 to 16"},
		{"up --shards -1", "--shards -1, want 0 to"},
		{"up --port 70000", "--port 70000, want 1 to 65535"},
		{"cert ca", "--cluster is missing"},
		{"cert client app", "--addr is missing"},
		{"server", "missing: name, data_dir, ca_file"},
	} {
		t.Run(c.line, func(t *testing.T) {
			r := runHere(t, nil, strings.Fields(c.line)...)
			r.mustFail(t, exitUsage, c.says)
			if !strings.Contains(r.stderr, "--help' says more") {
				t.Errorf("got\n%s\nwant it to name --help", r.stderr)
			}
		})
	}
}

func TestFailuresBeforeTheNetworkExitWith1(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	broken := filepath.Join(dir, "broken.toml")
	if err := os.WriteFile(broken, []byte("addrs = 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		says string
	}{
		{"get files k --config nowhere.toml", "nowhere.toml"},
		{"get files k --config broken.toml", "broken.toml"},
		{"import files nowhere", "nowhere"},
		{"server --config nowhere.toml", "nowhere.toml"},
		{"server --config broken.toml", "addrs"},
		{"cert ca --cluster Capital", `"Capital"`},
		{"cert node n1 --dir nowhere", "nowhere"},
	} {
		t.Run(c.line, func(t *testing.T) {
			runHere(t, nil, strings.Fields(c.line)...).mustFail(t, exitFailed, c.says)
		})
	}
}

func TestHelpAndVersionExitWith0(t *testing.T) {
	for _, c := range []struct{ line, says string }{
		{"", "Clusters:"},
		{"help", "Data:"},
		{"--version", "manykv version "},
		{"server --help", "bootstrap_expect = 3"},
		{"up --help", "client.toml"},
		{"set-many --help", `{"key":"k","value_base64":"AP8="}`},
		{"completion bash", "bash completion V2 for manykv"},
	} {
		r := runHere(t, nil, strings.Fields(c.line)...)
		if r.code != 0 || !strings.Contains(r.stdout, c.says) || r.stderr != "" {
			t.Errorf("%q: got exit code %d,\n%s%s\nwant 0 and %q", c.line, r.code, r.stdout, r.stderr, c.says)
		}
	}
}

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	p, _, stderr := newProgram("")
	p.stdout = &printer{w: brokenPipe{}}
	dir := filepath.Join(t.TempDir(), "certs")
	code := p.run(t.Context(), []string{"cert", "ca", "--dir", dir, "--cluster", "c"})
	if code != exitFailed || !strings.Contains(stderr.String(), errBrokenPipe.Error()) {
		t.Errorf("got exit code %d and %q, want %d and the error of the output", code, stderr, exitFailed)
	}
}
