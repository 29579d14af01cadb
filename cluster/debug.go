package cluster

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/raftlog"
	"github.com/manykv/manykv/sharding"
)

// What is here lets a node's state and log be looked into. Of a node that does
// not run it reads the data directory: it takes the directory's lock, and changes
// nothing.

// serveHash answers with the hash of a replica's state. It reads all of it, one
// shard at a time.
func (n *Node) serveHash(ctx context.Context, request []byte) ([]byte, error) {
	shard, err := coordinator.DecodeHashRequest(request)
	if err != nil {
		return nil, err
	}
	r := n.replica(shard)
	if r == nil {
		return nil, fmt.Errorf("node %s has no replica of shard %d", n.name, shard)
	}
	h, err := r.machine.Hash(ctx)
	if err != nil {
		return nil, err
	}
	return coordinator.HashAnswer{Index: h.Index, Term: h.Term, Hash: h.Hash, Rows: h.Rows}.Append(nil), nil
}

// DumpOptions say which entries DumpLog prints. The zero value is all that are
// known to be committed, with the lengths and sums of their values.
type DumpOptions struct {
	LogStore string          // as Config.LogStore
	Shard    *sharding.Shard // only this one; nil: all
	From, To uint64          // indexes, both included; To 0: to the end
	All      bool            // also entries not known to be committed
	Values   bool            // values in whole
}

// wants says whether an entry is asked for, committed or not.
func (o *DumpOptions) wants(shard sharding.Shard, index uint64) bool {
	return (o.Shard == nil || *o.Shard == shard) && index >= o.From && (o.To == 0 || index <= o.To)
}

// DumpLog prints the entries in a node's log, shard by shard, one a line of
// JSON, and one for each command of an entry that bundles several. The log begins
// where it was cut after the last snapshot. An entry is known to be committed if the state machine, as it is on disk, has applied it:
// after a crash that may be far fewer than were. It returns how many entries that o
// asks for are left out because they are not known to be.
func DumpLog(dir string, o DumpOptions, w io.Writer) (left int, err error) {
	if o.LogStore == "" {
		o.LogStore = raftlog.StoreWAL
	}
	rest, err := openResting(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rest.close()) }()
	buffered := bufio.NewWriterSize(w, 1<<16)
	lines := json.NewEncoder(buffered)
	lines.SetEscapeHTML(false)
	applied := make(map[sharding.Shard]fsm.Position)
	err = raftlog.Read(raftlog.Config{Dir: dir, Store: o.LogStore}, func(number uint32, generation uint64, e *raft.Log) error {
		shard := sharding.Shard(number)
		if !o.wants(shard, e.Index) {
			return nil
		}
		position, ok := applied[shard]
		if !ok {
			if position, err = rest.position(shard); err != nil {
				return err
			}
			applied[shard] = position
		}
		committed := e.Index <= position.Index
		if !committed && !o.All {
			left++
			return nil
		}
		for _, line := range newLogLines(e, o.Values) {
			line.Shard, line.Generation, line.Committed = shard, generation, committed
			if err := lines.Encode(line); err != nil {
				return err
			}
		}
		return nil
	})
	return left, errors.Join(err, buffered.Flush())
}

// ShardHash is a replica's state, by its hash: replicas at the same index have
// the same.
type ShardHash struct {
	Shard sharding.Shard `json:"shard"`
	Index uint64         `json:"index"` // of the newest entry applied
	Term  uint64         `json:"term"`
	Hash  string         `json:"hash"` // xxhash64 of all rows, in hex
	Rows  uint64         `json:"rows"`
}

// HashStore returns the hashes of a node's state machines as they are on disk,
// or of one of them. A shard that was never applied to has none.
func HashStore(ctx context.Context, dir string, only *sharding.Shard) (hashes []ShardHash, err error) {
	rest, err := openResting(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rest.close()) }()
	shards := []sharding.Shard{sharding.Meta}
	if m := rest.catalog.Map(); m != nil {
		for i := range m.Groups {
			shards = append(shards, m.Groups[i].Shard)
		}
	}
	if only != nil {
		shards = []sharding.Shard{*only}
	}
	for _, shard := range shards {
		machine, err := rest.machine(shard)
		if err != nil {
			return nil, err
		}
		if machine.Position().Index == 0 {
			continue
		}
		h, err := machine.Hash(ctx)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, ShardHash{Shard: shard, Index: h.Index, Term: h.Term, Hash: fmt.Sprintf("%016x", h.Hash), Rows: h.Rows})
	}
	return hashes, nil
}

// resting is the data directory of a node that does not run.
type resting struct {
	lock    *os.File
	store   *fsm.Store
	catalog *fsm.Catalogue
}

// hasher is what reading needs of a state machine.
type hasher interface {
	Position() fsm.Position
	Hash(ctx context.Context) (fsm.StateHash, error)
}

func openResting(dir string) (*resting, error) {
	d := dataDir{path: dir}
	b, err := os.ReadFile(d.sub(identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is no data directory of a node: it has no %s", dir, identityFile)
	}
	if err == nil {
		_, err = decodeIdentity(b)
	}
	if err != nil {
		return nil, fmt.Errorf("identity of the data directory, %s: %w", d.sub(identityFile), err)
	}
	r := &resting{}
	if r.lock, err = lockDataDir(dir); err != nil {
		return nil, err
	}
	var failed error
	r.store, err = fsm.Open(fsm.Config{Dir: d.sub(storeDir), ReadOnly: true, Fatal: func(err error) { failed = err }})
	if err == nil {
		r.catalog, err = r.store.Catalogue()
	}
	if err != nil {
		return nil, errors.Join(err, failed, r.close())
	}
	return r, nil
}

func (r *resting) close() (err error) {
	if r.store != nil {
		err = r.store.Close()
	}
	return errors.Join(err, r.lock.Close())
}

func (r *resting) machine(shard sharding.Shard) (hasher, error) {
	if shard == sharding.Meta {
		return r.catalog, nil
	}
	return r.store.Data(shard)
}

func (r *resting) position(shard sharding.Shard) (fsm.Position, error) {
	m, err := r.machine(shard)
	if err != nil {
		return fsm.Position{}, err
	}
	return m.Position(), nil
}

// A logLine is an entry of a log as DumpLog prints it, or a command of a bundle.
type logLine struct {
	Shard      sharding.Shard `json:"shard"`
	Generation uint64         `json:"generation"`
	Index      uint64         `json:"index"`
	Term       uint64         `json:"term"`
	Committed  bool           `json:"committed"`
	Time       uint64         `json:"time,omitempty"` // the shard's, in milliseconds
	Kind       string         `json:"kind"`
	Bytes      int            `json:"bytes"`             // of the command
	Command    int            `json:"command,omitempty"` // of a bundle: its place in there, from 1
	Commands   int            `json:"commands,omitempty"`

	Origin  *originLine `json:"origin,omitempty"`
	Bucket  *uint64     `json:"bucket,omitempty"`
	Delta   *int64      `json:"delta,omitempty"`
	Version *uint64     `json:"version,omitempty"` // that a swap wants
	Offset  *uint64     `json:"offset,omitempty"`  // of a piece's bytes in the value
	Pairs   []pairLine  `json:"pairs,omitempty"`
	Error   string      `json:"error,omitempty"` // why the command cannot be read
}

type originLine struct {
	Client uint64 `json:"client"`
	Seq    uint64 `json:"seq"`
	Acked  uint64 `json:"acked"`
	Entry  uint32 `json:"entry"`
}

// A pairLine is a key, and what is known of its value, or its piece of one.
type pairLine struct {
	Key       *string    `json:"key,omitempty"`
	KeyBase64 string     `json:"key_base64,omitempty"` // of one that is not UTF-8
	Value     *valueLine `json:"value,omitempty"`
}

type valueLine struct {
	Bytes  int    `json:"bytes"`
	XXHash string `json:"xxhash64"`
	Begins string `json:"begins_hex,omitempty"`
	Base64 string `json:"base64,omitempty"`
}

// beginning is how much of a value is shown to recognise it by.
const beginning = 16

// newLogLines takes an entry apart.
func newLogLines(e *raft.Log, values bool) []*logLine {
	if e.Type != raft.LogCommand || kv.KindOf(e.Data) != kv.KindBundle {
		return []*logLine{newLogLine(e, values)}
	}
	commands, err := kv.DecodeBundle(e.Data)
	if err != nil {
		line := newLogLine(e, values)
		line.Error = err.Error()
		return []*logLine{line}
	}
	lines := make([]*logLine, len(commands))
	for i, c := range commands {
		one := *e
		one.Data = c
		lines[i] = newLogLine(&one, values)
		lines[i].Command, lines[i].Commands = i+1, len(commands)
	}
	return lines
}

// newLogLine is an entry, or a command, on a line.
func newLogLine(e *raft.Log, values bool) *logLine {
	line := &logLine{Index: e.Index, Term: e.Term, Time: readStamp(e.Extensions), Bytes: len(e.Data)}
	if e.Type != raft.LogCommand {
		line.Kind = "raft:" + e.Type.String()
		return line
	}
	kind, _, err := kv.Header(e.Data)
	if err != nil {
		line.Kind, line.Error = "unreadable", err.Error()
		return line
	}
	line.Kind = kindNames[kind]
	if line.Kind == "" {
		line.Kind = fmt.Sprintf("kind %d", kind)
	}
	w, err := kv.DecodeWrite(e.Data)
	if err == nil {
		line.describe(&w)
		err = line.addPairs(&w, values)
	} else if kind == kv.KindLead || kind > kv.KindLast {
		return line // no client's write
	}
	if err != nil {
		line.Error = err.Error()
	}
	return line
}

// describe shows what a write has besides its keys.
func (line *logLine) describe(w *kv.Write) {
	line.Origin = &originLine{w.Origin.Client, w.Origin.Seq, w.Origin.Acked, w.Origin.Entry}
	line.Bucket = &w.Bucket
	switch w.Kind {
	case kv.KindIncrement:
		line.Delta = &w.Delta
	case kv.KindSwap:
		line.Version = &w.Version
	case kv.KindPiece:
		line.Offset = &w.Offset
	case kv.KindLast:
		line.Offset = &w.Offset
		if w.Swaps {
			line.Version = &w.Version
		}
	}
}

func (line *logLine) addPairs(w *kv.Write, values bool) error {
	for {
		key, value, ok := w.Next()
		if !ok {
			return w.Err()
		}
		var p pairLine
		if utf8.Valid(key) {
			p.Key = new(string(key))
		} else {
			p.KeyBase64 = base64.StdEncoding.EncodeToString(key)
		}
		if value != nil {
			p.Value = &valueLine{Bytes: len(value), XXHash: fmt.Sprintf("%016x", xxhash.Sum64(value))}
			if values {
				p.Value.Base64 = base64.StdEncoding.EncodeToString(value)
			} else {
				p.Value.Begins = hex.EncodeToString(value[:min(beginning, len(value))])
			}
		}
		line.Pairs = append(line.Pairs, p)
	}
}

// kindNames are the words for the kinds of commands.
var kindNames = map[kv.Kind]string{
	kv.KindSet: "set", kv.KindDelete: "delete", kv.KindLead: "lead", kv.KindIncrement: "increment", kv.KindSwap: "swap",
	kv.KindPiece: "piece", kv.KindLast: "last", kv.KindDrop: "drop", kv.KindBundle: "bundle",
	kv.KindInit: "init", kv.KindCreateBucket: "create-bucket", kv.KindNodeAddr: "node-addr", kv.KindAddNode: "add-node",
	kv.KindRemoveNode: "remove-node", kv.KindReplaceNode: "replace-node", kv.KindMove: "move", kv.KindMoved: "moved",
	kv.KindForgetNode: "forget-node", kv.KindDeleteBucket: "delete-bucket", kv.KindDropped: "dropped", kv.KindNewClient: "new-client",
	kv.KindAbort: "abort",
}
