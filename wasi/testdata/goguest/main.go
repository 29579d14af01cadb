// Command goguest checks a host of wasi:keyvalue, from Go: as a program it makes all
// checks, says on standard error what is wrong, and ends with 1 if anything is.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/manykv/manykv/wasi/guest"
)

// prefix begins all keys of this guest's.
const prefix = "conformance-go/"

var passed, failed int

// check counts a check.
func check(ok bool, format string, args ...any) {
	if ok {
		passed++
		return
	}
	failed++
	fmt.Fprintf(os.Stderr, "failed: "+format+"\n", args...)
}

// must ends the guest at an error that leaves nothing to check.
func must(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func other(err error) bool {
	_, ok := errors.AsType[*guest.OtherError](err)
	return ok
}

func main() {
	b, err := guest.Open("")
	must("open", err)
	clean(b)
	store(b)
	batch(b)
	large(b)
	paging(b)
	counters(b)
	swaps(b)
	opening()
	concurrent(b)
	clean(b)
	b.Close()
	if failed > 0 {
		os.Exit(1)
	}
	fmt.Printf("%d checks passed\n", passed)
}

// own returns all keys of this guest's.
func own(b *guest.Bucket) (keys []string) {
	for key, err := range b.All() {
		must("list", err)
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

func clean(b *guest.Bucket) {
	must("clean", b.DeleteMany(own(b)))
	check(len(own(b)) == 0, "keys are left after all were deleted: %q", own(b))
}

func store(b *guest.Bucket) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, c := range []guest.Pair{
		{Key: prefix + "hello", Value: []byte("world")}, {Key: prefix, Value: []byte{}}, {Key: prefix + "all", Value: all},
		{Key: prefix + "ключ/键/🔑", Value: []byte("юникод")},
	} {
		must("set", b.Set(c.Key, c.Value))
		runtime.GC()
		value, found, err := b.Get(c.Key)
		check(err == nil && found && bytes.Equal(value, c.Value), "get %q: %q, %v, %v; want %q", c.Key, value, found, err, c.Value)
		there, err := b.Exists(c.Key)
		check(err == nil && there, "exists %q: %v, %v", c.Key, there, err)
		must("delete", b.Delete(c.Key))
		must("delete again", b.Delete(c.Key))
		value, found, err = b.Get(c.Key)
		check(err == nil && !found && value == nil, "get %q after delete: %q, %v, %v", c.Key, value, found, err)
		there, err = b.Exists(c.Key)
		check(err == nil && !there, "exists %q after delete: %v, %v", c.Key, there, err)
	}
	long := prefix + strings.Repeat("k", 5000)
	check(other(b.Set(long, nil)), "a key of 5,000 bytes was set")
	_, _, err := b.Get(long)
	check(other(err), "a key of 5,000 bytes was read: %v", err)
}

func batch(b *guest.Bucket) {
	pairs := []guest.Pair{{prefix + "a", []byte("first")}, {prefix + "b", []byte{}}, {prefix + "a", []byte("last")}, {prefix + "c", []byte("3")}}
	must("set-many", b.SetMany(pairs))
	keys := []string{prefix + "c", prefix + "none", prefix + "a", prefix + "b", prefix + "a"}
	want := []*guest.Pair{{keys[0], []byte("3")}, nil, {keys[2], []byte("last")}, {keys[3], []byte{}}, {keys[4], []byte("last")}}
	got, err := b.GetMany(keys)
	runtime.GC() // what the answer is made of must be held by it
	check(err == nil && len(got) == len(want), "get-many: %d elements, %v; want %d", len(got), err, len(want))
	for i := range min(len(got), len(want)) {
		same := got[i] == nil && want[i] == nil ||
			got[i] != nil && want[i] != nil && got[i].Key == want[i].Key && bytes.Equal(got[i].Value, want[i].Value)
		check(same, "get-many: place %d is %v, want %v", i, got[i], want[i])
	}
	must("delete-many", b.DeleteMany([]string{prefix + "a", prefix + "none", prefix + "c"}))
	got, err = b.GetMany([]string{prefix + "a", prefix + "b", prefix + "c"})
	check(err == nil && len(got) == 3 && got[0] == nil && got[1] != nil && got[2] == nil, "after delete-many: %v, %v", got, err)
	must("set-many of nothing", b.SetMany(nil))
	must("delete-many of nothing", b.DeleteMany(nil))
	got, err = b.GetMany(nil)
	check(err == nil && len(got) == 0, "get-many of nothing: %v, %v", got, err)
	check(other(b.SetMany([]guest.Pair{{prefix + "d", nil}, {prefix + strings.Repeat("k", 5000), nil}})), "a batch with a key of 5,000 bytes was set")
	there, err := b.Exists(prefix + "d")
	check(err == nil && !there, "a part of a refused batch was set: %v, %v", there, err)
}

func large(b *guest.Bucket) {
	value := func(seed int) []byte {
		v := make([]byte, 3<<20)
		for i := range v {
			v[i] = byte(i * seed >> 3)
		}
		return v
	}
	one, two := value(7), value(11)
	must("set 3 MiB", b.Set(prefix+"large", one))
	got, found, err := b.Get(prefix + "large")
	check(err == nil && found && bytes.Equal(got, one), "3 MiB: %d bytes, %v, %v", len(got), found, err)
	must("set-many 6 MiB", b.SetMany([]guest.Pair{{prefix + "large", two}, {prefix + "large too", one}}))
	pairs, err := b.GetMany([]string{prefix + "large too", prefix + "large"})
	runtime.GC()
	check(err == nil && len(pairs) == 2 && bytes.Equal(pairs[0].Value, one) && bytes.Equal(pairs[1].Value, two), "6 MiB in a batch: %v", err)
}

func paging(b *guest.Bucket) {
	var pairs []guest.Pair
	for i := range 3000 {
		pairs = append(pairs, guest.Pair{Key: fmt.Sprintf("%spage/%04d", prefix, i), Value: []byte("x")})
	}
	must("set-many of 3,000", b.SetMany(pairs))
	var listed []string
	for _, key := range own(b) {
		if strings.HasPrefix(key, prefix+"page/") {
			listed = append(listed, key)
		}
	}
	slices.Sort(listed)
	same := slices.EqualFunc(listed, pairs, func(key string, p guest.Pair) bool { return key == p.Key })
	check(same, "%d keys were listed, want each of 3,000 once", len(listed))
	_, _, err := b.ListKeys("no cursor")
	check(other(err), "a cursor that is none: %v", err)
}

func counters(b *guest.Bucket) {
	key := prefix + "counter"
	for _, c := range []struct{ delta, want int64 }{{5, 5}, {-7, -2}, {0, -2}, {1 << 40, 1<<40 - 2}} {
		sum, err := b.Increment(key, c.delta)
		check(err == nil && sum == c.want, "increment by %d: %d, %v; want %d", c.delta, sum, err, c.want)
		value, _, err := b.Get(key)
		check(err == nil && string(value) == fmt.Sprint(c.want), "the counter is %q, %v; want %d in decimal", value, err, c.want)
	}
	must("set", b.Set(key, []byte("9223372036854775807")))
	_, err := b.Increment(key, 1)
	check(other(err), "an overflow: %v", err)
	must("set", b.Set(key, []byte("five")))
	_, err = b.Increment(key, 1)
	check(other(err), "an increment of what is no number: %v", err)
}

func swaps(b *guest.Bucket) {
	key := prefix + "cas"
	c, err := b.CAS(key)
	must("cas", err)
	_, found, err := c.Current()
	check(err == nil && !found, "current of an absent key: %v, %v", found, err)
	check(c.Swap([]byte("one")) == nil, "a swap of an absent key failed")
	c, err = b.CAS(key)
	must("cas", err)
	must("set", b.Set(key, []byte("theirs")))
	err = c.Swap([]byte("mine"))
	conflict, ok := errors.AsType[*guest.ConflictError](err)
	check(ok, "a swap after a set: %v, want a conflict", err)
	if !ok {
		return
	}
	value, found, err := conflict.CAS.Current()
	check(err == nil && found && string(value) == "theirs", "current after a conflict: %q, %v, %v", value, found, err)
	check(conflict.CAS.Swap([]byte("mine")) == nil, "the swap after a conflict failed")
	value, _, err = b.Get(key)
	check(err == nil && string(value) == "mine", "after the swap: %q, %v", value, err)
	c, err = b.CAS(key)
	must("cas", err)
	c.Close()
}

func opening() {
	_, err := guest.Open("forbidden")
	check(errors.Is(err, guest.ErrAccessDenied), "open forbidden: %v", err)
	_, err = guest.Open("nowhere")
	check(errors.Is(err, guest.ErrNoSuchStore), "open nowhere: %v", err)
	r, err := guest.Open("readonly")
	must("open readonly", err)
	_, _, err = r.Get(prefix + "cas")
	check(err == nil, "a read of readonly: %v", err)
	check(errors.Is(r.Set(prefix+"x", nil), guest.ErrAccessDenied), "readonly was set")
	check(errors.Is(r.DeleteMany([]string{prefix + "x"}), guest.ErrAccessDenied), "readonly was deleted from")
	r.Close()
	for range 10_000 {
		b, err := guest.Open("")
		must("open again", err)
		b.Close()
	}
	passed++
}

// concurrent has goroutines call while others call and the memory is collected.
func concurrent(b *guest.Bucket) {
	var all sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		all.Go(func() {
			for round := range 25 {
				key, value := fmt.Sprintf("%sgo/%d", prefix, i), bytes.Repeat([]byte{byte(i), byte(round)}, 500)
				if err := b.Set(key, value); err != nil {
					errs[i] = err
					return
				}
				pairs, err := b.GetMany([]string{key, key})
				if round%5 == 0 {
					runtime.GC()
				}
				runtime.Gosched()
				if err != nil || len(pairs) != 2 || !bytes.Equal(pairs[0].Value, value) || !bytes.Equal(pairs[1].Value, value) {
					errs[i] = fmt.Errorf("round %d: %v, %v", round, pairs, err)
					return
				}
			}
		})
	}
	all.Wait()
	check(errors.Join(errs...) == nil, "goroutines: %v", errors.Join(errs...))
}

//go:wasmexport hello
func hello() uint32 {
	b, err := guest.Open("")
	if err != nil {
		return guest.ReturnString(err.Error())
	}
	defer b.Close()
	sum, err := b.Increment(prefix+"hellos", 1)
	return guest.ReturnString(fmt.Sprintf("hello %d, %v", sum, err))
}

//go:wasmexport fail
func fail() uint32 { return guest.ReturnResult("", errors.New("as asked")) }

//go:wasmexport succeed
func succeed() uint32 { return guest.ReturnResult("fine", nil) }
