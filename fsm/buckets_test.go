package fsm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

func TestBuckets(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	c := catalogueOf(t, s)
	results := run(c, 1,
		AppendCreateBucket(nil, "users"),
		AppendCreateBucket(nil, "bad:name"),
		AppendCreateBucket(nil, "users"), // exists in the same batch
		AppendCreateBucket(nil, "größe"),
		append(AppendCreateBucket(nil, "x"), 0))
	for i, want := range []Result{{Value: 1}, {Err: kv.ErrInvalid}, {Err: kv.ErrExists}, {Value: 2}, {Err: kv.ErrInvalid}} {
		if r := results[i]; r.Value != want.Value || !errors.Is(r.Err, want.Err) {
			t.Errorf("create %d: %+v, want %+v", i, r, want)
		}
	}
	closeStore(t, s)

	s = openOn(t, fs)
	defer closeStore(t, s)
	c = catalogueOf(t, s)
	results = run(c, 6, AppendCreateBucket(nil, "users"), AppendCreateBucket(nil, "a"))
	if !errors.Is(results[0].Err, kv.ErrExists) || results[1].Value != 3 {
		t.Errorf("after a restart %+v, want exists and id 3", results)
	}
	names, err := c.Buckets()
	if want := []string{"a", "größe", "users"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("buckets %q (%v), want %q", names, err, want)
	}
	if id, ok, err := c.Bucket("größe"); id != 2 || !ok || err != nil {
		t.Errorf("größe is %d %v %v, want 2", id, ok, err)
	}
	for _, name := range []string{"bad:name", ""} {
		if id, ok, err := c.Bucket(name); ok || err != nil {
			t.Errorf("bucket %q is %d %v %v, want none", name, id, ok, err)
		}
	}
}

// droppings prints what Dropping returns: "1 users: [1 2]".
func droppings(t tb, c *Catalogue) []string {
	t.Helper()
	all, err := c.Dropping()
	if err != nil {
		t.Fatalf("dropping: %v", err)
	}
	texts := make([]string, len(all))
	for i, d := range all {
		texts[i] = fmt.Sprintf("%d %s: %v", d.Bucket, d.Name, d.Shards)
	}
	return texts
}

func TestADeletedBucketIsDroppedByEveryShard(t *testing.T) {
	fs := vfs.NewMem()
	index := uint64(1)
	for i, step := range []struct {
		name     string
		command  []byte
		want     Result
		dropping []string // after it
	}{
		{"found", AppendInit(nil, testMap(t)), Result{}, []string{}},
		{"create", AppendCreateBucket(nil, "users"), Result{Value: 1}, []string{}},
		{"delete another", AppendDeleteBucket(nil, "user", 0), Result{Err: kv.ErrNoSuchStore}, []string{}},
		{"delete what no bucket can be", AppendDeleteBucket(nil, "a:b", 0), Result{Err: kv.ErrInvalid}, []string{}},
		{"delete one of the name before", AppendDeleteBucket(nil, "users", 7), Result{Err: kv.ErrNoSuchStore}, []string{}},
		{"delete", AppendDeleteBucket(nil, "users", 1), Result{Value: 1}, []string{"1 users: [1 2]"}},
		{"delete again", AppendDeleteBucket(nil, "users", 0), Result{Err: kv.ErrNoSuchStore}, []string{"1 users: [1 2]"}},
		{"use the name again", AppendCreateBucket(nil, "users"), Result{Value: 2}, []string{"1 users: [1 2]"}},
		{"a shard drops it", AppendDropped(nil, 1, 2), Result{}, []string{"1 users: [1]"}},
		{"the shard says so again", AppendDropped(nil, 1, 2), Result{}, []string{"1 users: [1]"}},
		{"no shard says so", AppendDropped(nil, 1, 3), Result{}, []string{"1 users: [1]"}},
		{"one of a bucket in use", AppendDropped(nil, 2, 1), Result{}, []string{"1 users: [1]"}},
		{"one of no bucket", AppendDropped(nil, 1<<63, 1), Result{}, []string{"1 users: [1]"}},
		{"delete the new one", AppendDeleteBucket(nil, "users", 0), Result{Value: 2}, []string{"1 users: [1]", "2 users: [1 2]"}},
		{"the last shard drops it", AppendDropped(nil, 1, 1), Result{}, []string{"2 users: [1 2]"}},
		{"the last shard says so again", AppendDropped(nil, 1, 1), Result{}, []string{"2 users: [1 2]"}},
		{"use the name a third time", AppendCreateBucket(nil, "users"), Result{Value: 3}, []string{"2 users: [1 2]"}},
	} {
		s := openOn(t, fs)
		c := catalogueOf(t, s)
		r := run(c, index+uint64(i), step.command)[0]
		if r.Value != step.want.Value || !errors.Is(r.Err, step.want.Err) {
			t.Errorf("%s: %+v, want %+v", step.name, r, step.want)
		}
		if got := droppings(t, c); !slices.Equal(got, step.dropping) {
			t.Errorf("%s: dropping %q, want %q", step.name, got, step.dropping)
		}
		closeStore(t, s) // and everything is there after a restart
	}
}

// Before there is a map no shard can have written to a bucket.
func TestABucketDeletedBeforeTheFoundingIsGone(t *testing.T) {
	c := catalogueOf(t, openMem(t))
	results := run(c, 1, AppendCreateBucket(nil, "early"), AppendDeleteBucket(nil, "early", 0), AppendCreateBucket(nil, "early"))
	for i, want := range []uint64{1, 1, 2} {
		if results[i].Err != nil || results[i].Value != want {
			t.Errorf("command %d: %+v, want id %d", i, results[i], want)
		}
	}
	if got := droppings(t, c); len(got) > 0 {
		t.Errorf("dropping %q, want nothing", got)
	}
}

// bucketsModel is what the bucket commands do, with Go maps.
type bucketsModel struct {
	last     uint64
	named    map[string]uint64
	dropping map[uint64]Dropping
}

// draw draws a command, and returns it with the result it should have.
func (m *bucketsModel) draw(t *rapid.T) (command []byte, want Result) {
	name := rapid.SampledFrom([]string{"a", "b", "c", "bad:name"}).Draw(t, "name")
	id, ok := m.named[name]
	switch rapid.SampledFrom([]string{"create", "delete", "dropped"}).Draw(t, "command") {
	case "create":
		command = AppendCreateBucket(nil, name)
		switch {
		case name == "bad:name":
			return command, Result{Err: kv.ErrInvalid}
		case ok:
			return command, Result{Err: kv.ErrExists}
		}
		m.last++
		m.named[name] = m.last
		return command, Result{Value: m.last}
	case "delete":
		command = AppendDeleteBucket(nil, name, 0)
		switch {
		case name == "bad:name":
			return command, Result{Err: kv.ErrInvalid}
		case !ok:
			return command, Result{Err: kv.ErrNoSuchStore}
		}
		delete(m.named, name)
		m.dropping[id] = Dropping{Bucket: id, Name: name, Shards: []sharding.Shard{1, 2}}
		return command, Result{Value: id}
	}
	bucket, shard := rapid.Uint64Range(1, m.last+1).Draw(t, "bucket"), sharding.Shard(rapid.IntRange(1, 2).Draw(t, "shard"))
	if d, ok := m.dropping[bucket]; ok {
		d.Shards = slices.DeleteFunc(slices.Clone(d.Shards), func(s sharding.Shard) bool { return s == shard })
		m.dropping[bucket] = d
		if len(d.Shards) == 0 {
			delete(m.dropping, bucket)
		}
	}
	return AppendDropped(nil, bucket, shard), Result{}
}

// check compares the catalogue with the model.
func (m *bucketsModel) check(t *rapid.T, c *Catalogue) {
	if names, err := c.Buckets(); err != nil || !slices.Equal(names, slices.Sorted(maps.Keys(m.named))) {
		t.Fatalf("buckets %q, %v, want those of %v", names, err, m.named)
	}
	for _, name := range []string{"a", "b", "c"} {
		want, wantOK := m.named[name]
		if id, ok, err := c.Bucket(name); id != want || ok != wantOK || err != nil {
			t.Fatalf("bucket %s is %d, %v, %v, want %d, %v", name, id, ok, err, want, wantOK)
		}
	}
	all, err := c.Dropping()
	if err != nil || len(all) != len(m.dropping) {
		t.Fatalf("dropping %v, %v, want %v", all, err, m.dropping)
	}
	for i, d := range all {
		if !reflect.DeepEqual(d, m.dropping[d.Bucket]) || i > 0 && all[i-1].Bucket >= d.Bucket {
			t.Fatalf("dropping %v, want %v in the order of ids", all, m.dropping)
		}
	}
}

// TestBucketsModel creates, deletes and drops buckets at random, in batches and
// over restarts, and compares with Go maps.
func TestBucketsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s := openOn(t, fs)
		defer func() { closeStore(t, s) }()
		c := catalogueOf(t, s)
		apply(t, c, Entry{Index: 1, Term: 1, Command: AppendInit(nil, testMap(t))})
		m := &bucketsModel{named: make(map[string]uint64), dropping: make(map[uint64]Dropping)}
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				commands := make([][]byte, rapid.IntRange(1, 6).Draw(t, "commands"))
				wants := make([]Result, len(commands))
				for i := range commands {
					commands[i], wants[i] = m.draw(t)
				}
				for i, r := range run(c, c.Position().Index+1, commands...) {
					if r.Value != wants[i].Value || !errors.Is(r.Err, wants[i].Err) {
						t.Fatalf("command %x: %+v, want %+v", commands[i], r, wants[i])
					}
				}
			},
			"restart": func(t *rapid.T) {
				closeStore(t, s)
				s = openOn(t, fs)
				c = catalogueOf(t, s)
			},
			"": func(t *rapid.T) { m.check(t, c) },
		})
	})
}

const goldenDroppingRow = "05 7573657273 02 00000001 00000002"

func TestGoldenDropping(t *testing.T) {
	s := openMem(t)
	c := catalogueOf(t, s)
	run(c, 1, AppendInit(nil, testMap(t)), AppendCreateBucket(nil, "users"), AppendDeleteBucket(nil, "users", 0), AppendNewClient(nil))
	want := []string{
		"00000000 0000000000000000 00 = 01 0000000000000004 0000000000000002 0000000000000000 0000000000000000 00 0000 0000 0000000000000001 0000000000000001",
		"00000000 0000000000000000 01 = " + hex.EncodeToString(testMap(t).Append(nil)),
		"00000000 0000000000000000 10 0000000000000001 = " + goldenDroppingRow,
	}
	got := dump(t, s)
	for i := range want {
		key, value, _ := strings.Cut(want[i], " = ")
		want[i] = strings.ReplaceAll(key, " ", "") + " = " + strings.ReplaceAll(value, " ", "")
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func FuzzDecodeDropping(f *testing.F) {
	f.Add("\x00\x00\x00\x00\x00\x00\x00\x01", unhex(f, goldenDroppingRow))
	f.Add("\x00\x00\x00\x00\x00\x00\x00\x02", unhex(f, "00 00"))
	f.Add("short", unhex(f, "00 00"))
	f.Add("\x00\x00\x00\x00\x00\x00\x00\x03", unhex(f, "00 ffffffffffffffffff01"))
	f.Fuzz(func(t *testing.T, id string, row []byte) {
		d, err := decodeDropping(id, row)
		if err != nil {
			return
		}
		if key := droppingKey(d.Bucket); string(key[bucketBytes+1:]) != id {
			t.Errorf("the row of bucket %d is named %x, was %x", d.Bucket, key[bucketBytes+1:], id)
		}
		again, err := decodeDropping(id, d.append(nil))
		if err != nil || !reflect.DeepEqual(again, d) || 4*len(d.Shards) > len(row) {
			t.Errorf("%+v of %d bytes became %+v, %v", d, len(row), again, err)
		}
	})
}

// Rows that no version has written are told, and not taken for nothing.
func TestUnreadableDroppingRows(t *testing.T) {
	s := openMem(t)
	c := catalogueOf(t, s)
	for name, row := range map[string]string{
		"\x00\x00\x00\x00\x00\x00\x00\x01":     "05 7573657273 02 00000001",
		"\x00\x00\x00\x00\x00\x00\x00\x02":     goldenDroppingRow + "00",
		"\x00\x00\x00\x00\x00\x00\x00":         goldenDroppingRow,
		"\x00\x00\x00\x00\x00\x00\x00\x03\x00": goldenDroppingRow,
	} {
		key := rowKey(sharding.Meta, tagDropping, name)
		if err := s.db.Set(key, unhex(t, row), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if all, err := c.Dropping(); err == nil || all != nil {
			t.Errorf("row %x = %s: dropping %v, %v, want an error", name, row, all, err)
		}
		if err := s.db.Delete(key, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
}
