package cluster

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

var twoNodes = founding{
	Cluster: 0x0102030405060708,
	Nodes:   []sharding.Node{{ID: "n1", Storage: 1, Addr: "h:1"}, {ID: "n2", Storage: 2, Addr: "h:2"}},
	Shards:  4, Replicas: 3,
}

const twoNodesBytes = "01" + "0102030405060708" +
	"02" + "026e31" + "0000000000000001" + "03683a31" + "026e32" + "0000000000000002" + "03683a32" +
	"04" + "03"

// A round trip hides an error made on both sides; these bytes do not.
func TestGoldenBytes(t *testing.T) {
	me := sharding.Node{ID: "n1", Storage: 1, Addr: "h:1"}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"founding", twoNodes.append(nil), twoNodesBytes},
		{"hello of an empty node", hello{Node: me, Expect: 3}.append(nil), "01" + "01" + "026e31" + "0000000000000001" + "03683a31" + "03" + "00"},
		{"hello of a member", hello{Node: me, Founded: &twoNodes}.append(nil), "01" + "01" + "026e31" + "0000000000000001" + "03683a31" + "00" + "01" + twoNodesBytes},
		{"asks", appendAsks(nil, "n1@7", []ask{{1, 2}, {0x10203, 4}}), "01" + "046e314037" + "02" + "00000001" + "0000000000000002" + "00010203" + "0000000000000004"},
		{"verdict", verdict{verdictStep, "so"}.append(nil), "01" + "01" + "02736f"},
		{"order", appendOrder(nil, 3, 0x10203), "01" + "00000003" + "0000000000010203"},
		{"who", appendWho(nil, "n1@7", 3), "01" + "046e314037" + "00000003"},
		{"progress", progress{newcomer: true, commit: 0x102}.append(nil), "01" + "01" + "0000000000000102"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func FuzzWire(f *testing.F) {
	golden, err := hex.DecodeString(twoNodesBytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(hello{Node: twoNodes.Nodes[0], Founded: &twoNodes}.append(nil))
	f.Add(appendAsks(nil, "n1@0000000000000001", []ask{{1, 2}}))
	f.Add(verdict{verdictWait, "why"}.append(nil))
	f.Add(appendOrder(nil, 1, 2))
	f.Add(appendWho(nil, "n1@0000000000000001", 1))
	f.Add(progress{commit: 1}.append(nil))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeFounding(b); err == nil {
			if again, err := decodeFounding(got.append(nil)); err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("founding %+v became %+v, %v", got, again, err)
			}
		}
		if h, err := decodeHello(b); err == nil {
			if again, err := decodeHello(h.append(nil)); err != nil || !reflect.DeepEqual(again, h) {
				t.Errorf("hello %+v became %+v, %v", h, again, err)
			}
		}
		if _, asks, err := decodeAsks(b); err == nil && 12*len(asks) > len(b) {
			t.Errorf("%d asks of %d bytes", len(asks), len(b))
		}
		if v, err := decodeVerdict(b); err == nil {
			if again, err := decodeVerdict(v.append(nil)); err != nil || again != v {
				t.Errorf("verdict %+v became %+v, %v", v, again, err)
			}
		}
		if s, number, err := decodeOrder(b); err == nil && !bytes.Equal(appendOrder(nil, s, number), b) {
			t.Errorf("order %x is shard %d, %d", b, s, number)
		}
		if p, err := decodeProgress(b); err == nil && !bytes.Equal(p.append(nil), b) {
			t.Errorf("progress %x is %+v", b, p)
		}
		if server, s, err := decodeWho(b); err == nil && len(server) > len(b) {
			t.Errorf("%x asks %s for shard %d", b, server, s)
		}
		decodeIdentity(b) // must not panic
	})
}

// What raft says, and what a caller may believe.
func TestOutcomes(t *testing.T) {
	applied := fsm.Result{}
	for _, c := range []struct {
		err      error
		response any
		outcome  kv.Outcome
		code     kv.Code
	}{
		{nil, applied, kv.OutcomeApplied, kv.CodeOK},
		{nil, fsm.Result{Err: fsm.ErrNotOwner}, kv.OutcomeNotApplied, kv.CodeUnavailable},
		{nil, fsm.Result{Err: kv.ErrInvalid}, kv.OutcomeNotApplied, kv.CodeInvalid},
		{nil, fsm.Result{Err: kv.ErrExists}, kv.OutcomeNotApplied, kv.CodeExists},
		{nil, fsm.Result{Err: fsm.ErrClosed}, kv.OutcomeUnknown, kv.CodeUnknown},
		{nil, nil, kv.OutcomeUnknown, kv.CodeUnknown},
		{raft.ErrNotLeader, nil, kv.OutcomeNotApplied, kv.CodeUnavailable},
		{raft.ErrLeadershipTransferInProgress, nil, kv.OutcomeNotApplied, kv.CodeUnavailable},
		{raft.ErrEnqueueTimeout, nil, kv.OutcomeNotApplied, kv.CodeUnavailable},
		{raft.ErrLeadershipLost, nil, kv.OutcomeUnknown, kv.CodeUnknown},
		{raft.ErrRaftShutdown, nil, kv.OutcomeUnknown, kv.CodeUnknown},
		{raft.ErrAbortedByRestore, nil, kv.OutcomeUnknown, kv.CodeUnknown},
		{errors.New("unable to store logs within log store"), nil, kv.OutcomeUnknown, kv.CodeUnknown},
		{t.Context().Err(), nil, kv.OutcomeUnknown, kv.CodeUnknown},
	} {
		if got := outcomeOf(c.err, c.response); got.Outcome != c.outcome || got.Code != c.code {
			t.Errorf("%v, %v: %v, code %d; want %v, %d", c.err, c.response, got.Outcome, got.Code, c.outcome, c.code)
		}
	}
	if got := (coordinator.Result{}).Outcome; got != kv.OutcomeUnknown {
		t.Errorf("an empty result is %v, want unknown", got)
	}
}

func TestDataDirectory(t *testing.T) {
	path := t.TempDir()
	open := func() (*dataDir, error) { return openDataDir(path, "n1") }
	d, err := open()
	must(t, err)
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opened twice: %v", err)
	}
	storage := d.id.Storage
	id := d.id
	id.Promise, id.Founded = &twoNodes, true
	must(t, d.save(id))
	must(t, d.close())
	for _, name := range storeFiles {
		must(t, os.WriteFile(d.sub(name), nil, 0o600))
	}
	d, err = open()
	must(t, err)
	if d.id.Storage != storage || !d.id.Founded || !reflect.DeepEqual(*d.id.Promise, twoNodes) {
		t.Errorf("read back: %+v", d.id)
	}
	must(t, d.close())

	whole, err := os.ReadFile(filepath.Join(path, identityFile))
	must(t, err)
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"truncated", whole[:10], "truncated"},
		{"a flipped bit", append(bytes.Replace(whole[:len(whole)-1], []byte("n1"), []byte("n2"), 1), '\n'), "checksum"},
		{"empty", nil, "truncated"},
	} {
		must(t, os.WriteFile(filepath.Join(path, identityFile), c.bytes, 0o600))
		if _, err := open(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	must(t, os.Remove(filepath.Join(path, identityFile)))
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "no identity.json") {
		t.Errorf("without identity: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	good := Config{DataDir: "d", Listen: "127.0.0.1:7400"}
	for _, c := range []struct {
		edit func(*Config)
		want string // "" = good
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.DataDir = "" }, "no data directory"},
		{func(c *Config) { c.Listen = "nonsense" }, "want host:port"},
		{func(c *Config) { c.Listen = "" }, "an advertise address"},
		{func(c *Config) { c.Listen = ":7400" }, "an advertise address"},
		{func(c *Config) { c.Listen, c.Advertise = ":7400", "pod-1:7400" }, ""},
		{func(c *Config) { c.Advertise = "nonsense" }, "want host:port"},
		{func(c *Config) { c.Join = []string{"x"} }, "to join"},
		{func(c *Config) { c.BootstrapExpect = 3 }, "no address to join"},
		{func(c *Config) { c.BootstrapExpect = 1 }, ""},
		{func(c *Config) { c.BootstrapExpect = 65 }, "0 to 64"},
		{func(c *Config) { c.Shards = 257 }, "0 (default) to 256"},
		{func(c *Config) { c.LogStore = "tape" }, "want wal or boltdb"},
		{func(c *Config) { c.Limits.ValueBytes = kv.MaxValueBytes + 1 }, "value bytes"},
	} {
		cfg := good
		c.edit(&cfg)
		_, err := cfg.withDefaults()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", cfg, err, c.want)
		}
	}
}
