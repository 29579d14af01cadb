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
	"unicode/utf8"

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

// other says whether err is an error with a text that can be read.
func other(err error) bool {
	e, ok := errors.AsType[*guest.OtherError](err)
	return ok && e.Text != "" && len(e.Text) <= 4096 && utf8.ValidString(e.Text) && !strings.ContainsRune(e.Text, 0)
}

func denied(err error) bool { return errors.Is(err, guest.ErrAccessDenied) }

func main() {
	b, err := guest.Open("")
	must("open", err)
	clean(b)
	collected(b)
	store(b)
	batch(b)
	large(b)
	paging(b)
	counters(b)
	swaps(b)
	opening(b)
	readOnly(b)
	concurrent(b)
	moving(b)
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
		check(err == nil && found && value != nil && bytes.Equal(value, c.Value), "get %q: %q, %v, %v; want %q", c.Key, value, found, err, c.Value)
		there, err := b.Exists(c.Key)
		check(err == nil && there, "exists %q: %v, %v", c.Key, there, err)
		must("delete", b.Delete(c.Key))
		must("delete again", b.Delete(c.Key))
		value, found, err = b.Get(c.Key)
		check(err == nil && !found && value == nil, "get %q after delete: %q, %v, %v", c.Key, value, found, err)
		there, err = b.Exists(c.Key)
		check(err == nil && !there, "exists %q after delete: %v, %v", c.Key, there, err)
	}
	long(b)
}

// long has every function refuse a key that is too long.
func long(b *guest.Bucket) {
	key := prefix + strings.Repeat("k", 5000)
	keys := []string{prefix + "short", key}
	for name, do := range map[string]func() error{
		"get":         func() error { _, _, err := b.Get(key); return err },
		"set":         func() error { return b.Set(key, nil) },
		"delete":      func() error { return b.Delete(key) },
		"exists":      func() error { _, err := b.Exists(key); return err },
		"get-many":    func() error { _, err := b.GetMany(keys); return err },
		"set-many":    func() error { return b.SetMany([]guest.Pair{{Key: keys[0]}, {Key: key}}) },
		"delete-many": func() error { return b.DeleteMany(keys) },
		"increment":   func() error { _, err := b.Increment(key, 1); return err },
		"cas":         func() error { _, err := b.CAS(key); return err },
	} {
		err := do()
		check(other(err), "%s with a key of 5,000 bytes: %v, want another error", name, err)
	}
	there, err := b.Exists(keys[0])
	check(err == nil && !there, "a part of a refused batch was set: %v, %v", there, err)
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
		ok := got[i] == nil && want[i] == nil ||
			got[i] != nil && want[i] != nil && got[i].Value != nil && same(got[i], *want[i])
		check(ok, "get-many: place %d is %v, want %v", i, got[i], want[i])
	}
	must("delete-many", b.DeleteMany([]string{prefix + "a", prefix + "none", prefix + "c"}))
	got, err = b.GetMany([]string{prefix + "a", prefix + "b", prefix + "c"})
	check(err == nil && len(got) == 3 && got[0] == nil && got[1] != nil && got[2] == nil, "after delete-many: %v, %v", got, err)
	must("set-many of nothing", b.SetMany(nil))
	must("delete-many of nothing", b.DeleteMany(nil))
	got, err = b.GetMany(nil)
	check(err == nil && len(got) == 0, "get-many of nothing: %v, %v", got, err)
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
	_, err = b.GetMany(slices.Repeat([]string{prefix + "large"}, 30))
	check(other(err), "get-many of 90 MiB: %v, want another error", err)
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
	for _, c := range []struct {
		value string
		delta int64
	}{{"9223372036854775807", 1}, {"-9223372036854775808", -1}, {"five", 1}} {
		must("set", b.Set(key, []byte(c.value)))
		sum, err := b.Increment(key, c.delta)
		check(other(err), "increment of %s by %d: %d, %v; want another error", c.value, c.delta, sum, err)
		value, _, err := b.Get(key)
		check(err == nil && string(value) == c.value, "after a refused increment: %q, %v; want %q", value, err, c.value)
	}
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
	d, err := b.CAS(key)
	must("cas", err)
	c.Close()
	c.Close() // nothing, and not d
	check(d.Swap([]byte("mine too")) == nil, "a swap after another cas was closed failed")
	d.Close() // nothing

	const more = 4200 // than a host lets a guest hold
	for range more {
		c, err := b.CAS(key)
		must("cas again", err)
		c.Close()
	}
	passed++
}

func opening(b *guest.Bucket) {
	_, err := guest.Open("forbidden")
	check(denied(err), "open forbidden: %v", err)
	_, err = guest.Open("nowhere")
	check(errors.Is(err, guest.ErrNoSuchStore), "open nowhere: %v", err)
	for range 10_000 {
		b, err := guest.Open("")
		must("open again", err)
		b.Close()
	}
	passed++
	first, err := guest.Open("")
	must("open", err)
	first.Close()
	second, err := guest.Open("")
	must("open", err)
	first.Close() // nothing, and not second, which may have its index
	must("set", second.Set(prefix+"two", []byte("seen")))
	value, found, err := b.Get(prefix + "two")
	check(err == nil && found && string(value) == "seen", "what another handle set: %q, %v, %v", value, found, err)
	second.Close()
}

// readOnly may read what is in b, and write nothing.
func readOnly(b *guest.Bucket) {
	key := prefix + "kept"
	must("set", b.Set(key, []byte("5")))
	r, err := guest.Open("readonly")
	must("open readonly", err)
	defer r.Close()
	value, found, err := r.Get(key)
	check(err == nil && found && string(value) == "5", "get of readonly: %q, %v, %v", value, found, err)
	there, err := r.Exists(key)
	check(err == nil && there, "exists of readonly: %v, %v", there, err)
	pairs, err := r.GetMany([]string{key})
	check(err == nil && len(pairs) == 1 && same(pairs[0], guest.Pair{Key: key, Value: []byte("5")}), "get-many of readonly: %v, %v", pairs, err)
	check(slices.Contains(own(r), key), "readonly does not list %q", key)
	c, err := r.CAS(key)
	must("cas of readonly", err)
	value, found, err = c.Current()
	check(err == nil && found && string(value) == "5", "current of readonly: %q, %v, %v", value, found, err)
	for name, do := range map[string]func() error{
		"set":         func() error { return r.Set(key, nil) },
		"delete":      func() error { return r.Delete(key) },
		"set-many":    func() error { return r.SetMany([]guest.Pair{{Key: key}}) },
		"delete-many": func() error { return r.DeleteMany([]string{key}) },
		"increment":   func() error { _, err := r.Increment(key, 1); return err },
		"swap":        func() error { return c.Swap(nil) },
	} {
		err := do()
		check(denied(err), "%s of readonly: %v, want %v", name, err, guest.ErrAccessDenied)
	}
	value, _, err = b.Get(key)
	check(err == nil && string(value) == "5", "readonly was changed: %q, %v", value, err)
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
