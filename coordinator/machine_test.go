package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// machineKey is one client's session in one shard.
type machineKey struct {
	shard  sharding.Shard
	client uint64
}

// machine is what a shard remembers of a client: of each call it has not
// acknowledged the results of the entries so far.
type machine struct {
	acked uint64
	calls map[uint64]*remembered
}

type remembered struct {
	results []Result
	aside   []byte // of a large value
}

// apply does with a command what a shard's state machine does. refuse, if it is
// not CodeOK, is what it says of it when it comes for the first time.
func (f *fakeCluster) apply(c copied, refuse kv.Code) Result {
	w, err := kv.DecodeWrite(c.bytes)
	o := w.Origin
	if err != nil || o.Client == 0 || o.Seq <= o.Acked || o.Seq-o.Acked > kv.MaxOpenCalls {
		f.problems = append(f.problems, fmt.Errorf("a command of %+v: %w", o, err))
		return Result{}
	}
	m := f.machines[machineKey{c.shard, o.Client}]
	if m == nil {
		m = &machine{calls: make(map[uint64]*remembered)}
		f.machines[machineKey{c.shard, o.Client}] = m
	}
	m.acked = max(m.acked, o.Acked)
	for seq := range m.calls {
		if seq <= m.acked {
			delete(m.calls, seq)
		}
	}
	if o.Seq <= m.acked {
		return Result{Forgotten: true, Code: kv.CodeUnknown, Detail: "forgotten"}
	}
	call := m.calls[o.Seq]
	if call == nil {
		call = &remembered{}
	}
	switch next := len(call.results); {
	case int(o.Entry) < next:
		return call.results[o.Entry]
	case int(o.Entry) > next:
		return Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: "out of order"}
	}
	m.calls[o.Seq] = call
	r := Result{Outcome: kv.OutcomeNotApplied, Code: refuse, Detail: "the machine refuses"}
	if refuse == kv.CodeOK {
		r = f.process(&w, call)
	}
	call.results = append(call.results, r)
	return r
}

// process does what a command says.
func (f *fakeCluster) process(w *kv.Write, call *remembered) Result {
	f.index++
	refused := func(code kv.Code, value uint64) Result {
		return Result{Outcome: kv.OutcomeNotApplied, Code: code, Value: value, Detail: "the machine refuses"}
	}
	for {
		k, v, ok := w.Next()
		if !ok {
			break
		}
		key, value, actual := string(k), string(v), f.versions[string(k)]
		if w.Kind == kv.KindPiece || w.Kind == kv.KindLast {
			if int(w.Offset) != len(call.aside) {
				call.aside = nil
				return refused(kv.CodeInvalid, 0)
			}
			call.aside = append(call.aside, v...)
			if w.Kind == kv.KindPiece {
				return Result{Outcome: kv.OutcomeApplied}
			}
			value, call.aside = string(call.aside), nil
		}
		switch {
		case w.Kind == kv.KindDelete:
			f.applied = append(f.applied, write{key: key})
			delete(f.data, key)
			delete(f.versions, key)
			continue
		case w.Kind == kv.KindIncrement:
			was, err := strconv.ParseInt(cmp.Or(f.data[key], "0"), 10, 64)
			if err != nil {
				return refused(kv.CodeInvalid, 0)
			}
			f.put(key, strconv.FormatInt(was+w.Delta, 10))
			return Result{Outcome: kv.OutcomeApplied, Value: uint64(was + w.Delta)}
		case (w.Kind == kv.KindSwap || w.Swaps) && actual != w.Version:
			return refused(kv.CodeConflict, actual)
		}
		f.put(key, value)
		if w.Kind == kv.KindSwap || w.Swaps {
			return Result{Outcome: kv.OutcomeApplied, Value: f.index}
		}
	}
	return Result{Outcome: kv.OutcomeApplied}
}

func (f *fakeCluster) put(key, value string) {
	f.applied = append(f.applied, write{key, value})
	f.data[key], f.versions[key] = value, f.index
}

// writesOf returns the keys of a command, each with its value, or a piece's.
func (f *fakeCluster) writesOf(command []byte) (out []write) {
	w, err := kv.DecodeWrite(command)
	if err == nil && w.Bucket != testBucket {
		err = fmt.Errorf("a command for bucket %d", w.Bucket)
	}
	if err != nil {
		f.problems = append(f.problems, err)
		return nil
	}
	for {
		key, value, ok := w.Next()
		if !ok {
			break
		}
		out = append(out, write{string(key), string(value)})
	}
	if err := w.Err(); err != nil || len(out) == 0 {
		f.problems = append(f.problems, fmt.Errorf("a command of %d keys: %w", len(out), err))
	}
	return out
}

// list is a page of a shard.
func (f *fakeCluster) list(s sharding.Shard, cursor uint64, most int) (keys []string, next uint64) {
	hash := func(key string) uint64 { return sharding.HashString(testBucket, key) }
	for key := range f.data {
		if f.m.ShardOfKey(testBucket, key) == s && hash(key) >= cursor {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(hash(a), hash(b)), strings.Compare(a, b)) })
	if f.pageKeys > 0 {
		most = min(most, f.pageKeys)
	}
	if len(keys) <= most {
		return keys, 0
	}
	return keys[:most], hash(keys[most-1]) + 1
}
