package jepsen

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// keyTime is how long the checker may think about one key. A key of 300
	// operations takes it milliseconds; one that needs seconds is a key with too
	// many unknown writes.
	keyTime = 20 * time.Second
	// checkTime bounds the whole check, so that a broken run ends too.
	checkTime = time.Minute
	// operationTime is by how much an operation lengthens it. It takes a tenth.
	operationTime = time.Millisecond
)

// Verdict is what the checker found.
type Verdict struct {
	Keys       int
	Operations int
	Broken     []string // keys whose operations no order explains
	Undecided  []string // keys the checker had no time for
	Took       time.Duration
}

// Err says why the history cannot be called linearizable; nil if it can.
func (v *Verdict) Err() error {
	if len(v.Broken) == 0 && len(v.Undecided) == 0 {
		return nil
	}
	return fmt.Errorf("of %d keys %d are not linearizable %q, %d undecided %q; want none of either",
		v.Keys, len(v.Broken), first(v.Broken), len(v.Undecided), first(v.Undecided))
}

// first returns as many keys as a person will look at.
func first(keys []string) []string {
	const most = 5
	return keys[:min(len(keys), most)]
}

// CheckHistory looks for each key for an order of its operations that a register could
// have gone through. Keys are checked one at a time on each processor:
// porcupine's memory grows with the square of a key's operations, and it begins
// all its partitions at once.
func CheckHistory(operations []Operation) Verdict {
	return checkWithin(operations, keyTime, max(checkTime, time.Duration(len(operations))*operationTime))
}

func checkWithin(operations []Operation, each, all time.Duration) Verdict {
	began := time.Now()
	byKey := partition(operations)
	v := Verdict{Keys: len(byKey), Operations: len(operations)}
	keys := make(chan string)
	var mu sync.Mutex // guards v
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for key := range keys {
				result := checkKey(byKey[key], min(each, all-time.Since(began)))
				mu.Lock()
				switch result {
				case porcupine.Ok:
				case porcupine.Illegal:
					v.Broken = append(v.Broken, key)
				default:
					v.Undecided = append(v.Undecided, key)
				}
				mu.Unlock()
			}
		})
	}
	for key := range byKey {
		keys <- key
	}
	close(keys)
	workers.Wait()
	slices.Sort(v.Broken)
	slices.Sort(v.Undecided)
	v.Took = time.Since(began)
	return v
}

// checkKey checks one key. No time left is no verdict: porcupine would take a
// timeout of zero for none.
func checkKey(operations []porcupine.Operation, within time.Duration) porcupine.CheckResult {
	if within <= 0 {
		return porcupine.Unknown
	}
	return porcupine.CheckOperationsTimeout(registerModel(), operations, within)
}

// partition sorts operations by key, in the form porcupine wants. A write that
// never returned returns after everything else did.
func partition(operations []Operation) map[string][]porcupine.Operation {
	var last int64
	for i := range operations {
		last = max(last, operations[i].Call)
		if operations[i].Return != Never {
			last = max(last, operations[i].Return)
		}
	}
	byKey := make(map[string][]porcupine.Operation)
	for i := range operations {
		op := &operations[i]
		byKey[op.Key] = append(byKey[op.Key], porcupine.Operation{
			ClientId: op.Process, Input: op, Call: op.Call, Return: min(op.Return, last+1),
		})
	}
	return byKey
}

// Visualize writes porcupine's picture of one key's operations, an HTML file.
func Visualize(operations []Operation, key, path string) error {
	one := partition(operations)[key]
	_, info := porcupine.CheckOperationsVerbose(registerModel(), one, keyTime)
	if err := porcupine.VisualizePath(registerModel(), info, path); err != nil {
		return fmt.Errorf("visualize key %q: %w", key, err)
	}
	return nil
}

// OfKeys returns the operations on some keys, one key after the other, by time
// of call: what a person reads first.
func OfKeys(operations []Operation, keys []string) []Operation {
	byKey := make(map[string][]Operation)
	for _, op := range operations {
		if slices.Contains(keys, op.Key) {
			byKey[op.Key] = append(byKey[op.Key], op)
		}
	}
	var out []Operation
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		one := byKey[key]
		slices.SortStableFunc(one, func(a, b Operation) int { return cmp.Compare(a.Call, b.Call) })
		out = append(out, one...)
	}
	return out
}

// Versions wants each value of a key to have one version, wherever it was told, and
// no two values the same.
func Versions(operations []Operation) error {
	type place struct{ key, value string }
	type version struct {
		key    string
		number uint64
	}
	versions, values := make(map[place]uint64), make(map[version]string)
	for i := range operations {
		op := &operations[i]
		if op.Version == 0 || op.Kind == Conflict || op.Return == Never {
			continue
		}
		at := place{op.Key, op.Value}
		if had, known := versions[at]; known && had != op.Version {
			return fmt.Errorf("value %s of key %s has version %d, and %d elsewhere", op.Value, op.Key, op.Version, had)
		}
		is := version{op.Key, op.Version}
		if had, known := values[is]; known && had != op.Value {
			return fmt.Errorf("version %d of key %s is value %s, and %s elsewhere", op.Version, op.Key, op.Value, had)
		}
		versions[at], values[is] = op.Version, op.Value
	}
	return nil
}
