package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/manykv/manykv/kv"
)

// TestALocalCluster is the life of one, in the order of a user's first day.
func TestALocalCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	s := &site{t, t.TempDir()}
	up := s.background("up", "--port", strconv.Itoa(takePort(t)))
	up.says("The cluster serves, until Ctrl-C.")
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s *site)
	}{
		{"one key", testOneKey},
		{"many keys", testManyKeys},
		{"bad input", testBadInput},
		{"the same directory and port twice", testTwice},
		{"import", testImport},
		{"bench and status", testBenchAndStatus},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, &site{t, s.dir}) })
	}
	t.Run("a node dies and comes back", func(t *testing.T) { testNodeDies(t, &site{t, s.dir}, up) })
	t.Run("restart", func(t *testing.T) { testRestart(t, &site{t, s.dir}, up) })
}

func testOneKey(t *testing.T, s *site) {
	if r := s.exec("text", "set", "files", "a", "-", "--create"); r != (result{}) {
		t.Fatalf("got %+v, want exit code 0 and no word", r)
	}
	if r := s.exec("", "get", "files", "a"); r != (result{stdout: "text"}) {
		t.Errorf("got %+v, want the value and exit code 0", r)
	}
	if r := s.exec("", "exists", "files", "none"); r != (result{code: exitFailed, stdout: "false\n"}) {
		t.Errorf("got %+v, want false and exit code %d", r, exitFailed)
	}
	s.must("\x00\xff\n", "set", "files", "b", "-")
	s.must("", "set", "files", "", "of the empty key")
	s.expect(0, "text", "get", "files", "a")
	s.expect(0, "\x00\xff\n", "get", "files", "b")
	s.expect(0, "of the empty key", "get", "files", "")
	s.expect(0, "true\n", "exists", "files", "a")
	s.expect(exitFailed, "false\n", "exists", "files", "none")
	s.run("", "get", "files", "none").mustFail(t, exitFailed, `key "none" of bucket "files": not found`)
	s.must("", "delete", "files", "a")
	s.must("", "delete", "files", "a") // a missing one is no error
	s.expect(exitFailed, "false\n", "exists", "files", "a")

	s.must("", "bucket", "create", "another")
	s.run("", "bucket", "create", "another").mustFail(t, exitFailed, "already exists")
	s.run("", "bucket", "create", "another").mustFail(t, exitFailed, "hint: --if-missing")
	s.must("", "bucket", "create", "another", "--if-missing", "--through")
	s.expect(0, "another\nfiles\n", "bucket", "list")
	s.expect(0, `["another","files"]`+"\n", "bucket", "list", "--json")
	s.expect(exitFailed, "false\n", "exists", "another", "b") // buckets are apart
}

func testManyKeys(t *testing.T, s *site) {
	s.expect(0, "set 3 keys in 1 call\n", "set-many", "files", "m1=one", "m2=a=b", "m1=last")
	input := `{"key":"m3","value":"ü"}` + "\n" + `{"key":"m4","value_base64":"AP8="}` + "\n"
	if got := s.must(input, "set-many", "files", "--json"); got != `{"calls":1,"applied":2,"not_applied":0,"unknown":0}`+"\n" {
		t.Errorf("got %s", got)
	}
	want := `{"key":"m4","value_base64":"AP8="}` + "\nnull\n" + `{"key":"m1","value":"last"}` + "\n" + `{"key":"m2","value":"a=b"}` + "\n"
	s.expect(0, want, "get-many", "files", "m4", "none", "m1", "m2")
	if got := s.must("m4\nnone\nm1\nm2\n", "get-many", "files", "-", "--through"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.expect(0, "3 keys are gone (1 call)\n", "delete-many", "files", "m1", "m2", "none")
	s.expect(0, "null\nnull\n", "get-many", "files", "m1", "m2")

	var lines, keys strings.Builder
	for i := range 2*batchKeys + 1 {
		fmt.Fprintf(&lines, "{\"key\":\"bulk%d\",\"value\":\"%d\"}\n", i, i)
		fmt.Fprintf(&keys, "bulk%d\n", i)
	}
	if got := s.must(lines.String(), "set-many", "files"); got != "set 2001 keys in 3 calls\n" {
		t.Errorf("got %q", got)
	}
	if got := s.must(keys.String(), "get-many", "files", "-"); got != lines.String() {
		t.Errorf("got %d bytes back, want the %d written", len(got), lines.Len())
	}
	if got := s.must(keys.String(), "delete-many", "files", "-"); got != "2001 keys are gone (3 calls)\n" {
		t.Errorf("got %q", got)
	}
	s.expect(0, "null\n", "get-many", "files", "bulk2000")
	r := s.run(`{"key":"a","value":"1"}`+"\nnonsense\n", "set-many", "files")
	r.mustFail(t, exitFailed, "1 key in 1 call: 1 applied, 0 not applied, 0 unknown; input after them was not sent: line 2: ")
}

func testBadInput(t *testing.T, s *site) {
	long := strings.Repeat("k", 5<<10)
	r := s.run("", "get", "nowhere", "k")
	if want := "manykv: no such store: no bucket \"nowhere\"\nhint: 'manykv bucket create nowhere' makes it\n"; r.code != exitFailed || r.stderr != want {
		t.Errorf("got exit code %d and\n%s\nwant %d and\n%s", r.code, r.stderr, exitFailed, want)
	}
	s.run("", "set", "nowhere", "k", "v").mustFail(t, exitFailed, "hint: 'manykv bucket create nowhere' makes it, and so does --create\n")
	s.run("", "get", "files", long).mustFail(t, exitFailed, "a key of 5120 bytes, at most 4096 are allowed")
	s.run("", "set-many", "files", "a=1", long+"=2").mustFail(t, exitFailed, "0 applied, 2 not applied, 0 unknown")
	s.run("", "set", "files", "\xff", "v").mustFail(t, exitFailed, "not valid UTF-8")
	s.run("", "get-many", "files", "a", "\xff", "--through").mustFail(t, exitFailed, "not valid UTF-8")
	s.run("", "bucket", "create", "a:b").mustFail(t, exitFailed, "':' are not allowed")
	s.run("", "get", "files", "k", "--config", "none.toml").mustFail(t, exitFailed, "none.toml")
	most := kv.Limits{}.WithDefaults().ValueBytes
	s.run(strings.Repeat("v", most+1), "set", "files", "k", "-").mustFail(t, exitFailed, "too large")

	stranger := &site{t, t.TempDir()}
	stranger.run("", "get", "files", "k").mustFail(t, exitUsage, "'manykv up' starts a cluster")
	stranger.must("", "cert", "ca", "--cluster", "local")
	addr := strings.Fields(s.must("", "status"))[7] // of the first node
	stranger.must("", "cert", "client", "eve", "--addr", addr)
	r = stranger.run("", "get", "files", "k", "--config", filepath.Join("certs", clientFile))
	r.mustFail(t, exitFailed, "access denied")
	stranger.must("", "cert", "client", "far", "--addr", "127.0.0.1:1", "--out", "far.toml")
	for _, line := range []string{"status", "status --wait 200ms", "get files k"} {
		r := stranger.run("", append(strings.Fields(line), "--config", "far.toml", "--timeout", "200ms")...)
		r.mustFail(t, exitFailed, "unavailable")
		if strings.Contains(r.stderr, "hint: ") {
			t.Errorf("%s: got\n%s\nwant no hint where nobody can be reached", line, r.stderr)
		}
	}
}

func testTwice(t *testing.T, s *site) {
	s.exec("", "up").mustFail(t, exitFailed, "another 'manykv up' (pid ")
	n1 := filepath.Join(defaultDir, "n1.toml")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--config", n1}, "lock"},
		{[]string{"--config", n1, "--data-dir", t.TempDir()}, "in use"},
		{[]string{"--config", n1, "--name", "n9", "--data-dir", t.TempDir()}, `"n9"`},
	} {
		r := s.exec("", append([]string{"server"}, c.args...)...)
		if last := lastLine(r.stderr); r.code != exitFailed || !strings.HasPrefix(last, "manykv: start node n") || !strings.Contains(last, c.says) {
			t.Errorf("server %v: got exit code %d and\n%s\nwant %d and %q in the last line", c.args, r.code, r.stderr, exitFailed, c.says)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func testImport(t *testing.T, s *site) {
	dir := filepath.Join(s.dir, "tree")
	for i := range 1200 {
		writeFile(t, dir, fmt.Sprintf("%d/%d", i%7, i), fmt.Appendf(nil, "content of %d", i))
	}
	large := strings.Repeat("large", 200_000)
	writeFile(t, dir, "large", []byte(large))
	if got := s.must("", "import", "tree", "tree", "--create", "--verify"); !strings.Contains(got, "imported 1201 files") || !strings.Contains(got, ": 1201 files") {
		t.Errorf("got\n%s\nwant 1201 files imported and compared", got)
	}
	if got := s.must("", "get", "tree", "large"); sha256.Sum256([]byte(got)) != sha256.Sum256([]byte(large)) {
		t.Errorf("got %d other bytes, want %d", len(got), len(large))
	}

	var sum importSummary
	got := s.must("", "import", "tree", "tree", "--verify-only", "--json", "--through")
	if err := json.Unmarshal([]byte(got), &sum); err != nil || sum.Import != nil || sum.Verify == nil || sum.Verify.Files != 1201 {
		t.Fatalf("got %s, %v, want a comparison of 1201 files", got, err)
	}
	first := strings.Fields(s.must("", "status"))[7]
	if sum.Verify.Through == first {
		t.Errorf("got compared through %s, want another node than the one used", first)
	}

	writeFile(t, dir, "3/3", []byte("changed"))
	writeFile(t, dir, "new", nil)
	r := s.run("", "import", "tree", "tree", "--verify-only", "--verify-addr", first)
	if r.code != exitFailed || !strings.Contains(r.stderr, "  3/3: the file has 7 bytes") || !strings.Contains(r.stderr, "  new: no such key") || lastLine(r.stderr) != "manykv: 2 files differ" {
		t.Errorf("got exit code %d and\n%s\nwant %d and the two files", r.code, r.stderr, exitFailed)
	}
	writeFile(t, dir, "too-large", make([]byte, 5<<20))
	r = s.run("", "import", "tree", "tree", "--verify")
	if r.code != exitFailed || !strings.Contains(r.stdout, "imported 1202 files") || !strings.Contains(r.stderr, "  too-large: ") || lastLine(r.stderr) != "manykv: 1 file was skipped" {
		t.Errorf("got exit code %d,\n%s%s\nwant %d, and all but one imported", r.code, r.stdout, r.stderr, exitFailed)
	}
	s.run("", "import", "tree", "tree", "--verify-only", "--verify-addr", "127.0.0.1:1", "--timeout", "200ms").mustFail(t, exitFailed, "127.0.0.1:1")
}

func testBenchAndStatus(t *testing.T, s *site) {
	var report benchReport
	got := s.must("", "bench", "--duration", "100ms", "--keys", "500", "--callers", "2", "--json")
	if err := json.Unmarshal([]byte(got), &report); err != nil || len(report.Results) != len(benchOps) {
		t.Fatalf("got %s, %v, want a result of each of %v", got, err, benchOps)
	}
	for _, r := range report.Results {
		if r.Calls == 0 || r.Errors != 0 || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("got %+v, want calls without errors", r)
		}
	}
	var v view
	if err := json.Unmarshal([]byte(s.must("", "status", "--json", "--wait", patience.String())), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Nodes) != 3 || len(v.Shards) != 7 || len(v.missing(nil)) != 0 {
		t.Errorf("got %+v, want three nodes and six shards, and nothing missing", v)
	}
	for _, shard := range v.Shards {
		if len(shard.Replicas) != 3 {
			t.Errorf("got %+v, want three replicas", shard)
		}
	}
}

func testNodeDies(t *testing.T, s *site, up *process) {
	if err := syscall.Kill(s.pid("n3"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(defaultDir, "n3.toml")
	up.says("ended: signal: killed")
	up.says("this starts it again: manykv server --config " + config)
	if r := s.run("", "status"); r.code != exitFailed || !strings.Contains(r.stdout, "unreachable") || !strings.Contains(r.stderr, "node n3 is unreachable") || strings.Contains(r.stderr, "hint: ") {
		t.Errorf("got exit code %d,\n%s%s\nwant %d, that n3 is unreachable, and no hint", r.code, r.stdout, r.stderr, exitFailed)
	}
	r := s.run("", "status", "--wait", "1s")
	if r.code != exitFailed || !strings.Contains(lastLine(r.stderr), "node n3 is unreachable") || !strings.Contains(r.stdout, "unreachable") {
		t.Errorf("got exit code %d,\n%s%s\nwant %d and that n3 is unreachable", r.code, r.stdout, r.stderr, exitFailed)
	}
	if _, err := os.Stat(filepath.Join(s.dir, defaultDir, "n3.pid")); err == nil {
		t.Error("got a pid file of a process that is gone")
	}
	waits := s.background("status", "--wait", patience.String())
	// Without its name, which the certificate has, and at another address.
	text, err := os.ReadFile(filepath.Join(s.dir, config))
	if err != nil {
		t.Fatal(err)
	}
	nameless := strings.Replace(string(text), "name = 'n3'\n", "", 1)
	if nameless == string(text) {
		t.Fatalf("got no name in\n%s", text)
	}
	writeFile(t, s.dir, filepath.Join(defaultDir, "moved.toml"), []byte(nameless))
	n3 := s.background("server", "--config", filepath.Join(defaultDir, "moved.toml"), "--listen", net.JoinHostPort(loopback, "0"))
	n3.says("msg=\"node started\" node=n3")
	waits.says("SHARD")
	if code := waits.wait(); code != 0 {
		text, _ := waits.out.read()
		t.Errorf("got exit code %d, want 0 when n3 is back elsewhere\n%s", code, text)
	}
	s.expect(0, "of the empty key", "get", "files", "")
	if code := n3.ends(syscall.SIGTERM); code != 0 {
		text, _ := n3.out.read()
		t.Errorf("got exit code %d, want 0 after SIGTERM\n%s", code, text)
	}
	n3.says("node stopped")
}

func testRestart(t *testing.T, s *site, up *process) {
	if code := up.ends(syscall.SIGTERM); code != 0 {
		text, _ := up.out.read()
		t.Errorf("got exit code %d, want 0 after SIGTERM\n%s", code, text)
	}
	up.says("stopped 2 nodes\n")
	s.exec("", "up", "--nodes", "5").mustFail(t, exitUsage, "--nodes 5, but the cluster in .manykv was made with 3")
	s.exec("", "up", "--shards", "9").mustFail(t, exitUsage, "was made with two shards for each node")
	s.background("server", "--config", filepath.Join(defaultDir, "n3.toml")).says("msg=\"node started\" node=n3")
	up = s.background("up")
	up.says("n3 runs already, not under this 'up'\n")
	up.says("The cluster serves, until Ctrl-C.")
	if text, _ := up.out.read(); !strings.Contains(text, "n3.log: start node n3: ") || strings.Contains(text, "starts it again") {
		t.Errorf("got\n%s\nwant why n3 ended, and no word of starting it again", text)
	}
	s.expect(0, "of the empty key", "get", "files", "")
	if runtime.GOOS != "linux" {
		return
	}
	pids := []int{s.pid("n1"), s.pid("n2")}
	up.ends(syscall.SIGKILL)
	for _, pid := range pids {
		gone(t, pid)
	}
}

func TestANewClusterThatCannotFormIsGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	s := &site{t, t.TempDir()}
	// What a node cannot use, in the place of its data directory.
	writeFile(t, s.dir, filepath.Join(defaultDir, "n2"), []byte("a file"))
	r := s.exec("", "up", "--port", strconv.Itoa(takePort(t)))
	if r.code != exitFailed || lastLine(r.stderr) != "manykv: node n2 ended before the cluster served" || !strings.Contains(r.stderr, "n2.log: start node n2: ") || strings.Contains(r.stderr, "starts it again") {
		t.Errorf("got exit code %d and\n%s\nwant %d, and why n2 ended", r.code, r.stderr, exitFailed)
	}
}
