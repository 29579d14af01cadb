package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// golden entries, and the lines that they are dumped as.
var goldenLines = []struct {
	name   string
	entry  raft.Log
	values bool
	want   string
}{
	{"set", raft.Log{Index: 7, Term: 2, Extensions: []byte{0, 0, 0, 0, 0, 0, 0, 9}, Data: kv.AppendSet(nil, kv.Origin{Client: 3, Seq: 4, Acked: 2, Entry: 1}, 5,
		[]kv.Pair{{Key: "k", Value: []byte("a value of many bytes")}, {Key: "\xff", Value: nil}})}, false,
		`{"shard":0,"generation":0,"index":7,"term":2,"committed":false,"time":9,"kind":"set","bytes":66,"origin":{"client":3,"seq":4,"acked":2,"entry":1},"bucket":5,` +
			`"pairs":[{"key":"k","value":{"bytes":21,"xxhash64":"040f3281828e06bd","begins_hex":"612076616c7565206f66206d616e7920"}},` +
			`{"key_base64":"/w==","value":{"bytes":0,"xxhash64":"ef46db3751d8e999"}}]}`},
	{"values", raft.Log{Index: 8, Term: 2, Data: kv.AppendSwap(nil, kv.Origin{}, 5, 17, kv.Pair{Key: "k", Value: []byte{0, 255}})}, true,
		`{"shard":0,"generation":0,"index":8,"term":2,"committed":false,"kind":"swap","bytes":51,"origin":{"client":0,"seq":0,"acked":0,"entry":0},"bucket":5,"version":17,` +
			`"pairs":[{"key":"k","value":{"bytes":2,"xxhash64":"e0d97d9a03131d7d","base64":"AP8="}}]}`},
	{"delete", raft.Log{Index: 9, Term: 2, Data: kv.AppendDelete(nil, kv.Origin{}, 5, []string{"<k>"})}, false,
		`{"shard":0,"generation":0,"index":9,"term":2,"committed":false,"kind":"delete","bytes":43,"origin":{"client":0,"seq":0,"acked":0,"entry":0},"bucket":5,"pairs":[{"key":"<k>"}]}`},
	{"increment", raft.Log{Index: 10, Term: 2, Data: kv.AppendIncrement(nil, kv.Origin{}, 5, "k", -3)}, false,
		`{"shard":0,"generation":0,"index":10,"term":2,"committed":false,"kind":"increment","bytes":48,"origin":{"client":0,"seq":0,"acked":0,"entry":0},"bucket":5,"delta":-3,"pairs":[{"key":"k"}]}`},
	{"bundle", raft.Log{Index: 10, Term: 2, Data: kv.AppendBundle(nil, [][]byte{
		kv.AppendDelete(nil, kv.Origin{}, 5, []string{"a"}), kv.AppendDelete(nil, kv.Origin{}, 6, []string{"b"}),
	})}, false,
		`{"shard":0,"generation":0,"index":10,"term":2,"committed":false,"kind":"delete","bytes":41,"command":1,"commands":2,` +
			`"origin":{"client":0,"seq":0,"acked":0,"entry":0},"bucket":5,"pairs":[{"key":"a"}]}` + "\n" +
			`{"shard":0,"generation":0,"index":10,"term":2,"committed":false,"kind":"delete","bytes":41,"command":2,"commands":2,` +
			`"origin":{"client":0,"seq":0,"acked":0,"entry":0},"bucket":6,"pairs":[{"key":"b"}]}`},
	{"half a bundle", raft.Log{Index: 1, Term: 2, Data: kv.AppendHeader(nil, kv.KindBundle)}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"bundle","bytes":2,"error":"`},
	{"lead", raft.Log{Index: 1, Term: 2, Data: kv.AppendLead(nil, 0, 9)}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"lead","bytes":6}`},
	{"catalogue", raft.Log{Index: 1, Term: 2, Data: kv.AppendHeader(nil, kv.KindNewClient)}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"new-client","bytes":2}`},
	{"raft's own", raft.Log{Index: 1, Term: 2, Type: raft.LogNoop}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"raft:LogNoop","bytes":0}`},
	{"a kind of later", raft.Log{Index: 1, Term: 2, Data: []byte{kv.CommandVersion, 99}}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"kind 99","bytes":2}`},
	{"cut short", raft.Log{Index: 1, Term: 2, Data: kv.AppendHeader(nil, kv.KindSet)}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"set","bytes":2,"error":"`},
	{"nothing", raft.Log{Index: 1, Term: 2}, false,
		`{"shard":0,"generation":0,"index":1,"term":2,"committed":false,"kind":"unreadable","bytes":0,"error":"`},
}

func TestEntriesAreDumpedAsDocumented(t *testing.T) {
	for _, g := range goldenLines {
		var out bytes.Buffer
		lines := json.NewEncoder(&out)
		lines.SetEscapeHTML(false)
		for _, line := range newLogLines(&g.entry, g.values) {
			must(t, lines.Encode(line))
		}
		if got := out.String(); !strings.HasPrefix(got, g.want) || !strings.HasSuffix(g.want, `"error":"`) && got != g.want+"\n" {
			t.Errorf("%s: got\n%s\nwant\n%s", g.name, got, g.want)
		}
	}
}

// TestEveryKindHasAWord: all that package kv declares, also one that is added.
func TestEveryKindHasAWord(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "kv", "command.go"), nil, 0)
	must(t, err)
	kinds := make(map[kv.Kind]string)
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if kind, ok := v.Type.(*ast.Ident); ok && kind.Name == "Kind" {
			number, err := strconv.ParseUint(v.Values[0].(*ast.BasicLit).Value, 10, 8)
			must(t, err)
			kinds[kv.Kind(number)] = v.Names[0].Name
		}
		return true
	})
	if kinds[kv.KindSet] != "KindSet" || kinds[kv.KindAbort] != "KindAbort" {
		t.Fatalf("got the kinds %v, want those of package kv", kinds)
	}
	words := make(map[string]kv.Kind)
	for kind, name := range kinds {
		word := kindNames[kind]
		if _, twice := words[word]; word == "" || twice {
			t.Errorf("kv.%s: got the word %q, want one of its own", name, word)
		}
		words[word] = kind
	}
	if len(kindNames) != len(kinds) {
		t.Errorf("got words for %d kinds, want %d", len(kindNames), len(kinds))
	}
}

// FuzzDumpEntry: whatever a log holds is lines.
func FuzzDumpEntry(f *testing.F) {
	for _, g := range goldenLines {
		f.Add(g.entry.Data, g.entry.Extensions, uint8(g.entry.Type))
	}
	f.Fuzz(func(t *testing.T, data, extensions []byte, kind uint8) {
		lines := newLogLines(&raft.Log{Index: 1, Data: data, Extensions: extensions, Type: raft.LogType(kind)}, true)
		if len(lines) == 0 {
			t.Fatal("got no line")
		}
		for _, line := range lines {
			b, err := json.Marshal(line)
			if err != nil || line.Kind == "" || !json.Valid(b) {
				t.Fatalf("got %s, %v, want a line that says what it is", b, err)
			}
		}
	})
}

// dump is the lines of a node's log.
func dump(t *testing.T, dir string, o DumpOptions) (lines []logLine) {
	t.Helper()
	var out bytes.Buffer
	left, err := DumpLog(dir, o, &out)
	must(t, err)
	if o.All && left > 0 {
		t.Errorf("%d entries are left out of all", left)
	}
	for d := json.NewDecoder(&out); d.More(); {
		var line logLine
		must(t, d.Decode(&line))
		lines = append(lines, line)
	}
	return lines
}

func TestARestingNodeIsRead(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"wal", "boltdb"} {
		t.Run(store, func(t *testing.T) {
			c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join, cfg.LogStore = nil, store })
			c.start(0)
			b := bucket(t, c.client(c.clientConfig()), "files")
			pairs := somePairs(100, "alone")
			must(t, b.SetMany(t.Context(), pairs))
			dir := c.cfgs[0].DataDir
			if _, err := DumpLog(dir, DumpOptions{}, os.Stderr); err == nil || !strings.Contains(err.Error(), "in use by another process") {
				t.Errorf("of a node that runs: %v, want that it is in use", err)
			}
			if _, err := HashStore(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), "in use by another process") {
				t.Errorf("of a node that runs: %v, want that it is in use", err)
			}
			var live []ShardHash
			for s := range sharding.Shard(3) {
				h, err := c.nodes[0].replica(s).machine.Hash(t.Context())
				must(t, err)
				live = append(live, ShardHash{Shard: s, Index: h.Index, Rows: h.Rows})
			}
			c.stop(0)

			keys := make(map[string]bool)
			bounds := make(map[sharding.Shard]uint64)
			for _, line := range dump(t, dir, DumpOptions{LogStore: store}) {
				if !line.Committed || line.Index != bounds[line.Shard]+1 || line.Error != "" {
					t.Errorf("after entry %d of shard %d: got %+v, want the next, committed", bounds[line.Shard], line.Shard, line)
				}
				bounds[line.Shard] = line.Index
				for _, p := range line.Pairs {
					keys[*p.Key] = true
				}
			}
			if len(keys) != len(pairs) {
				t.Errorf("got %d keys, want %d", len(keys), len(pairs))
			}
			one := sharding.Shard(1)
			for _, line := range dump(t, dir, DumpOptions{LogStore: store, Shard: &one, From: 2, To: 3}) {
				if line.Shard != 1 || line.Index < 2 || line.Index > 3 {
					t.Errorf("got %+v, want entries 2 and 3 of shard 1", line)
				}
			}

			hashes, err := HashStore(t.Context(), dir, nil)
			must(t, err)
			if len(hashes) != len(live) {
				t.Fatalf("got %+v, want the hashes of %d shards", hashes, len(live))
			}
			for i, h := range hashes {
				if h.Shard != live[i].Shard || h.Index < live[i].Index || h.Rows < live[i].Rows || h.Index != bounds[h.Shard] {
					t.Errorf("got %+v, want as much as while it ran, %+v, and all of the log", h, live[i])
				}
			}
			again, err := HashStore(t.Context(), dir, &one)
			if err != nil || len(again) != 1 || again[0] != hashes[1] {
				t.Errorf("got %+v, %v, want %+v again: reading changes nothing", again, err, hashes[1])
			}
			// What was written while it was looked at is no harm to the node.
			c.start(0)
			expect(t, "after it was read", c.through(0, "files"), pairs)
		})
	}
}

// TestEntriesBeyondTheStateAreNotKnownToBeCommitted: they are shown on request.
func TestEntriesBeyondTheStateAreNotKnownToBeCommitted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join, cfg.Shards = nil, 1 })
	c.start(0)
	b := bucket(t, c.client(c.clientConfig()), "files")
	must(t, b.SetMany(t.Context(), somePairs(10, "flushed")))
	c.stop(0)
	committed := len(dump(t, c.cfgs[0].DataDir, DumpOptions{}))
	store := filepath.Join(c.dir, "store")
	must(t, os.CopyFS(store, os.DirFS(filepath.Join(c.cfgs[0].DataDir, storeDir))))
	c.start(0)
	b, err := c.client(c.clientConfig()).Bucket(t.Context(), "files")
	must(t, err)
	must(t, b.SetMany(t.Context(), somePairs(10, "lost by the state")))
	c.stop(0)
	// The state of before: what a crash leaves when nothing was flushed since.
	must(t, errors.Join(os.RemoveAll(filepath.Join(c.cfgs[0].DataDir, storeDir)), os.Rename(store, filepath.Join(c.cfgs[0].DataDir, storeDir))))
	if got := len(dump(t, c.cfgs[0].DataDir, DumpOptions{})); got != committed {
		t.Errorf("got %d entries known to be committed, want the %d of before", got, committed)
	}
	later := 0
	for _, line := range dump(t, c.cfgs[0].DataDir, DumpOptions{All: true}) {
		if !line.Committed {
			later++
		}
	}
	if later == 0 {
		t.Error("got none that is not known to be committed, want those of the second round")
	}
}

func TestWhatIsNoNodesDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := DumpLog(dir, DumpOptions{}, os.Stderr); err == nil || !strings.Contains(err.Error(), "has no identity.json") {
		t.Errorf("of an empty directory: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, identityFile), []byte("nonsense that is long enough"), 0o600))
	if _, err := HashStore(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("of a damaged identity: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want nothing made in what is no node's directory", entries, err)
	}
}
