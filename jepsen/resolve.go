//go:build unix

package jepsen

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// Writes of unknown outcome are looked up in the nodes' logs afterwards: one that no
// log has was never committed, and is left out of the history, so that the checker may
// not make use of it. That can be said only of keys whose shard's log is whole: a log
// that was cut may have had it.

// entry is a line of `manykv debug log`, as far as it matters here.
type entry struct {
	Shard uint32 `json:"shard"`
	Index uint64 `json:"index"`
	Pairs []struct {
		Key   string `json:"key"`
		Value *struct {
			Begins string `json:"begins_hex"` // its first 16 bytes
		} `json:"value"`
	} `json:"pairs"`
}

// commitLog is what may have been committed: all that stands in any node's log, also
// what that node does not know to be.
type commitLog struct {
	writes map[[2]string]bool // key and value, of sets
	shards map[string]uint32  // of keys
	first  map[uint32]uint64  // index of each shard
}

// resolve returns a history without the sets and swaps that were certainly never
// committed, and says how many that are.
func (r *run) resolve(ctx context.Context, operations []Operation) ([]Operation, string) {
	log := &commitLog{writes: make(map[[2]string]bool), shards: make(map[string]uint32), first: make(map[uint32]uint64)}
	for _, node := range r.cluster.Nodes {
		if err := log.read(ctx, r.cfg.Binary, node.Dir); err != nil {
			return operations, fmt.Sprintf("unknown writes stay so: the log of %s cannot be read: %v", node.Name, err)
		}
	}
	out, unknown, never := operations[:0:0], 0, 0
	for _, op := range operations {
		if op.Return == Never {
			unknown++
			if log.lacks(&op) {
				never++
				continue
			}
		}
		out = append(out, op)
	}
	return out, fmt.Sprintf("%d writes of unknown outcome, %d of them in no log", unknown, never)
}

// read adds the log of a node that does not run.
func (c *commitLog) read(ctx context.Context, binary, dir string) error {
	cmd := exec.CommandContext(ctx, binary, "debug", "log", "--all", "--data-dir", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = c.lines(out)
	if err != nil {
		_, _ = io.Copy(io.Discard, out) // so that it ends
	}
	return errors.Join(err, cmd.Wait())
}

func (c *commitLog) lines(r io.Reader) error {
	for lines := json.NewDecoder(bufio.NewReader(r)); ; {
		var e entry
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if first, known := c.first[e.Shard]; !known || e.Index < first {
			c.first[e.Shard] = e.Index
		}
		for _, p := range e.Pairs {
			c.shards[p.Key] = e.Shard
			if p.Value == nil {
				continue
			}
			head, err := hex.DecodeString(p.Value.Begins)
			if err != nil {
				return err
			}
			c.writes[[2]string{p.Key, string(head)}] = true
		}
	}
}

// lacks says whether a set or swap is in no log, and would be if it was committed.
func (c *commitLog) lacks(op *Operation) bool {
	const headBytes = 16 // of a value: all of ours
	if op.Kind != Set && op.Kind != Swap || len(op.Value) > headBytes {
		return false
	}
	shard, known := c.shards[op.Key]
	return known && c.first[shard] <= 1 && !c.writes[[2]string{op.Key, op.Value}]
}
