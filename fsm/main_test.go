package fsm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tb is what the tests, the benchmarks and rapid's checks have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

const testDir = "node/fsm"

func openOn(t tb, fs vfs.FS) *Store {
	t.Helper()
	return openWith(t, fs, Config{})
}

// openWith opens a store whose sizes are those of cfg.
func openWith(t tb, fs vfs.FS, cfg Config) *Store {
	t.Helper()
	cfg.Dir, cfg.fs, cfg.Fatal = testDir, fs, func(err error) { t.Errorf("fatal: %v", err) }
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func openMem(t testing.TB) *Store {
	t.Helper()
	s := openOn(t, vfs.NewMem())
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// openCached has a value cache of some bytes, and a write buffer: in one of 1 byte nothing
// has room; a buffer of 0 is the default.
func openCached(t testing.TB, cache, buffer int64) *Store {
	t.Helper()
	s := openWith(t, vfs.NewMem(), Config{ValueCacheBytes: cache, WriteBufferBytes: buffer})
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t tb, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func dataOf(t tb, s *Store, shard sharding.Shard) *Data {
	t.Helper()
	d, err := s.Data(shard)
	if err != nil {
		t.Fatalf("shard %d: %v", shard, err)
	}
	return d
}

// leading returns the machine of a shard that owns every slot; its position is 1.
func leading(t tb, s *Store, shard sharding.Shard) *Data {
	t.Helper()
	d := dataOf(t, s, shard)
	apply(t, d, Entry{Index: 1, Term: 1, Command: kv.AppendLead(nil, 0, sharding.Slots-1)})
	return d
}

type applier interface{ Apply([]Entry) []Result }

// apply applies entries that must all succeed.
func apply(t tb, m applier, entries ...Entry) []Result {
	t.Helper()
	results := m.Apply(entries)
	if len(results) != len(entries) {
		t.Fatalf("%d results of %d entries", len(results), len(entries))
	}
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("entry %d: %v", entries[i].Index, r.Err)
		}
	}
	return results
}

// set is an entry that sets pairs given as key, value, key, value …
func set(index, bucket uint64, keysAndValues ...string) Entry {
	var pairs []kv.Pair
	for i := 0; i < len(keysAndValues); i += 2 {
		pairs = append(pairs, kv.Pair{Key: keysAndValues[i], Value: []byte(keysAndValues[i+1])})
	}
	return Entry{Index: index, Term: 1, Command: kv.AppendSet(nil, kv.Origin{}, bucket, pairs)}
}

func del(index, bucket uint64, keys ...string) Entry {
	return Entry{Index: index, Term: 1, Command: kv.AppendDelete(nil, kv.Origin{}, bucket, keys)}
}

// by is the origin of a call's entry whose client has acknowledged no call.
func by(client, seq uint64, entry uint32) kv.Origin {
	return kv.Origin{Client: client, Seq: seq, Entry: entry}
}

// run1 applies one command as the next entry, at a shard time of 0.
func run1(t tb, d *Data, command []byte) Result { return runAt(t, d, 0, command) }

// runAt applies one command as the next entry.
func runAt(t tb, d *Data, time uint64, command []byte) Result {
	t.Helper()
	results := d.Apply([]Entry{{Index: d.Position().Index + 1, Term: 1, Time: time, Command: command}})
	if len(results) != 1 {
		t.Fatalf("%d results of one entry", len(results))
	}
	return results[0]
}

// wantResult checks the class of a result's error, and its value.
func wantResult(t tb, what string, got Result, value uint64, class error) {
	t.Helper()
	if got.Value != value || !errors.Is(got.Err, class) || class == nil && got.Err != nil {
		t.Errorf("%s: value %d, error %v, want value %d, error %v", what, got.Value, got.Err, value, class)
	}
}

// add is a command that adds to the key "n" of bucket 1.
func add(o kv.Origin, delta int64) []byte { return kv.AppendIncrement(nil, o, 1, "n", delta) }

// rowsOf returns the rows of a tag in a data shard, as dump does.
func rowsOf(t tb, s *Store, shard sharding.Shard, tag byte) []string {
	t.Helper()
	prefix := fmt.Sprintf("%x", numberedKey(shard, tag))
	return slices.DeleteFunc(dump(t, s), func(row string) bool { return !strings.HasPrefix(row, prefix) })
}

// look returns what Get visits, each as "value@version" or "-".
func look(t tb, d *Data, bucket uint64, keys ...string) []string {
	t.Helper()
	got := make([]string, 0, len(keys))
	err := d.Get(bucket, keys, func(i int, value []byte, version uint64, found bool) error {
		switch {
		case i != len(got):
			t.Fatalf("visit %d came as number %d", i, len(got))
		case found:
			got = append(got, fmt.Sprintf("%s@%d", value, version))
		case value != nil || version != 0:
			t.Fatalf("a missing key has value %q, version %d", value, version)
		default:
			got = append(got, "-")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return got
}

// dump returns every row of the store, as hex.
func dump(t tb, s *Store) []string {
	t.Helper()
	if err := s.drain(); err != nil {
		t.Fatalf("drain: %v", err)
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		t.Fatalf("iterator: %v", err)
	}
	var rows []string
	for it.First(); it.Valid(); it.Next() {
		row := hex.AppendEncode(nil, it.Key())
		value := it.Value()
		if len(value) > 1<<10 {
			row = fmt.Appendf(row, " %d bytes", len(value))
			sum := sha256.Sum256(value)
			value = sum[:]
		}
		row = append(row, " = "...)
		rows = append(rows, string(hex.AppendEncode(row, value)))
	}
	if err := it.Close(); err != nil {
		t.Fatalf("scan: %v", err)
	}
	return rows
}
