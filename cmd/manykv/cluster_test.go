package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/load"
)

// TestALocalCluster is the life of one, in the order of a user's first day.
func TestALocalCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	s := &site{t, t.TempDir()}
	monitor := takeTCPPorts(t, 3)
	up := s.background("up", "--port", strconv.Itoa(takePort(t)), "--http", strconv.Itoa(monitor))
	up.says("The cluster serves, until Ctrl-C.")
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s *site)
	}{
		{"one key", testOneKey},
		{"many keys", testManyKeys},
		{"numbers and versions", testNumbersAndVersions},
		{"listing and deleting", testListingAndDeleting},
		{"export and import", testExportAndImport},
		{"bad input", testBadInput},
		{"the same directory and port twice", testTwice},
		{"import", testImport},
		{"bench and status", testBenchAndStatus},
		{"wasm guests", testWasm},
		{"metrics and health", func(t *testing.T, s *site) { testMetricsAndHealth(t, s, monitor) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, &site{t, s.dir}) })
	}
	t.Run("watch", func(t *testing.T) { testWatch(t, &site{t, s.dir}) })
	t.Run("a node joins and leaves", func(t *testing.T) { testNodeJoinsAndLeaves(t, &site{t, s.dir}) })
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

// slowCall is a --timeout for MiB with the race detector on a slow machine.
const slowCall = "1m"

func testNumbersAndVersions(t *testing.T, s *site) {
	s.expect(0, "1\n", "incr", "stats", "visits", "--create")
	s.expect(0, "8\n", "incr", "stats", "visits", "7")
	s.expect(0, "-5\n", "incr", "stats", "visits", "-13", "--through")
	s.expect(0, "-5", "get", "stats", "visits")
	s.must("", "set", "stats", "visits", "-1")
	s.expect(0, "-3\n", "incr", "stats", "visits", "-2")
	s.must("", "set", "stats", "text", "7 or so")
	s.run("", "incr", "stats", "text").mustFail(t, exitFailed, "invalid")
	s.expect(0, "7 or so", "get", "stats", "text")
	s.must("", "set", "stats", "most", "9223372036854775807")
	s.run("", "incr", "stats", "most").mustFail(t, exitFailed, "invalid")
	s.run("", "incr", "nowhere", "k").mustFail(t, exitFailed, "so does --create")

	first := strings.TrimSpace(s.must("", "cas", "stats", "lock", "mine", "--absent"))
	s.expect(0, `{"key":"lock","value":"mine","version":`+first+"}\n", "get", "stats", "lock", "--with-version")
	s.run("", "cas", "stats", "lock", "yours", "--absent").mustFail(t, exitConflict, "conflict: the key has version "+first+",")
	second := strings.TrimSpace(s.must("\x00\xff", "cas", "stats", "lock", "-", "--version", first, "--through"))
	s.run("", "cas", "stats", "lock", "late", "--version", first).mustFail(t, exitConflict, "the key has version "+second+",")
	s.expect(0, `{"key":"lock","value_base64":"AP8=","version":`+second+"}\n", "get", "stats", "lock", "--with-version")
	s.run("", "cas", "stats", "nobody", "v", "--version", "1").mustFail(t, exitConflict, "the key has version 0,")
	s.run("", "get", "stats", "nobody", "--with-version").mustFail(t, exitFailed, "not found")

	large := strings.Repeat("large", kv.MaxValueBytes/5) // in many pieces
	s.must(large, "cas", "stats", "large", "-", "--absent", "--timeout", slowCall)
	if got := s.must("", "get", "stats", "large", "--timeout", slowCall); got != large {
		t.Errorf("got %d other bytes, want %d", len(got), len(large))
	}
}

// sortedLines are the lines of a text, which ends with one.
func sortedLines(text string) []string { return slices.Sorted(strings.Lines(text)) }

func testListingAndDeleting(t *testing.T, s *site) {
	var input strings.Builder
	var want []string
	for i := range 2*batchKeys + 1 {
		fmt.Fprintf(&input, "{\"key\":\"listed %d\",\"value\":\"%d\"}\n", i, i)
		want = append(want, fmt.Sprintf("listed %d\n", i))
	}
	input.WriteString(`{"key":"two\nlines","value":"odd"}` + "\n")
	want = append(want, `"two\nlines"`+"\n")
	slices.Sort(want)
	s.must(input.String(), "set-many", "listed", "--create")
	whole := s.must("", "keys", "listed")
	if got := sortedLines(whole); !slices.Equal(got, want) {
		t.Errorf("got %d keys, want %d", len(got), len(want))
	}
	if got := s.must(whole, "get-many", "listed", "-"); !slices.Equal(sortedLines(got), sortedLines(input.String())) {
		t.Errorf("got other values than were set")
	}
	if got := s.must("", "keys", "listed", "--json", "--limit", "1"); !strings.HasPrefix(got, `"`) || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q, want one JSON string", got)
	}
	paged, args := "", []string{"keys", "listed", "--limit", "700", "--through"}
	for {
		r := s.run("", args...)
		paged += r.stdout
		cursor, more := strings.CutSuffix(strings.TrimPrefix(r.stderr, "--cursor "), " goes on\n")
		if r.code != 0 || !more {
			break
		}
		args = []string{"keys", "listed", "--limit", "700", "--through", "--cursor", cursor}
	}
	if paged != whole {
		t.Errorf("got %d bytes in pages, want the %d of the whole", len(paged), len(whole))
	}

	s.run("listed\n", "bucket", "delete", "listed").mustFail(t, exitUsage, "--yes is needed")
	s.expect(0, "", "bucket", "delete", "listed", "--yes")
	s.run("", "keys", "listed").mustFail(t, exitFailed, "no such store")
	s.run("", "bucket", "delete", "listed", "--yes").mustFail(t, exitFailed, "hint: 'manykv bucket list'")
	s.must("", "bucket", "create", "listed")
	s.expect(0, "", "keys", "listed") // another bucket of that name
	s.must("", "bucket", "delete", "listed", "--yes", "--through")
	s.expect(0, "another\nfiles\nstats\n", "bucket", "list")
}

func testExportAndImport(t *testing.T, s *site) {
	const n = 20_000
	var input strings.Builder
	for i := range n {
		fmt.Fprintf(&input, "{\"key\":\"k%d\",\"value\":\"%d\"}\n", i, i)
	}
	input.WriteString(`{"key":"binary","value_base64":"AP8="}` + "\n")
	writeFile(t, s.dir, "in.ndjson", []byte(input.String()))

	// An import that is killed goes on where it was.
	imports := s.background("import", "imported", "in.ndjson", "--create", "--resume", "state")
	state := filepath.Join(s.dir, "state")
	for {
		if _, err := os.Stat(state); err == nil {
			break
		}
		select {
		case <-imports.exited:
			text, _ := imports.out.read()
			t.Fatalf("the import ended without a state file:\n%s", text)
		case <-time.After(time.Millisecond): // between two looks at a real process
		}
	}
	imports.ends(syscall.SIGKILL)
	r := s.run("", "import", "imported", "in.ndjson", "--resume", "state")
	if r.code != 0 || !strings.Contains(r.stderr, "going on after line ") || !strings.HasPrefix(r.stdout, "imported ") {
		t.Errorf("got exit code %d,\n%s%s\nwant it to go on", r.code, r.stdout, r.stderr)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("got a state file of an import that is complete")
	}

	if got := s.must("", "export", "imported", "out.ndjson"); !strings.HasPrefix(got, fmt.Sprintf("exported %d keys, ", n+1)) {
		t.Errorf("got %q, want %d keys", got, n+1)
	}
	out, err := os.ReadFile(filepath.Join(s.dir, "out.ndjson"))
	if err != nil || !slices.Equal(sortedLines(string(out)), sortedLines(input.String())) {
		t.Errorf("got %d bytes, %v, want the lines that were imported", len(out), err)
	}
	s.run("", "export", "imported", "out.ndjson").mustFail(t, exitFailed, "not overwritten")
	if r := s.run("", "export", "imported", "--through"); r.stdout != string(out) || r.code != 0 {
		t.Errorf("got exit code %d and %d bytes on standard output, want the %d of the file", r.code, len(r.stdout), len(out))
	}
	s.must("", "import", "copied", "out.ndjson", "--create", "--json")
	s.expect(0, "null\n", "get-many", "copied", "none")
	s.expect(0, "19999", "get", "copied", fmt.Sprintf("k%d", n-1))
	s.must("", "bucket", "delete", "copied", "--yes")
	s.must("", "bucket", "delete", "imported", "--yes")
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
	addr := strings.Fields(s.must("", "status"))[10] // of the first node
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
		{[]string{"--config", n1, "--http", ""}, "lock"},
		{[]string{"--config", n1, "--http", "", "--data-dir", t.TempDir()}, "in use"},
		{[]string{"--config", n1, "--http", "", "--name", "n9", "--data-dir", t.TempDir()}, `"n9"`},
		{[]string{"--config", n1}, "http: listen tcp "},
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
	first := strings.Fields(s.must("", "status"))[10]
	if sum.Verify.Through == first {
		t.Errorf("got compared through %s, want another node than the one used", first)
	}

	writeFile(t, dir, "3/3", []byte("changed"))
	writeFile(t, dir, "new", nil)
	r := s.run("", "import", "tree", "tree", "--verify-only", "--verify-addr", first)
	if r.code != exitFailed || !strings.Contains(r.stderr, "  3/3: the file has 7 bytes") || !strings.Contains(r.stderr, "  new: no such key") || lastLine(r.stderr) != "manykv: 2 files differ" {
		t.Errorf("got exit code %d and\n%s\nwant %d and the two files", r.code, r.stderr, exitFailed)
	}
	writeFile(t, dir, "too-large", make([]byte, kv.MaxValueBytes+1))
	r = s.run("", "import", "tree", "tree", "--verify")
	if r.code != exitFailed || !strings.Contains(r.stdout, "imported 1202 files") || !strings.Contains(r.stderr, "  too-large: ") || lastLine(r.stderr) != "manykv: 1 file was skipped" {
		t.Errorf("got exit code %d,\n%s%s\nwant %d, and all but one imported", r.code, r.stdout, r.stderr, exitFailed)
	}
	s.run("", "import", "tree", "tree", "--verify-only", "--verify-addr", "127.0.0.1:1", "--timeout", "200ms").mustFail(t, exitFailed, "127.0.0.1:1")
}

func testBenchAndStatus(t *testing.T, s *site) {
	var report benchReport
	got := s.must("", "bench", "--duration", "100ms", "--keys", "500", "--callers", "2", "--json")
	if err := json.Unmarshal([]byte(got), &report); err != nil || len(report.Results) != len(load.Ops) {
		t.Fatalf("got %s, %v, want a result of each of %v", got, err, load.Ops)
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
	if len(v.Nodes) != 3 || len(v.Shards) != 7 || len(v.missing(nil, &view{})) != 0 {
		t.Errorf("got %+v, want three nodes and six shards, and nothing missing", v)
	}
	for _, n := range v.Nodes {
		if n.JournalBytes == 0 || n.StoreBytes == 0 || n.MemoryBytes == 0 || n.Storage == "" {
			t.Errorf("got %+v, want what its journal, store and memory take", n)
		}
	}
	var hashes []replicaHash
	got = s.must("", "debug", "hash", "--online", "--json")
	if err := json.Unmarshal([]byte(got), &hashes); err != nil || len(hashes) != 3*7 {
		t.Errorf("got %s, %v, want the hashes of three replicas of seven shards", got, err)
	}
	if got := s.must("", "debug", "hash", "--online", "--shard", "2"); strings.Count(got, "\n") != 1+3 {
		t.Errorf("got\n%s\nwant three replicas of shard 2", got)
	}
	s.run("", "debug", "hash", "--online", "--shard", "9").mustFail(t, exitFailed, "there is no shard 9, want 0 to 6")
	for _, shard := range v.Shards {
		if len(shard.Replicas) != 3 {
			t.Errorf("got %+v, want three replicas", shard)
		}
	}
}

func testWatch(t *testing.T, s *site) {
	watch := s.background("status", "--watch=100ms")
	watch.says("LAG")
	for {
		text, changed := watch.out.read()
		if strings.Count(text, "LAG") >= 3 {
			break
		}
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("it has not shown three tables after %v:\n%s", patience, text)
		}
	}
	if code := watch.ends(syscall.SIGINT); code != 0 {
		text, _ := watch.out.read()
		t.Errorf("got exit code %d, want 0 after SIGINT\n%s", code, text)
	}
}

// addr is where a node listens, in its own words.
func (p *process) addr(node string) string {
	p.t.Helper()
	p.says("msg=\"node started\" node=" + node)
	p.says(" version=")
	text, _ := p.out.read()
	_, text, _ = strings.Cut(text, " node="+node+" addr=")
	addr, _, _ := strings.Cut(text, " ")
	return addr
}

// nodeList is the states of the nodes and how many replicas they hold.
func (s *site) nodeList() (states map[string]string, replicas map[string]int) {
	s.t.Helper()
	var nodes []listedNode
	if err := json.Unmarshal([]byte(s.must("", "node", "list", "--json")), &nodes); err != nil {
		s.t.Fatal(err)
	}
	states, replicas = make(map[string]string), make(map[string]int)
	for _, n := range nodes {
		states[string(n.Node)], replicas[string(n.Node)] = n.State, n.Replicas
	}
	return states, replicas
}

// joins starts a node with a certificate of its own, which waits to be added.
func (s *site) joins(name string) (p *process, addr string) {
	s.t.Helper()
	certs := filepath.Join(defaultDir, certsDir)
	s.must("", "cert", "node", "--dir", certs, name)
	p = s.background("server", "--data-dir", name, "--listen", net.JoinHostPort(loopback, "0"), "--join", strings.Fields(s.must("", "status"))[10],
		"--ca-file", filepath.Join(certs, "ca.crt"), "--gossip-key-file", filepath.Join(certs, "gossip.key"),
		"--cert-file", filepath.Join(certs, name+".crt"), "--key-file", filepath.Join(certs, name+".key"))
	addr = p.addr(name)
	deadline := time.Now().Add(patience)
	for states, _ := s.nodeList(); states[name] != "waiting"; states, _ = s.nodeList() {
		if time.Now().After(deadline) {
			s.t.Fatalf("got %v after %v, want %s to wait", states, patience, name)
		}
	}
	return p, addr
}

func testNodeJoinsAndLeaves(t *testing.T, s *site) {
	n4, addr := s.joins("n4")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	alias := net.JoinHostPort("localhost", port) // not as it calls itself

	if r := s.run("", "node", "add", alias, "--within", patience.String()); r.code != 0 || r.stdout != "" { // progress may be shown
		t.Fatalf("got %+v, want it done, and nothing on standard output", r)
	}
	if states, replicas := s.nodeList(); states["n4"] != "active" || replicas["n4"] < 4 {
		t.Errorf("got n4 %s with %d replicas, want it active with its share of 18", states["n4"], replicas["n4"])
	}
	s.must("", "status", "--wait", patience.String())
	s.expect(0, "of the empty key", "get", "files", "", "--addr", addr, "--through")
	again := "the node at " + alias + " was of the cluster already\n"
	if r := s.run("", "node", "add", alias, "--within", patience.String()); r.code != 0 || r.stdout != "" || !strings.HasSuffix(r.stderr, again) {
		t.Errorf("got %+v, want %q", r, again)
	}
	n5, addr := s.joins("n5")
	s.must("", "node", "replace", "n4", addr, "--within", patience.String())
	if states, replicas := s.nodeList(); states["n4"] != "waiting" || states["n5"] != "active" || replicas["n5"] < 4 {
		t.Errorf("got n4 %s, n5 %s with %d replicas, want n5 in the place of n4, which runs yet", states["n4"], states["n5"], replicas["n5"])
	}
	s.must("", "node", "remove", "n5", "--within", patience.String())
	if states, _ := s.nodeList(); states["n5"] == "active" || states["n5"] == "leaving" {
		t.Errorf("got n5 %s, want it gone from the cluster", states["n5"])
	}
	for _, n := range []*process{n4, n5} {
		if code := n.ends(syscall.SIGTERM); code != 0 {
			text, _ := n.out.read()
			t.Errorf("got exit code %d, want 0 after SIGTERM\n%s", code, text)
		}
	}
	s.run("", "node", "remove", "n3").mustFail(t, exitUsage, "only 2 nodes would be left")
	s.run("", "node", "remove", "nobody").mustFail(t, exitFailed, "nobody")
	s.must("", "status", "--wait", patience.String())
	s.expect(0, "of the empty key", "get", "files", "")
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
	testNodeIsReplaced(t, s)
}

// testNodeIsReplaced: a node that lost its disk gets the copies of the others.
func testNodeIsReplaced(t *testing.T, s *site) {
	if err := os.RemoveAll(filepath.Join(s.dir, defaultDir, "n3")); err != nil {
		t.Fatal(err)
	}
	n3 := s.background("server", "--config", filepath.Join(defaultDir, "moved.toml"), "--listen", net.JoinHostPort(loopback, "0"))
	s.must("", "node", "replace", "n3", n3.addr("n3"), "--within", patience.String())
	s.must("", "status", "--wait", patience.String())
	s.expect(0, "of the empty key", "get", "files", "")
	if code := n3.ends(syscall.SIGTERM); code != 0 {
		text, _ := n3.out.read()
		t.Errorf("got exit code %d, want 0 after SIGTERM\n%s", code, text)
	}
}

func testRestart(t *testing.T, s *site, up *process) {
	if code := up.ends(syscall.SIGTERM); code != 0 {
		text, _ := up.out.read()
		t.Errorf("got exit code %d, want 0 after SIGTERM\n%s", code, text)
	}
	up.says("stopped 2 nodes\n")
	s.run("", "debug", "log", "--data-dir", filepath.Join(defaultDir, "nowhere")).mustFail(t, exitFailed, "no data directory")
	lines := strings.Split(strings.TrimSpace(s.must("", "debug", "log", "--data-dir", filepath.Join(defaultDir, "n1"), "--shard", "1", "--values")), "\n")
	for _, line := range lines {
		if !strings.HasPrefix(line, `{"shard":1,`) || !json.Valid([]byte(line)) {
			t.Errorf("got %s, want an entry of shard 1", line)
		}
	}
	var hashes []cluster.ShardHash
	if err := json.Unmarshal([]byte(s.must("", "debug", "hash", "--data-dir", filepath.Join(defaultDir, "n1"), "--json")), &hashes); err != nil || len(hashes) != 7 {
		t.Errorf("got %+v, %v, want the hashes of 7 shards", hashes, err)
	}
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
	s.run("", "debug", "log", "--data-dir", filepath.Join(defaultDir, "n1")).mustFail(t, exitFailed, "in use by another process")
	if runtime.GOOS != "linux" {
		return
	}
	pids := []int{s.pid("n1"), s.pid("n2")}
	for _, pid := range pids {
		// Reading another process's takes more than it belonging to us.
		slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
		if err == nil && strings.TrimSpace(string(slack)) != "1000000" {
			t.Errorf("a node's timers may be %s ns late, want 1 ms", strings.TrimSpace(string(slack)))
		}
	}
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
