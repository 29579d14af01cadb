package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/sharding"
)

func (p *program) debugCommand() *cobra.Command {
	return group("debug", "Look into a node's log and state", p.debugLogCommand(), p.debugHashCommand(), p.debugPointsCommand())
}

// debugPointsCommand is for fault tests, and hidden.
func (p *program) debugPointsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "points",
		Short:  "Print the places where a build for fault tests can be made to die",
		Hidden: true,
		Args:   asUsed,
		RunE: func(*cobra.Command, []string) error {
			if !crash.Enabled {
				return errors.New("this build has no such places: it lacks the tag crashpoints")
			}
			for _, name := range crash.Names {
				p.stdout.printf("%s\n", name)
			}
			return nil
		},
	}
}

const debugLogHelp = `Print the entries in the log of a node that does not run, one a line of JSON, shard
by shard:

  manykv debug log --data-dir .manykv/n1 --shard 3
  manykv debug log --data-dir .manykv/n1 --from 100 --to 200 --values --all

A line has shard, generation, index, term, kind (set, delete, increment, …, or
raft:… for what is raft's own), the bytes of the command, committed, and what the
command says: its origin (client, call, entry), the bucket's number and the keys,
with the length of each value, its xxhash64 and its first 16 bytes in hex. Writes
that were proposed together share an entry, and so an index: each has its line, with
command and commands, which of how many it is.

An entry is known to be committed if the state machine had applied it when the
node was last flushed to disk: only such are printed unless --all is given. The
log begins where it was cut after the last snapshot, so older entries are gone.

Nothing in the directory is changed. While a node runs in it this fails.

Exit codes: 0 done; 1 failed; 2 used wrongly.`

// shardFlag is a flag that names a shard, or none.
type shardFlag struct{ number int }

func (s *shardFlag) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&s.number, "shard", 0, "only this shard; 0 is the meta group (default all)")
}

// only is the shard that was given; nil if none was.
func (s *shardFlag) only(cmd *cobra.Command) (*sharding.Shard, error) {
	if !cmd.Flags().Changed("shard") {
		return nil, nil
	}
	if s.number < 0 || s.number > sharding.MaxShards {
		return nil, usagef("--shard %d, want 0 to %d", s.number, sharding.MaxShards)
	}
	return new(sharding.Shard(s.number)), nil
}

func (p *program) debugLogCommand() *cobra.Command {
	var o cluster.DumpOptions
	var shard shardFlag
	var dir string
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Print the log of a node that does not run",
		Long:  debugLogHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case dir == "":
				return usagef("--data-dir is missing")
			case o.To != 0 && o.To < o.From:
				return usagef("--from %d --to %d, want no less than --from", o.From, o.To)
			case o.LogStore != "wal" && o.LogStore != "boltdb":
				return usagef("--log-store %q, want wal or boltdb", o.LogStore)
			}
			if o.Shard, err = shard.only(cmd); err != nil {
				return err
			}
			left, err := cluster.DumpLog(dir, o, p.stdout)
			if left > 0 {
				p.stderr.printf("%d entries are left out: they are not known to be committed, as the node had not flushed them when it ended. --all prints them\n", left)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data-dir", "", "the node's data directory")
	shard.add(cmd)
	f.Uint64Var(&o.From, "from", 0, "first index")
	f.Uint64Var(&o.To, "to", 0, "last index; 0: to the end")
	f.BoolVar(&o.All, "all", false, "also entries that are not known to be committed")
	f.BoolVar(&o.Values, "values", false, "whole values, in base64")
	f.StringVar(&o.LogStore, "log-store", "wal", "what keeps the log: wal or boltdb")
	return cmd
}

const debugHashHelp = `Print the hash of each shard's state, so that replicas can be compared: those that
have applied the same entries, up to the same index, must have the same.

  manykv debug hash --data-dir .manykv/n1    of a node that does not run
  manykv debug hash --online                 ask every node, and compare

--online reads all data of every node once, one shard at a time. Replicas that
are written to meanwhile are at different indexes: they cannot be compared and
are asked again a few times.

Exit codes: 0 done; 1 failed, or replicas differ, or, with --online, could not be
compared; 2 used wrongly.`

func (p *program) debugHashCommand() *cobra.Command {
	var shard shardFlag
	var dir string
	var online, asJSON bool
	cmd := &cobra.Command{
		Use:   "hash",
		Short: "Print the hashes of shards, or compare those of all nodes",
		Long:  debugHashHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if online == (dir != "") {
				return usagef("want either --data-dir or --online")
			}
			only, err := shard.only(cmd)
			if err != nil {
				return err
			}
			if online {
				return p.compareOnline(cmd.Context(), only, asJSON)
			}
			hashes, err := cluster.HashStore(cmd.Context(), dir, only)
			if err != nil {
				return err
			}
			return p.printHashes(hashes, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data-dir", "", "data directory of a node that does not run")
	f.BoolVar(&online, "online", false, "ask every node of the cluster, and compare")
	f.BoolVar(&asJSON, "json", false, "print one JSON array")
	shard.add(cmd)
	return p.connects(cmd)
}

func (p *program) printHashes(hashes []cluster.ShardHash, asJSON bool) error {
	if asJSON {
		return p.stdout.json(append([]cluster.ShardHash{}, hashes...)) // [] rather than null
	}
	rows := [][]string{{"SHARD", "INDEX", "TERM", "HASH", "ROWS"}}
	for _, h := range hashes {
		rows = append(rows, []string{fmt.Sprint(h.Shard), strconv.FormatUint(h.Index, 10), strconv.FormatUint(h.Term, 10),
			h.Hash, strconv.FormatUint(h.Rows, 10)})
	}
	p.stdout.table(false, rows)
	return nil
}

// hasher tells the hash of a replica's state.
type hasher interface {
	Hash(ctx context.Context, node sharding.NodeID, shard sharding.Shard) (index, term, hash, rows uint64, err error)
}

// replicaHash is a replica's state, or why it is not known.
type replicaHash struct {
	Node sharding.NodeID `json:"node"`
	cluster.ShardHash
	Error string `json:"error,omitempty"`
}

// compareOnline asks every replica for its hash.
func (p *program) compareOnline(ctx context.Context, only *sharding.Shard, asJSON bool) (err error) {
	c, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	all := []replicaHash{}
	var doubts []error
	for shard := range sharding.Shard(len(m.Groups) + 1) {
		if only != nil && *only != shard {
			continue
		}
		hashes, doubt := p.compareShard(ctx, c, m.Group(shard))
		all = append(all, hashes...)
		if doubt != nil {
			doubts = append(doubts, doubt)
		}
	}
	if only != nil && len(all) == 0 {
		return fmt.Errorf("there is no shard %d, want 0 to %d", *only, len(m.Groups))
	}
	if asJSON {
		err = p.stdout.json(all)
	} else {
		p.printReplicas(all)
	}
	return errors.Join(append(doubts, err)...)
}

func (p *program) printReplicas(all []replicaHash) {
	rows := [][]string{{"SHARD", "NODE", "INDEX", "TERM", "HASH", "ROWS"}}
	for _, h := range all {
		row := []string{fmt.Sprint(h.Shard), string(h.Node), "-", "-", h.Error, "-"}
		if h.Error == "" {
			row = append(row[:2], strconv.FormatUint(h.Index, 10), strconv.FormatUint(h.Term, 10), h.Hash, strconv.FormatUint(h.Rows, 10))
		}
		rows = append(rows, row)
	}
	p.stdout.table(false, rows)
}

// compareTries is how often the replicas of a shard are asked until they are at
// one index: a shard that is written to all the time never is.
const compareTries = 5

// comparePause is longer than the follower of an idle shard needs to hear of the newest
// commit: its leader tells it within half a second, and a tenth may pass on the way.
const comparePause = 700 * time.Millisecond

// compareShard returns the hashes of a shard's replicas, and an error if they
// differ, or could not be compared.
func (p *program) compareShard(ctx context.Context, c hasher, g *sharding.Group) (hashes []replicaHash, doubt error) {
	for range compareTries {
		hashes = p.hashesOf(ctx, c, g)
		if doubt = judge(hashes); doubt == nil || errors.Is(doubt, errDiffer) {
			break
		}
		select {
		case <-time.After(comparePause):
		case <-ctx.Done():
			return hashes, context.Cause(ctx)
		}
	}
	return hashes, doubt
}

func (p *program) hashesOf(ctx context.Context, c hasher, g *sharding.Group) []replicaHash {
	hashes := make([]replicaHash, len(g.Replicas))
	for i, node := range g.Replicas {
		h := &hashes[i]
		h.Node, h.Shard = node, g.Shard
		calling, done := context.WithTimeout(ctx, p.conn.timeout)
		index, term, hash, rows, err := c.Hash(calling, node, g.Shard)
		done()
		if err != nil {
			h.Error = err.Error()
			continue
		}
		h.Index, h.Term, h.Hash, h.Rows = index, term, fmt.Sprintf("%016x", hash), rows
	}
	return hashes
}

var errDiffer = errors.New("the replicas differ")

// judge says whether replicas have the same state: errDiffer if not, another
// error if that cannot be said.
func judge(hashes []replicaHash) error {
	answered := slices.DeleteFunc(slices.Clone(hashes), func(h replicaHash) bool { return h.Error != "" })
	slices.SortFunc(answered, func(a, b replicaHash) int { return cmp.Compare(a.Index, b.Index) })
	for i := 1; i < len(answered); i++ {
		a, b := &answered[i-1], &answered[i]
		if a.Index == b.Index && a.ShardHash != b.ShardHash {
			return fmt.Errorf("shard %d at entry %d: %w: %s has %s (%d rows, term %d), %s has %s (%d rows, term %d)",
				a.Shard, a.Index, errDiffer, a.Node, a.Hash, a.Rows, a.Term, b.Node, b.Hash, b.Rows, b.Term)
		}
	}
	for _, h := range hashes {
		switch {
		case h.Error != "":
			return fmt.Errorf("shard %d: %s did not say: %s", h.Shard, h.Node, h.Error)
		case h.Index != hashes[0].Index:
			return fmt.Errorf("shard %d: %s is at entry %d, %s at %d: they cannot be compared", h.Shard, h.Node, h.Index, hashes[0].Node, hashes[0].Index)
		}
	}
	return nil
}

var _ hasher = (*client.Client)(nil)
