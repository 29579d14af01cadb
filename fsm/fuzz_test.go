package fsm

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// FuzzApply gives two arbitrary commands to both machines of two stores, to one
// in one call, to the other one by one. Neither may panic; results, rows and
// what a restart reads back must agree.
func FuzzApply(f *testing.F) {
	m := testMap(f)
	set := kv.AppendSet(nil, 1, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "", Value: nil}})
	for _, seed := range [][]byte{
		nil,
		{0},
		{kv.CommandVersion},
		{kv.CommandVersion, 200},
		set,
		set[:len(set)-1],
		append(slices.Clone(set), 0),
		kv.AppendSet(nil, 0, []kv.Pair{{Key: "a"}}),
		kv.AppendDelete(nil, 1, []string{"a", "b"}),
		kv.AppendLead(nil, 3, 4),
		kv.AppendLead(nil, 4, 3),
		AppendInit(nil, m),
		AppendInit(nil, m)[:30],
		AppendCreateBucket(nil, "users"),
		AppendCreateBucket(nil, "a:b"),
		AppendNodeAddr(nil, "n1", 11, "elsewhere:7000"),
		AppendNodeAddr(nil, "n1", 99, "elsewhere:7000"),
		AppendNodeAddr(nil, "n9", 11, ""),
		append(kv.AppendHeader(nil, kv.KindDelete), 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		f.Add(seed, set)
		f.Add(AppendInit(nil, m), seed)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		entries := []Entry{
			{Index: 1, Term: 1, Command: kv.AppendLead(nil, 0, sharding.Slots/2-1)},
			{Index: 2, Term: 2, Command: one},
			{Index: 3, Term: 3, Command: two},
		}
		fs := vfs.NewMem()
		whole, single := openOn(t, fs), openOn(t, vfs.NewMem())
		defer closeStore(t, single)
		for _, pair := range [][2]applier{
			{dataOf(t, whole, 1), dataOf(t, single, 1)},
			{catalogueOf(t, whole), catalogueOf(t, single)},
		} {
			results := fmt.Sprint(pair[0].Apply(entries))
			var ones []Result
			for i := range entries {
				ones = append(ones, pair[1].Apply(entries[i:i+1])...)
			}
			if got := fmt.Sprint(ones); got != results {
				t.Errorf("%T: one by one %s, in one call %s", pair[0], got, results)
			}
		}
		if a, b := dump(t, whole), dump(t, single); !slices.Equal(a, b) {
			t.Errorf("rows differ:\n%q\n%q", a, b)
		}
		closeStore(t, whole)
		whole = openOn(t, fs)
		defer closeStore(t, whole)
		if a, b := catalogueOf(t, whole).Map(), catalogueOf(t, single).Map(); !reflect.DeepEqual(a, b) {
			t.Errorf("after a restart the map is %+v, want %+v", a, b)
		}
		if a, b := dataOf(t, whole, 1).Position(), dataOf(t, single, 1).Position(); a != b {
			t.Errorf("after a restart the position is %+v, want %+v", a, b)
		}
	})
}
