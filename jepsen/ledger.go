package jepsen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const (
	// ledgerBatch is how many keys each call writes: enough for every shard.
	ledgerBatch = 50
	// ledgerRounds is how often each key is written before a writer takes fresh
	// ones, so that an old value is seen too, not only a missing one.
	ledgerRounds = 3
	// ledgerCall is how long a call may take: a write to a node that was killed
	// ends with its time.
	ledgerCall = 2 * time.Second
)

// Ledger is what writers were told of their keys, each of which has one writer.
// It judges many more keys than a checker of histories could. It is safe for
// concurrent use.
type Ledger struct {
	mu           sync.Mutex // guards the fields below
	accounts     map[string]*account
	acknowledged int // writes of keys
}

// account is what may be found under one key.
type account struct {
	acknowledged string   // the newest; "" if none ever was
	maybe        []string // of unknown outcome: each may be applied at any time
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger { return &Ledger{accounts: make(map[string]*account)} }

// Acknowledged returns how many writes of keys have been acknowledged.
func (l *Ledger) Acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acknowledged
}

// Write writes batches through a bucket until until is closed or ctx ends, with a pace
// at each multiple of it. No two calls may have the same name. It fails when a write
// fails in a way that no fault explains.
func (l *Ledger) Write(ctx context.Context, until <-chan struct{}, bucket *client.Bucket, name string, pace time.Duration) error {
	for n := 0; !ended(until); n++ {
		pairs := make([]kv.Pair, ledgerBatch)
		for round := range ledgerRounds {
			for i := range pairs {
				pairs[i] = kv.Pair{Key: fmt.Sprintf("%s-%d-%d", name, n, i), Value: fmt.Appendf(nil, "%s-%d-%d-%d", name, n, i, round)}
			}
			err := l.write(ctx, bucket, pairs)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil && !explained(err):
				return fmt.Errorf("writer %s: %w", name, err)
			}
			if pace > 0 {
				rest(until, time.Until(time.Now().Truncate(pace).Add(pace)))
			}
			if err != nil {
				break // a key with an unknown write is never written again: only that one may come late
			}
		}
	}
	return nil
}

// write makes one call and enters what became of it.
func (l *Ledger) write(ctx context.Context, bucket *client.Bucket, pairs []kv.Pair) error {
	ctx, done := context.WithTimeout(ctx, ledgerCall)
	defer done()
	err := bucket.SetMany(ctx, pairs)
	l.note(pairs, Outcomes(err, len(pairs)))
	return err
}

// note enters what became of a batch.
func (l *Ledger) note(pairs []kv.Pair, outcomes []kv.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range pairs {
		if outcomes[i] == kv.OutcomeNotApplied {
			continue
		}
		a := l.accounts[pairs[i].Key]
		if a == nil {
			a = &account{}
			l.accounts[pairs[i].Key] = a
		}
		if outcomes[i] == kv.OutcomeApplied {
			a.acknowledged = string(pairs[i].Value)
			l.acknowledged++
		} else {
			a.maybe = append(a.maybe, string(pairs[i].Value))
		}
	}
}

// Audit reads every key through a bucket and returns how many there are. Nobody
// may be writing. Its error names keys that do not have their acknowledged
// value, nor one that may have been written after it.
func (l *Ledger) Audit(ctx context.Context, bucket *client.Bucket) (keys int, err error) {
	const page = 1000
	l.mu.Lock()
	defer l.mu.Unlock()
	for names := range slices.Chunk(slices.Sorted(maps.Keys(l.accounts)), page) {
		pairs, err := bucket.GetMany(ctx, names)
		if err != nil {
			return keys, fmt.Errorf("audit: read %d keys: %w", len(names), err)
		}
		if err := l.compare(names, pairs); err != nil {
			return keys, err
		}
		keys += len(names)
	}
	return keys, nil
}

// compare compares one page. l.mu is held.
func (l *Ledger) compare(names []string, pairs []*kv.Pair) error {
	const mostNamed = 10 // a lost shard loses thousands
	var wrong []error
	for i, name := range names {
		found := ""
		if pairs[i] != nil {
			found = string(pairs[i].Value)
		}
		a := l.accounts[name] // no value is empty: "" stands for none
		if found != a.acknowledged && !slices.Contains(a.maybe, found) && len(wrong) < mostNamed {
			wrong = append(wrong, fmt.Errorf("key %s has value %q, want the acknowledged %q or one of unknown outcome %q",
				name, found, a.acknowledged, a.maybe))
		}
	}
	return errors.Join(wrong...)
}
