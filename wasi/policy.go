package wasi

import (
	"context"
	"fmt"
	"maps"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// Bucket is what the interfaces need of a store. client.Bucket is one, on a cluster,
// and MemoryBucket another. It is as wide as they are.
//
// The contract is client.Bucket's. An implementation must not keep keys or values
// of GetMany's answer in use, and may keep those it is given.
type Bucket interface {
	Get(ctx context.Context, key string) (value []byte, found bool, err error)
	Set(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Exists(ctx context.Context, key string) (bool, error)
	ListKeys(ctx context.Context, cursor uint64) (keys []string, next uint64, err error)

	GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error)
	SetMany(ctx context.Context, pairs []kv.Pair) error
	DeleteMany(ctx context.Context, keys []string) error

	Increment(ctx context.Context, key string, delta int64) (int64, error)
	GetVersion(ctx context.Context, key string) (value []byte, version uint64, found bool, err error)
	CompareAndSwap(ctx context.Context, key string, version uint64, value []byte) (newVersion uint64, err error)
}

var (
	_ Bucket = (*client.Bucket)(nil)
	_ Bucket = (*MemoryBucket)(nil)
)

// Grant is what an identifier opens.
type Grant struct {
	Bucket   Bucket
	ReadOnly bool // writes are answered with access-denied
}

// Policy decides what an identifier opens for a guest, at each `open`. An error
// that is kv.ErrNoSuchStore or kv.ErrAccessDenied is that case of the guest's error
// variant, any other the case `other`.
type Policy func(ctx context.Context, identifier string) (Grant, error)

// Nothing is the policy of a guest that may open nothing.
func Nothing(_ context.Context, identifier string) (Grant, error) {
	return Grant{}, fmt.Errorf("%w: %q", kv.ErrNoSuchStore, identifier)
}

// Fixed lets identifiers open what they are given, and nothing else.
func Fixed(grants map[string]Grant) Policy {
	grants = maps.Clone(grants)
	return func(ctx context.Context, identifier string) (Grant, error) {
		if g, ok := grants[identifier]; ok {
			return g, nil
		}
		return Nothing(ctx, identifier)
	}
}

// Buckets lets identifiers open the buckets of a cluster that are named for them.
// Each `open` asks the cluster whether there is such a bucket; Fixed does not.
func Buckets(c *client.Client, names map[string]string) Policy {
	return func(ctx context.Context, identifier string) (Grant, error) {
		name, ok := names[identifier]
		if !ok {
			return Nothing(ctx, identifier)
		}
		b, err := c.Bucket(ctx, name)
		if err != nil {
			return Grant{}, err
		}
		return Grant{Bucket: b}, nil
	}
}

// Deny answers some identifiers with access-denied, and has p decide the others.
func (p Policy) Deny(identifiers ...string) Policy {
	denied := make(map[string]bool, len(identifiers))
	for _, id := range identifiers {
		denied[id] = true
	}
	return func(ctx context.Context, identifier string) (Grant, error) {
		if denied[identifier] {
			return Grant{}, fmt.Errorf("%w: %q", kv.ErrAccessDenied, identifier)
		}
		return p(ctx, identifier)
	}
}

// ReadOnly lets some identifiers open what p says, for reading only.
func (p Policy) ReadOnly(identifiers ...string) Policy {
	restricted := make(map[string]bool, len(identifiers))
	for _, id := range identifiers {
		restricted[id] = true
	}
	return func(ctx context.Context, identifier string) (Grant, error) {
		g, err := p(ctx, identifier)
		g.ReadOnly = g.ReadOnly || restricted[identifier]
		return g, err
	}
}
