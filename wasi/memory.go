package wasi

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/manykv/manykv/kv"
)

// Memory is buckets in this process's memory, which end with it: for tests and for
// trying a guest out. They behave like a cluster's, limits and errors included.
type Memory struct {
	limits kv.Limits

	mu      sync.Mutex
	buckets map[string]*MemoryBucket
}

// NewMemory makes a store without buckets. Limits of 0 are kv's defaults.
func NewMemory(limits kv.Limits) *Memory {
	return &Memory{limits: limits.WithDefaults(), buckets: make(map[string]*MemoryBucket)}
}

// Bucket returns the bucket of a name, and makes it first if there is none.
func (m *Memory) Bucket(name string) *MemoryBucket {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.buckets[name]
	if b == nil {
		b = &MemoryBucket{limits: m.limits, rows: make(map[string]row)}
		m.buckets[name] = b
	}
	return b
}

// Open is a policy: every identifier opens the bucket of that name.
func (m *Memory) Open(_ context.Context, identifier string) (Grant, error) {
	return Grant{Bucket: m.Bucket(identifier)}, nil
}

// MemoryBucket is a Bucket in memory. It is safe for concurrent use.
type MemoryBucket struct {
	limits kv.Limits

	mu      sync.RWMutex
	rows    map[string]row // values are never changed
	version uint64         // of the last write
	listed  []place        // all keys in the order of ListKeys; nil: to be made again
}

type row struct {
	value   []byte
	version uint64
}

// place is where a key stands in a listing: by hash, then by key.
type place struct {
	hash uint64
	key  string
}

// put writes a row. b.mu is held.
func (b *MemoryBucket) put(key string, value []byte) uint64 {
	if _, there := b.rows[key]; !there {
		b.listed = nil
	}
	b.version++
	b.rows[key] = row{value, b.version}
	return b.version
}

// remove deletes a row. b.mu is held.
func (b *MemoryBucket) remove(key string) {
	if _, there := b.rows[key]; there {
		b.listed = nil
		b.version++
		delete(b.rows, key)
	}
}

// Get returns the value of key.
func (b *MemoryBucket) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	value, _, found, err = b.GetVersion(ctx, key)
	return value, found, err
}

// GetVersion returns the value of key and its version.
func (b *MemoryBucket) GetVersion(_ context.Context, key string) (value []byte, version uint64, found bool, err error) {
	if err := b.limits.CheckKey(key); err != nil {
		return nil, 0, false, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	r, found := b.rows[key]
	return r.value, r.version, found, nil
}

// Exists says whether key has a value.
func (b *MemoryBucket) Exists(ctx context.Context, key string) (bool, error) {
	_, _, found, err := b.GetVersion(ctx, key)
	return found, err
}

// GetMany returns one element for each key, nil for one without a value.
func (b *MemoryBucket) GetMany(_ context.Context, keys []string) ([]*kv.Pair, error) {
	if err := b.limits.CheckKeys(keys); err != nil {
		return nil, err
	}
	pairs, found := make([]*kv.Pair, len(keys)), make([]kv.Pair, len(keys))
	size := 0
	b.mu.RLock()
	defer b.mu.RUnlock()
	for i, key := range keys {
		r, there := b.rows[key]
		if !there {
			continue
		}
		if size += len(key) + len(r.value); size > b.limits.AnswerBytes {
			return nil, fmt.Errorf("%w: an answer of more than %d bytes", kv.ErrTooLarge, b.limits.AnswerBytes)
		}
		found[i] = kv.Pair{Key: key, Value: r.value}
		pairs[i] = &found[i]
	}
	return pairs, nil
}

// Set sets the value of key.
func (b *MemoryBucket) Set(ctx context.Context, key string, value []byte) error {
	return b.SetMany(ctx, []kv.Pair{{Key: key, Value: value}})
}

// SetMany sets all pairs; the last value of a key wins.
func (b *MemoryBucket) SetMany(_ context.Context, pairs []kv.Pair) error {
	if err := b.limits.CheckPairs(pairs); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range pairs {
		b.put(p.Key, bytes.Clone(p.Value)) // which may be a part of something large
	}
	return nil
}

// Delete deletes key.
func (b *MemoryBucket) Delete(ctx context.Context, key string) error {
	return b.DeleteMany(ctx, []string{key})
}

// DeleteMany deletes all keys; missing ones are skipped.
func (b *MemoryBucket) DeleteMany(_ context.Context, keys []string) error {
	if err := b.limits.CheckKeys(keys); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		b.remove(key)
	}
	return nil
}

// Increment adds delta to a decimal number of 64 bits with sign.
func (b *MemoryBucket) Increment(_ context.Context, key string, delta int64) (int64, error) {
	if err := b.limits.CheckKey(key); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var n int64
	if r, there := b.rows[key]; there {
		var err error
		if n, err = strconv.ParseInt(string(r.value), 10, 64); err != nil || strconv.FormatInt(n, 10) != string(r.value) {
			return 0, fmt.Errorf("%w: a value of %d bytes is not a decimal number of 64 bits", kv.ErrInvalid, len(r.value))
		}
	}
	if delta > 0 && n > math.MaxInt64-delta || delta < 0 && n < math.MinInt64-delta {
		return 0, fmt.Errorf("%w: %d and %d overflow 64 bits", kv.ErrInvalid, n, delta)
	}
	n += delta
	b.put(key, strconv.AppendInt(nil, n, 10))
	return n, nil
}

// CompareAndSwap sets the value of key if its version is the one given.
func (b *MemoryBucket) CompareAndSwap(_ context.Context, key string, version uint64, value []byte) (newVersion uint64, err error) {
	if err := b.limits.CheckPairs([]kv.Pair{{Key: key, Value: value}}); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if has := b.rows[key].version; has != version {
		return 0, fmt.Errorf("%w: the key has version %d, expected was %d", kv.ErrConflict, has, version)
	}
	return b.put(key, value), nil
}

// pageKeys is how many keys a page has, a cluster's too.
const pageKeys = 1000

// ListKeys returns a page of keys in the order of their hashes. Keys of one hash are
// in one page, so that a hash can be the cursor.
func (b *MemoryBucket) ListKeys(_ context.Context, cursor uint64) (keys []string, next uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listed == nil {
		b.listed = make([]place, 0, len(b.rows))
		for key := range b.rows {
			b.listed = append(b.listed, place{xxhash.Sum64String(key), key})
		}
		slices.SortFunc(b.listed, func(x, y place) int {
			return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.key, y.key))
		})
	}
	from, _ := slices.BinarySearchFunc(b.listed, cursor, func(p place, hash uint64) int { return cmp.Compare(p.hash, hash) })
	for i, p := range b.listed[from:] {
		if i >= pageKeys && p.hash != b.listed[from+i-1].hash {
			return keys, p.hash, nil
		}
		keys = append(keys, p.key)
	}
	return keys, 0, nil
}
