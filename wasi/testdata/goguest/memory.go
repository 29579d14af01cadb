package main

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"

	"github.com/manykv/manykv/wasi/guest"
)

// What a Go program must not see of its memory: that stacks move while the host
// allocates, that goroutines take turns in the middle of a call, and that what the host
// has written is collected.

// moving calls at every depth of a stack, so that some calls make it grow, and move,
// while the arguments are packed or the host has the answer allocated.
func moving(b *guest.Bucket) {
	const depths = 100 // a stack begins with 2 to 8 KiB
	var pairs []guest.Pair
	for i := range depths {
		pairs = append(pairs, guest.Pair{Key: prefix + "s/" + strconv.Itoa(i), Value: bytes.Repeat([]byte{byte(i)}, i)})
	}
	must("set-many", b.SetMany(pairs))
	for i := range pairs {
		for _, read := range []func(*guest.Bucket, string) ([]byte, error){get, getMany} {
			var value []byte
			var err error
			var one sync.WaitGroup
			one.Go(func() { // a stack of its own
				value, err = deep(i, func() ([]byte, error) { return read(b, pairs[i].Key[len(prefix):]) })
			})
			one.Wait()
			check(err == nil && bytes.Equal(value, pairs[i].Value), "at a depth of %d: %q, %v; want %q", i, value, err, pairs[i].Value)
		}
	}
}

//go:noinline
func deep(n int, read func() ([]byte, error)) ([]byte, error) {
	if n == 0 {
		return read()
	}
	return deep(n-1, read)
}

// get and getMany read a key that is made here, and may be on the stack.
func get(b *guest.Bucket, name string) ([]byte, error) {
	value, found, err := b.Get(prefix + name)
	if err == nil && !found {
		err = errors.New("not found")
	}
	return value, err
}

func getMany(b *guest.Bucket, name string) ([]byte, error) {
	pairs, err := b.GetMany([]string{prefix + name, prefix, prefix + name})
	if err != nil {
		return nil, err
	}
	if len(pairs) != 3 || pairs[0] == nil || pairs[1] != nil || pairs[2] == nil || pairs[0].Key != prefix+name {
		return nil, fmt.Errorf("get-many: %v", pairs)
	}
	return pairs[0].Value, nil
}

func same(got *guest.Pair, want guest.Pair) bool {
	return got != nil && got.Key == want.Key && bytes.Equal(got.Value, want.Value)
}

// collected has goroutines read. It comes before anything has collected the memory: the
// first time begins where the host has an answer allocated, and there the call waits
// until the collector has started, while others go on. What was read is held, and
// looked at later.
func collected(b *guest.Bucket) {
	const readers, rounds, keys, size = 8, 25, 6, 40_000
	var all sync.WaitGroup
	errs := make([]error, readers)
	for i := range readers {
		all.Go(func() {
			var pairs []guest.Pair
			var names []string
			for k := range keys {
				names = append(names, fmt.Sprintf("%sheld/%d/%d", prefix, i, k))
				pairs = append(pairs, guest.Pair{Key: names[k], Value: bytes.Repeat([]byte{byte(i), byte(k)}, size/2-i)})
			}
			must("set-many", b.SetMany(pairs))
			var held [4][]*guest.Pair
			for round := range rounds {
				got, err := b.GetMany(names)
				if err != nil || len(got) != keys {
					errs[i] = fmt.Errorf("round %d: %d pairs, %w", round, len(got), err)
					return
				}
				held[round%len(held)] = got
				if round%5 == 4 {
					runtime.GC()
					waste = bytes.Repeat([]byte{0xff}, size) // over what is free
				}
				runtime.Gosched()
				for _, answer := range held {
					for k, p := range answer {
						if !same(p, pairs[k]) {
							errs[i] = fmt.Errorf("round %d: key %d is not what it was", round, k)
							return
						}
					}
				}
			}
		})
	}
	all.Wait()
	err := errors.Join(errs...)
	check(err == nil, "goroutines that read while memory is collected: %v", err)
}

// waste is garbage.
var waste []byte
