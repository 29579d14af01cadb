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

// Set sets the value of key. If it fails the error is a *kv.BatchError with one
// outcome, or says that nothing was sent.
func (b *Bucket) Set(ctx context.Context, key string, value []byte) error {
	return b.SetMany(ctx, []kv.Pair{{Key: key, Value: value}})
}

// Delete deletes key; a missing key is no error. Errors as Set's.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.DeleteMany(ctx, []string{key})
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
	return b.c.store.SetMany(ctx, b.id, pairs)
}

// DeleteMany deletes all keys; missing ones are skipped. Errors as SetMany's.
func (b *Bucket) DeleteMany(ctx context.Context, keys []string) error {
	ctx, done := b.c.deadline(ctx)
	defer done()
	return b.c.store.DeleteMany(ctx, b.id, keys)
}
