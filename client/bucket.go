package client

import (
	"context"

	"github.com/manykv/manykv/kv"
)

// Bucket is a namespace of keys. It is safe for concurrent use and stays valid
// until its Client is closed.
//
// Every method fails with an error of package kv. Reads are linearizable per
// key. Keys are valid UTF-8 of at most 4 KiB (empty is allowed); values and
// batches are bounded by Config.Limits.
type Bucket struct {
	c    *Client
	name string
	id   uint64
}

// Name returns the bucket's name.
func (b *Bucket) Name() string { return b.name }

// Get returns the value of key; found is false if there is none.
func (b *Bucket) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	pairs, err := b.GetMany(ctx, []string{key})
	if err != nil || pairs[0] == nil {
		return nil, false, err
	}
	return pairs[0].Value, true, nil
}

// GetVersion returns the value of key and its version; found is false and the
// version 0 if there is none. After a write the key has another version than it had
// when anybody read it before, and a greater one.
func (b *Bucket) GetVersion(ctx context.Context, key string) (value []byte, version uint64, found bool, err error) {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.store.GetVersion(ctx, b.id, key)
}

// Set sets the value of key. If it fails the error is a *kv.BatchError with one
// outcome, or says that nothing was sent.
func (b *Bucket) Set(ctx context.Context, key string, value []byte) error {
	return b.SetMany(ctx, []kv.Pair{{Key: key, Value: value}})
}

// Delete deletes key; a missing key is no error. Errors as Set's.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.DeleteMany(ctx, []string{key})
}

// Increment adds delta to the value of key, a decimal number of 64 bits with sign in
// ASCII, and returns the sum; a missing key counts from 0. kv.ErrInvalid if the
// value is no such number, or the sum would be none: then nothing is applied.
// Errors as Set's.
func (b *Bucket) Increment(ctx context.Context, key string, delta int64) (int64, error) {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.write.Increment(ctx, b.id, key, delta)
}

// CompareAndSwap sets the value of key if the key has a version (from GetVersion, or
// from here), 0 for a key that is not there, and returns the new version.
// kv.ErrConflict if it has another: then nothing is applied. Errors as Set's.
func (b *Bucket) CompareAndSwap(ctx context.Context, key string, version uint64, value []byte) (newVersion uint64, err error) {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.write.CompareAndSwap(ctx, b.id, version, kv.Pair{Key: key, Value: value})
}

// Exists says whether key has a value, without fetching it.
func (b *Bucket) Exists(ctx context.Context, key string) (bool, error) {
	ctx, done := b.c.deadline(ctx)
	defer done()
	there, err := b.c.store.Exists(ctx, b.id, []string{key})
	if err != nil {
		return false, err
	}
	return there[0], nil
}

// GetMany returns one element for each key, in the order of keys and with
// duplicates answered in each place: the pair, or nil if the key has no value.
// The values of one answer share memory: clone a value to keep it alone.
func (b *Bucket) GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error) {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.store.GetMany(ctx, b.id, keys)
}

// SetMany sets all pairs; if a key occurs more than once its last value wins.
// It is not atomic: when it fails, the error is a *kv.BatchError that says of
// each pair whether it was applied (or an error of another kind if nothing was
// sent at all).
func (b *Bucket) SetMany(ctx context.Context, pairs []kv.Pair) error {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.write.SetMany(ctx, b.id, pairs)
}

// DeleteMany deletes all keys; missing ones are skipped. Errors as SetMany's.
func (b *Bucket) DeleteMany(ctx context.Context, keys []string) error {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.write.DeleteMany(ctx, b.id, keys)
}

// ListKeys returns a page of keys, about 1,000 and at most 4 MiB of each shard, in
// an order of its own: from the cursor on, 0 for the first page. next is the cursor
// of the next page, 0 at the end. A page may have fewer keys, and none only at the
// end. A key that is there all the while is listed once; one that is set or
// deleted meanwhile may be listed or not.
func (b *Bucket) ListKeys(ctx context.Context, cursor uint64) (keys []string, next uint64, err error) {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.store.List(ctx, b.id, cursor)
}
