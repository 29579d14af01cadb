package kv

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// CommandVersion is the version of the command format, the first byte of
// every log entry.
const CommandVersion = 1

// Kind says what a command does.
type Kind uint8

const (
	// KindSet sets pairs of one bucket.
	KindSet Kind = 1
	// KindDelete deletes keys of one bucket; missing keys are skipped.
	KindDelete Kind = 2
	// KindLead is the first entry of a leader's term. The first of a shard
	// fixes the slots the shard owns.
	KindLead Kind = 3
	// KindInit founds the catalogue (shard 0 only).
	KindInit Kind = 16
	// KindCreateBucket names a new bucket (shard 0 only).
	KindCreateBucket Kind = 17
	// KindNodeAddr records where a node is now (shard 0 only).
	KindNodeAddr Kind = 18
)

// A command is
//
//	version u8 = 1 · kind u8 · body
//
// and the bodies of the data commands are
//
//	set     bucket u64 · count varint · count × (key string · value string)
//	delete  bucket u64 · count varint · count × key string
//	lead    first slot u16 · last slot u16
//
// where a string is a varint length and the bytes, and integers are big endian.
// The bodies of shard 0's commands belong to the catalogue (package fsm).

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

// AppendSet appends a set command.
func AppendSet(dst []byte, bucket uint64, pairs []Pair) []byte {
	dst = AppendHeader(dst, KindSet)
	dst = binary.BigEndian.AppendUint64(dst, bucket)
	dst = binary.AppendUvarint(dst, uint64(len(pairs)))
	for i := range pairs {
		dst = AppendString(dst, pairs[i].Key)
		dst = AppendBytes(dst, pairs[i].Value)
	}
	return dst
}

// AppendDelete appends a delete command.
func AppendDelete(dst []byte, bucket uint64, keys []string) []byte {
	dst = AppendHeader(dst, KindDelete)
	dst = binary.BigEndian.AppendUint64(dst, bucket)
	return AppendKeys(dst, keys)
}

// AppendLead appends a lead command for the slots first to last, inclusive.
func AppendLead(dst []byte, first, last uint16) []byte {
	dst = AppendHeader(dst, KindLead)
	dst = binary.BigEndian.AppendUint16(dst, first)
	return binary.BigEndian.AppendUint16(dst, last)
}

// Write is a decoded set or delete command: what package fsm applies and what
// a node checks before proposing. Iterate with Next; keys and values alias the
// command.
type Write struct {
	Kind   Kind
	Bucket uint64
	Count  int
	d      *Decoder
	read   int
}

// DecodeWrite reads the start of a set or delete command.
func DecodeWrite(command []byte) (Write, error) {
	kind, d, err := Header(command)
	if err != nil {
		return Write{}, err
	}
	w := Write{Kind: kind, d: d}
	switch kind {
	case KindSet:
		w.Bucket = d.U64()
		w.Count = d.Count(2)
	case KindDelete:
		w.Bucket = d.U64()
		w.Count = d.Count(1)
	default:
		return Write{}, fmt.Errorf("%w: command kind %d, want set or delete", ErrMalformed, kind)
	}
	return w, d.Err()
}

// Next returns the next key, and its value when the command sets. ok is false
// at the end; then Err says whether it was the proper end.
func (w *Write) Next() (key, value []byte, ok bool) {
	if w.read == w.Count {
		return nil, nil, false
	}
	key = w.d.Bytes()
	if w.Kind == KindSet {
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

// CheckWrite decodes a set or delete command to its end and checks it against
// the limits, so that nothing a client sends reaches the log unread.
func (l Limits) CheckWrite(command []byte) (Write, error) {
	if len(command) > MaxCommandBytes {
		return Write{}, fmt.Errorf("%w: a command of %d bytes, at most %d are allowed", ErrTooLarge, len(command), MaxCommandBytes)
	}
	w, err := DecodeWrite(command)
	if err != nil {
		return Write{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := l.checkCount(w.Count); err != nil {
		return Write{}, err
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
		if len(key) > l.KeyBytes || len(value) > l.ValueBytes {
			return Write{}, fmt.Errorf("%w: key of %d bytes (at most %d), value of %d bytes (at most %d)",
				ErrTooLarge, len(key), l.KeyBytes, len(value), l.ValueBytes)
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
