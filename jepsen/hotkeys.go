package jepsen

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

const (
	// hotCount is how many keys are in use at a time: few, so that callers meet
	// on them. counterCount is how many of those that are counted in.
	hotCount     = 30
	counterCount = 6
	// keyOperations and keyUnknown are when a key is retired for a fresh one:
	// the checker's work grows with the square of a key's operations and with
	// the power set of its unknown writes.
	keyOperations = 300
	keyUnknown    = 8
)

// hotKeys is the set of keys in use, which changes as they wear out. It is safe
// for concurrent use.
type hotKeys struct {
	prefix string // of the names

	mu    sync.Mutex // guards the fields below
	names []string   // all keys so far
	inUse []hotKey
}

type hotKey struct {
	name       string
	operations int
	unknown    int
}

func newHotKeys(prefix string, count int) *hotKeys {
	k := &hotKeys{prefix: prefix, inUse: make([]hotKey, count)}
	for i := range k.inUse {
		k.replace(i)
	}
	return k
}

// replace puts a fresh key in a place.
func (k *hotKeys) replace(i int) {
	name := fmt.Sprintf("%s%05d", k.prefix, len(k.names))
	k.names = append(k.names, name)
	k.inUse[i] = hotKey{name: name}
}

// pick returns n different keys.
func (k *hotKeys) pick(r *rand.Rand, n int) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	picked := make([]string, n)
	for at, i := range r.Perm(len(k.inUse))[:n] {
		if k.inUse[i].operations >= keyOperations || k.inUse[i].unknown >= keyUnknown {
			k.replace(i)
		}
		k.inUse[i].operations++
		picked[at] = k.inUse[i].name
	}
	return picked
}

// unknown notes a write to a key of which nobody knows whether it was applied.
func (k *hotKeys) unknown(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.inUse {
		if k.inUse[i].name == name {
			k.inUse[i].unknown++
		}
	}
}

// all returns every key there has been.
func (k *hotKeys) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.names...)
}
