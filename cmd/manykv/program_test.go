package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/manykv/manykv/kv"
)

func TestWrongUseExitsWith2AndAHelpfulLine(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // no .manykv here
	writeFile(t, dir, "program.go", nil)
	for _, c := range []struct {
		line string // in words
		says string
	}{
		{"nonsense", `unknown command "nonsense"`},
		{"bucket", "manykv bucket needs a command: create, delete, list"},
		{"bucket drop", `unknown command "drop" of manykv bucket`},
		{"cert server", "want one of: ca, client, node"},
		{"get", "BUCKET and KEY are missing"},
		{"get files", "KEY is missing"},
		{"get files k v", "get takes BUCKET and KEY, got 3 arguments"},
		{"status foo", `status takes no arguments, got "foo"`},
		{"bucket list foo", `bucket list takes no arguments, got "foo"`},
		{"version foo", `version takes no arguments, got "foo"`},
		{"status --through", "unknown flag: --through"},
		{"help nothing", `there is no command "nothing"`},
		{"help bucket nothing", `there is no command "bucket nothing"`},
		{"get files k --nonsense", "unknown flag: --nonsense"},
		{"get files k --timeout soon", "--timeout"},
		{"get files k --timeout 0s", "--timeout 0s, want more than 0"},
		{"get files k", "'manykv up' starts a cluster"},
		{"get files k --addr 127.0.0.1:1", "--addr needs --ca-file, --cert-file and --key-file"},
		{"get files k --addr foo", `--addr "foo", want host:port`},
		{"set", "BUCKET, KEY and VALUE are missing"},
		{"set files k hello world", "set takes BUCKET, KEY and VALUE, got 4 arguments"},
		{"set-many", "BUCKET is missing"},
		{"set-many files key", `argument "key", want KEY=VALUE`},
		{"get-many", "BUCKET and KEY are missing"},
		{"get-many files", "KEY is missing"},
		{"delete-many files", "usage: manykv delete-many BUCKET KEY..."},
		{"import files", "SOURCE is missing"},
		{"import files . --verify-addr n1:7400", "--verify-addr without --verify or --verify-only"},
		{"import files . --verify --verify-addr n1", `--verify-addr "n1", want host:port`},
		{"import files . --parallel 0", "--parallel 0, want 1 to 64"},
		{"import files program.go --verify", "--verify, --verify-only and --parallel are for a directory"},
		{"import files . --resume s --verify-only", "--resume with --verify-only"},
		{"export files --json", "--json needs a FILE"},
		{"export files --resume", "--resume needs a FILE"},
		{"export files a --cursor 0", "--cursor is for standard output"},
		{"export", "BUCKET is missing"},
		{"export files a b", "export takes BUCKET and FILE, got 3 arguments"},
		{"keys", "BUCKET is missing"},
		{"keys files --limit -5", "--limit"},
		{"incr files", "KEY is missing"},
		{"incr files k five", `DELTA "five", want a number of 64 bits`},
		{"incr files k -9223372036854775809", `DELTA "-9223372036854775809", want a number of 64 bits`},
		{"incr files k -5 7", "incr takes BUCKET, KEY and DELTA, got 4 arguments"},
		{"incr files k -5 --timeout 0s", "--timeout 0s, want more than 0"},
		{"set -1 -2 -3 --timeout 0s", "--timeout 0s, want more than 0"},
		{"help -5", `there is no command "-5"`},
		{"cas files k v", "want either --version or --absent"},
		{"cas files k v --version 1 --absent", "want either --version or --absent"},
		{"cas files k v --version 0", "--version 0, want 1 or more"},
		{"bucket delete files", "--yes is needed, because there is no terminal to ask on"},
		{"status --watch=0s", "--watch 0s, want more than 0"},
		{"status --watch --wait 1s", "either --watch or --wait"},
		{"node", "manykv node needs a command: add, list, remove, replace"},
		{"node add", "ADDR is missing"},
		{"node add here", `ADDR "here", want host:port`},
		{"node add n1:7400 --within -1s", "--within -1s, want 0 or more"},
		{"node remove n1 --wait=false --within 1s", "--within with --wait=false"},
		{"node replace n1", "ADDR is missing"},
		{"wasm", "manykv wasm needs a command: inspect, run, serve"},
		{"wasm run", "GUEST.wasm is missing"},
		{"wasm inspect a b", "wasm inspect takes GUEST.wasm, got 2 arguments"},
		{"wasm run g --memory --bucket-map files", `--bucket-map "files", want ID=BUCKET`},
		{"wasm run g --memory --bucket-map a=b:c", `--bucket-map "a=b:c"`},
		{"wasm run g --memory --bucket-map a=b --bucket-map a=c", `"a" is bucket "b" already`},
		{"wasm run g --memory --read-only a", "no --bucket-map says what that is"},
		{"wasm run g --memory --bucket-map a=b --deny a", "a --bucket-map says what that is"},
		{"wasm run g --memory --env A", `--env "A", want NAME=VALUE`},
		{"wasm run g --memory --max-memory 0", "--max-memory 0, want 1 to 4095"},
		{"wasm run g --memory --invoke f --returns number", `--returns "number", want string or result`},
		{"wasm run g --memory --returns string", "--returns is for --invoke"},
		{"wasm run g x --memory --invoke f", "takes no arguments"},
		{"wasm run g --memory --run-timeout -1s", "--run-timeout -1s, want 0 or more"},
		{"wasm run g --bucket-map =files", "'manykv up' starts a cluster"},
		{"wasm serve g --memory --listen here", `--listen "here", want host:port`},
		{"wasm serve g --memory --max-body 0", "--max-body 0, want 1 to 1024"},
		{"wasm serve g --memory --concurrent 0", "--concurrent 0, want 1 to 10000"},
		{"wasm serve g --memory --request-timeout 0s", "--request-timeout 0s, want more than 0"},
		{"node replace n1 here", `ADDR "here", want host:port`},
		{"debug", "manykv debug needs a command: hash, log"},
		{"debug log", "--data-dir is missing"},
		{"debug log --data-dir d --from 3 --to 2", "--from 3 --to 2, want no less than --from"},
		{"debug log --data-dir d --log-store x", `--log-store "x", want wal or boltdb`},
		{"debug log --data-dir d --shard -1", "--shard -1, want 0 to 256"},
		{"debug hash", "want either --data-dir or --online"},
		{"debug hash --data-dir d --online", "want either --data-dir or --online"},
		{"debug hash --data-dir d --shard 257", "--shard 257, want 0 to 256"},
		{"status --wait -1s", "--wait -1s, want 0 or more"},
		{"bench --batch 0", "--batch 0, want 1 to 10000"},
		{"bench --batch 10000 --value-size 10000", "want at most"},
		{"bench --ops get,put", "want some of set-many,get-many"},
		{"bench --duration 0s", "--duration 0s, want more than 0"},
		{"up --nodes 0", "--nodes 0, want 1 to 16"},
		{"up --shards -1", "--shards -1, want 0 to"},
		{"up --port 70000", "--port 70000, want 1 to 65535"},
		{"cert ca", "--cluster is missing"},
		{"cert node", "NAME is missing"},
		{"cert client app", "--addr is missing"},
		{"server", "missing: data_dir, ca_file"},
		{"server", "'manykv cert node' a node's certificate and key"},
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
		{"debug log --data-dir nowhere", "nowhere is no data directory of a node: it has no identity.json"},
		{"debug hash --data-dir nowhere", "nowhere is no data directory of a node"},
		{"server --config nowhere.toml", "nowhere.toml"},
		{"server --config broken.toml", "addrs"},
		{"cert ca --cluster Capital", `"Capital"`},
		{"cert node n1", "no CA in certs: run 'manykv cert ca --dir certs --cluster NAME' first"},
		{"cert client app --addr n1:7400 --dir nowhere", "no CA in nowhere: run 'manykv cert ca --dir nowhere --cluster NAME' first"},
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
		{"get-many --help", "The output always is such lines (NDJSON)."},
		{"get-many --help", "in calls of at most 1,000 keys"},
		{"bucket create --help", "1 failed, also because of a bucket's name, a key or a value\nthat is not allowed"},
		{"set --help", "1 failed, also because of a bucket's name, a key or a value\nthat is not allowed"},
		{"status --help", "0 every node answers and every shard has a leader"},
		{"bench --help", "takes room in the nodes' logs"},
		{"import --help", "larger than 8388608 bytes"},
		{"server --help", "the most there can be, 8388608"},
		{"help bucket create", "Make a bucket: a namespace"},
		{"keys --help", "18446744073709551615"},
		{"incr --help", "incr stats visits -5"},
		{"cas --help", "3 the key has another version"},
		{"export --help", "It is not a snapshot"},
		{"export --help", "goes on with it"},
		{"import --help", "a line of at most 64 MiB"},
		{"import --help", "removes STATE-FILE"},
		{"bucket delete --help", "There is no way back."},
		{"get --help", `{"key":"k","value":"text","version":17}`},
		{"status --help", "+n4=7 is a\nreplica that is being filled"},
		{"node add --help", "manykv node add 10.0.0.4:7400"},
		{"node remove --help", "--yes is\nneeded: each shard has one copy less"},
		{"node replace --help", "it must never be started again"},
		{"node replace --help", "NAME leaves it"},
		{"node list --help", "waiting, for one that has\nstarted"},
		{"debug log --help", "only such are printed unless --all is given"},
		{"debug hash --help", "manykv debug hash --online"},
		{"server --help", "--journal-bytes"},
		{"version", runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n"},
		{"completion bash", "bash completion V2 for manykv"},
	} {
		r := runHere(t, nil, strings.Fields(c.line)...)
		if r.code != 0 || !strings.Contains(r.stdout, c.says) || r.stderr != "" {
			t.Errorf("%q: got exit code %d,\n%s%s\nwant 0 and %q", c.line, r.code, r.stdout, r.stderr, c.says)
		}
	}
}

func TestTheBuildIsDescribedAsItWasStamped(t *testing.T) {
	built := " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	stamped := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}
	stamped.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.modified", Value: "false"}}
	modified := &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}
	modified.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.modified", Value: "true"}}
	for _, c := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "manykv (devel)" + built},
		{&debug.BuildInfo{}, "manykv (devel)" + built},
		{stamped, "manykv v1.2.3 (commit c0ffee)" + built},
		{modified, "manykv (devel) (commit c0ffee, modified)" + built},
	} {
		if got := describeBuild(c.info); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestHintsAreForTheCommandThatFailed: what is suggested must be possible.
func TestHintsAreForTheCommandThatFailed(t *testing.T) {
	none := fmt.Errorf("%w: no bucket", kv.ErrNoSuchStore)
	for _, c := range []struct {
		line    string
		err     error
		reached bool
		want    string
	}{
		{"get files k", none, true, "'manykv bucket create files' makes it"},
		{"set files k v", none, true, "'manykv bucket create files' makes it, and so does --create"},
		{"import files dir", none, true, "'manykv bucket create files' makes it, and so does --create"},
		{"import files dir --verify-only", none, true, "'manykv bucket create files' makes it"},
		{"get a:b k", none, true, ""},
		{"get files k", kv.ErrUnavailable, true, "'manykv status' shows which nodes and shards answer"},
		{"get files k", kv.ErrUnavailable, false, ""},
		{"bucket create files", hinted{kv.ErrExists, "a hint of its own"}, true, "a hint of its own"},
	} {
		p, _, _ := newProgram("")
		cmd, rest, err := p.root().Find(strings.Fields(c.line))
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.reached = c.reached
		if got := p.hint(cmd, c.err); got != c.want {
			t.Errorf("%s: %v: got the hint %q, want %q", c.line, c.err, got, c.want)
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
