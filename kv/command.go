package kv

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// CommandVersion is the version of the command format, the first byte of
// every log entry.
const CommandVersion = 2

// Kind says what a command does.
type Kind uint8

// The kinds of a data shard's commands.
const (
	// KindSet sets pairs of one bucket.
	KindSet Kind = 1
	// KindDelete deletes keys of one bucket; missing keys are skipped.
	KindDelete Kind = 2
	// KindLead is the first entry of a leader's term. The first of a shard
	// fixes the slots the shard owns.
	KindLead Kind = 3
	// KindIncrement adds to a decimal number; a missing key counts from 0.
	KindIncrement Kind = 4
	// KindSwap sets a pair if its key has an expected version.
	KindSwap Kind = 5
	// KindPiece puts bytes of a large value aside.
	KindPiece Kind = 6
	// KindLast completes a large value, and sets or swaps it.
	KindLast Kind = 7
	// KindDrop removes a bucket from the shard and refuses it from then on.
	KindDrop Kind = 8
	// KindBundle is several sets and deletes of a client, applied one after the other.
	KindBundle Kind = 9
)

// The kinds of shard 0, the catalogue. Their bodies are package fsm's.
const (
	KindInit         Kind = 16 // founds the catalogue
	KindCreateBucket Kind = 17 // names a new bucket
	KindNodeAddr     Kind = 18 // records where a node is now
	KindAddNode      Kind = 19 // a new node, without replicas yet
	KindRemoveNode   Kind = 20 // a node shall lose its replicas and leave
	KindReplaceNode  Kind = 21 // a node has another data directory
	KindMove         Kind = 22 // a shard's replicas begin to change
	KindMoved        Kind = 23 // and have changed
	KindForgetNode   Kind = 24 // a node without replicas has left
	KindDeleteBucket Kind = 25 // takes a bucket's name and has its data dropped
	KindDropped      Kind = 26 // a shard has dropped a bucket
	KindNewClient    Kind = 27 // gives out a client id
	KindAbort        Kind = 28 // a shard's replicas do not change after all
)

// A command is
//
//	version u8 = 2 · kind u8 · body
//
// and the bodies of a data shard's commands are
//
//	set        origin · bucket u64 · count varint · count × (key string · value string)
//	delete     origin · bucket u64 · count varint · count × key string
//	increment  origin · bucket u64 · delta u64 (two's complement) · key string
//	swap       origin · bucket u64 · version u64 · key string · value string
//	piece      origin · bucket u64 · offset u64 · key string · bytes string
//	last       origin · bucket u64 · offset u64 · swaps u8 · version u64 · key string · bytes string
//	lead       first slot u16 · last slot u16
//	drop       bucket u64
//	bundle     count varint · count × command string, each a set or a delete, all of one client
//	origin     client u64 · seq u64 · acked u64 · entry u32
//
// where a string is a varint length and the bytes, and integers are big endian.

// Origin says whose write a command is, so that it is applied once however
// often it is sent. A call has one Seq; what it sends to one shard are its
// entries 0, 1, 2 …, which a shard applies in this order, each once.
type Origin struct {
	Client uint64 // id of the session, from the catalogue; 0: none, and nothing is remembered
	Seq    uint64 // number of the call in its session, from 1
	Acked  uint64 // all calls up to here are answered and are never sent again; less than Seq
	Entry  uint32 // number of the command among the call's for this shard
}

// MaxOpenCalls is how many calls of one session may be without an answer: Seq
// is at most Acked + MaxOpenCalls. It bounds what a shard remembers of a client.
const MaxOpenCalls = 1024

// headerBytes is the size of version and kind.
const headerBytes = 2

// AppendHeader appends version and kind.
func AppendHeader(dst []byte, kind Kind) []byte { return append(dst, CommandVersion, byte(kind)) }

// Header reads version and kind of a command and returns a decoder of its body.
func Header(command []byte) (Kind, *Decoder, error) {
	d := NewDecoder(command)
	version, kind := d.U8(), Kind(d.U8())
	if d.err != nil {
		return 0, nil, d.err
	}
	if version != CommandVersion {
		return 0, nil, fmt.Errorf("%w: command version %d, want %d", ErrMalformed, version, CommandVersion)
	}
	return kind, d, nil
}

// KindOf returns the kind of a command without reading on; 0 if it is none of
// this version.
func KindOf(command []byte) Kind {
	if len(command) < headerBytes || command[0] != CommandVersion {
		return 0
	}
	return Kind(command[1])
}

func appendOrigin(dst []byte, o Origin, bucket uint64) []byte {
	dst = binary.BigEndian.AppendUint64(dst, o.Client)
	dst = binary.BigEndian.AppendUint64(dst, o.Seq)
	dst = binary.BigEndian.AppendUint64(dst, o.Acked)
	dst = binary.BigEndian.AppendUint32(dst, o.Entry)
	return binary.BigEndian.AppendUint64(dst, bucket)
}

// AppendSet appends a set command.
func AppendSet(dst []byte, o Origin, bucket uint64, pairs []Pair) []byte {
	dst = appendOrigin(AppendHeader(dst, KindSet), o, bucket)
	dst = binary.AppendUvarint(dst, uint64(len(pairs)))
	for i := range pairs {
		dst = AppendString(dst, pairs[i].Key)
		dst = AppendBytes(dst, pairs[i].Value)
	}
	return dst
}

// AppendDelete appends a delete command.
func AppendDelete(dst []byte, o Origin, bucket uint64, keys []string) []byte {
	return AppendKeys(appendOrigin(AppendHeader(dst, KindDelete), o, bucket), keys)
}

// AppendIncrement appends an increment command.
func AppendIncrement(dst []byte, o Origin, bucket uint64, key string, delta int64) []byte {
	dst = appendOrigin(AppendHeader(dst, KindIncrement), o, bucket)
	dst = binary.BigEndian.AppendUint64(dst, uint64(delta))
	return AppendString(dst, key)
}

// AppendSwap appends a swap command: it sets the pair if the key's version is
// the given one, 0 for a key that is not there.
func AppendSwap(dst []byte, o Origin, bucket uint64, version uint64, p Pair) []byte {
	dst = appendOrigin(AppendHeader(dst, KindSwap), o, bucket)
	dst = binary.BigEndian.AppendUint64(dst, version)
	return AppendBytes(AppendString(dst, p.Key), p.Value)
}

// AppendPiece appends a piece command: p.Value are the bytes from offset on of a
// value that a last command will complete.
func AppendPiece(dst []byte, o Origin, bucket uint64, offset uint64, p Pair) []byte {
	dst = appendOrigin(AppendHeader(dst, KindPiece), o, bucket)
	dst = binary.BigEndian.AppendUint64(dst, offset)
	return AppendBytes(AppendString(dst, p.Key), p.Value)
}

// AppendLast appends a last command: p.Value are the final bytes, from offset
// on, of a value whose others were put aside by pieces. It sets the pair, or, if
// swaps, does what a swap command with version does.
func AppendLast(dst []byte, o Origin, bucket uint64, offset uint64, swaps bool, version uint64, p Pair) []byte {
	dst = appendOrigin(AppendHeader(dst, KindLast), o, bucket)
	dst = binary.BigEndian.AppendUint64(dst, offset)
	dst = AppendBool(dst, swaps)
	dst = binary.BigEndian.AppendUint64(dst, version)
	return AppendBytes(AppendString(dst, p.Key), p.Value)
}

// AppendDrop appends a drop command.
func AppendDrop(dst []byte, bucket uint64) []byte {
	return binary.BigEndian.AppendUint64(AppendHeader(dst, KindDrop), bucket)
}

// AppendLead appends a lead command for the slots first to last, inclusive.
func AppendLead(dst []byte, first, last uint16) []byte {
	dst = AppendHeader(dst, KindLead)
	dst = binary.BigEndian.AppendUint16(dst, first)
	return binary.BigEndian.AppendUint16(dst, last)
}

// BundlesWith says whether two commands may stand in one bundle: they are sets or deletes,
// which read nothing that a command before them in the same entry may have written, of
// one client, whose session then has one entry more whatever the bundle has.
func BundlesWith(a, b []byte) bool {
	clientA, okA := bundles(a)
	clientB, okB := bundles(b)
	return okA && okB && clientA == clientB
}

// bundles says whether a command may stand in a bundle, and of which client it is.
func bundles(command []byte) (client uint64, ok bool) {
	kind := KindOf(command)
	if kind != KindSet && kind != KindDelete || len(command) < headerBytes+8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(command[headerBytes:]), true
}

// BundleBytes is the most that a bundle of so many commands, of so many bytes in all,
// may take.
func BundleBytes(commands, bytes int) int {
	return headerBytes + (1+commands)*binary.MaxVarintLen32 + bytes
}

// AppendBundle appends a bundle of commands, each of which BundlesWith the others. Each has
// its result for itself, but all of them share an entry of the log, and so a version.
func AppendBundle(dst []byte, commands [][]byte) []byte {
	dst = binary.AppendUvarint(AppendHeader(dst, KindBundle), uint64(len(commands)))
	for _, c := range commands {
		dst = AppendBytes(dst, c)
	}
	return dst
}

// bundledBytes is the least a command takes in a bundle: length, header and client.
const bundledBytes = 1 + headerBytes + 8

// DecodeBundle returns the commands of a bundle, which alias it and of which only the
// kind and the client are checked.
func DecodeBundle(bundle []byte) ([][]byte, error) {
	kind, d, err := Header(bundle)
	if err != nil {
		return nil, err
	}
	if kind != KindBundle {
		return nil, fmt.Errorf("%w: command kind %d, want a bundle", ErrMalformed, kind)
	}
	n := d.Count(bundledBytes)
	if d.Err() == nil && n == 0 {
		d.Fail("a bundle of no commands")
	}
	commands := make([][]byte, n)
	for i := range commands {
		commands[i] = d.Bytes()
		if d.Err() == nil && !BundlesWith(commands[0], commands[i]) {
			d.Fail("command %d of %d of a bundle is of kind %d, want a set or a delete, and one client's", i, n, KindOf(commands[i]))
		}
	}
	return commands, d.Finish()
}

// Write is a decoded command of a client: what package fsm applies and what a
// node checks before proposing. Iterate over its keys with Next; keys and values
// alias the command.
type Write struct {
	Kind    Kind
	Origin  Origin
	Bucket  uint64
	Count   int    // keys
	Delta   int64  // of an increment
	Version uint64 // of a swap, and of a last that swaps: what the key must have
	Swaps   bool   // of a last
	Offset  uint64 // of a piece or last: where its bytes are in the value
	d       *Decoder
	read    int
}

// DecodeWrite reads the start of a client's command.
func DecodeWrite(command []byte) (Write, error) {
	kind, d, err := Header(command)
	if err != nil {
		return Write{}, err
	}
	if kind == KindLead || kind > KindLast || kind == 0 {
		return Write{}, fmt.Errorf("%w: command kind %d, want a client's write", ErrMalformed, kind)
	}
	w := Write{
		Kind:   kind,
		Origin: Origin{Client: d.U64(), Seq: d.U64(), Acked: d.U64(), Entry: d.U32()},
		Bucket: d.U64(), Count: 1, d: d,
	}
	switch kind {
	case KindSet:
		w.Count = d.Count(2)
	case KindDelete:
		w.Count = d.Count(1)
	case KindIncrement:
		w.Delta = int64(d.U64())
	case KindSwap:
		w.Version = d.U64()
	case KindPiece:
		w.Offset = d.U64()
	case KindLast:
		w.Offset, w.Swaps, w.Version = d.U64(), d.Bool(), d.U64()
	}
	return w, d.Err()
}

// valued says whether a value follows each key.
func (w *Write) valued() bool { return w.Kind != KindDelete && w.Kind != KindIncrement }

// Next returns the next key, and its value, or its piece, when the command has
// one. ok is false at the end; then Err says whether it was the proper end.
func (w *Write) Next() (key, value []byte, ok bool) {
	if w.read == w.Count {
		return nil, nil, false
	}
	key = w.d.Bytes()
	if w.valued() {
		value = w.d.Bytes()
	}
	if w.d.err != nil {
		return nil, nil, false
	}
	w.read++
	return key, value, true
}

// Err returns the error that ended Next, or one if bytes are left over.
func (w *Write) Err() error { return w.d.Finish() }

// checkOrigin says whether a node may propose a command of this origin.
func (w *Write) checkOrigin() error {
	o := &w.Origin
	switch {
	case o.Client == 0 && (w.Kind == KindPiece || w.Kind == KindLast):
		return fmt.Errorf("%w: a piece of a value without a session", ErrInvalid)
	case o.Client != 0 && (o.Seq <= o.Acked || o.Seq-o.Acked > MaxOpenCalls):
		return fmt.Errorf("%w: call %d of a session that has acknowledged %d, want %d to %d",
			ErrInvalid, o.Seq, o.Acked, o.Acked+1, o.Acked+MaxOpenCalls)
	}
	return nil
}

// CheckWrite decodes a client's command to its end and checks it against the
// limits, so that nothing a client sends reaches the log unread.
func (l Limits) CheckWrite(command []byte) (Write, error) {
	if len(command) > MaxCommandBytes {
		return Write{}, fmt.Errorf("%w: a command of %d bytes, at most %d are allowed", ErrTooLarge, len(command), MaxCommandBytes)
	}
	w, err := DecodeWrite(command)
	if err != nil {
		return Write{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := w.checkOrigin(); err != nil {
		return Write{}, err
	}
	if err := l.checkCount(w.Count); err != nil {
		return Write{}, err
	}
	if w.Offset > uint64(l.ValueBytes) {
		return Write{}, fmt.Errorf("%w: a piece at byte %d of a value, at most %d are allowed", ErrTooLarge, w.Offset, l.ValueBytes)
	}
	total := 0
	rest := *w.d // iterate over a copy: the caller gets w unread
	check := w
	check.d = &rest
	for {
		key, value, ok := check.Next()
		if !ok {
			break
		}
		if len(key) > l.KeyBytes || int(w.Offset)+len(value) > l.ValueBytes {
			return Write{}, fmt.Errorf("%w: key of %d bytes (at most %d), value of %d bytes (at most %d)",
				ErrTooLarge, len(key), l.KeyBytes, int(w.Offset)+len(value), l.ValueBytes)
		}
		total += len(key) + len(value)
		if !utf8.Valid(key) {
			return Write{}, fmt.Errorf("%w: key %q is not valid UTF-8", ErrInvalid, clip(string(key)))
		}
	}
	if err := check.Err(); err != nil {
		return Write{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := l.checkBytes(total); err != nil {
		return Write{}, err
	}
	return w, nil
}
