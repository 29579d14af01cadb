package kv

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxCommandBytes bounds one log entry whatever the configuration: raft
	// bounds its messages in entries, so this is what bounds memory.
	MaxCommandBytes = 256 << 10

	// MaxValueBytes is the largest value there can be: it is written to the
	// store in one piece.
	MaxValueBytes = 8 << 20

	// CommandOverhead is more than a command of one pair needs besides its key
	// and value: version, kind, origin, bucket, numbers and the two lengths.
	CommandOverhead = 96

	// minPiece is the least part of a large value in one command, whatever
	// Limits.EntryBytes says.
	minPiece = 1 << 10
)

// Limits bound what a caller may ask for. The zero value of a field means its
// default. They are checked before anything is allocated for the request, by
// the caller's library and again by the node.
type Limits struct {
	KeyBytes    int // longest key; default 4 KiB
	ValueBytes  int // longest value; default and maximum 8 MiB
	BatchKeys   int // most keys in a batch; default 10,000
	BatchBytes  int // most bytes of keys and values in a batch; default 32 MiB
	AnswerBytes int // most bytes in a get-many's answer; default 64 MiB
	EntryBytes  int // a part, or a value, larger than this becomes several commands; default and maximum 256 KiB, which is the most of a log entry
}

// WithDefaults returns l with every zero field set to its default.
func (l Limits) WithDefaults() Limits {
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	set(&l.KeyBytes, 4<<10)
	set(&l.ValueBytes, MaxValueBytes)
	set(&l.BatchKeys, 10_000)
	set(&l.BatchBytes, 32<<20)
	set(&l.AnswerBytes, 64<<20)
	set(&l.EntryBytes, MaxCommandBytes)
	return l
}

// Validate says what is wrong with l, after defaults.
func (l Limits) Validate() error {
	for _, f := range []struct {
		name     string
		got, max int
	}{
		{"key bytes", l.KeyBytes, 64 << 10},
		{"value bytes", l.ValueBytes, MaxValueBytes},
		{"batch keys", l.BatchKeys, 1 << 20},
		{"batch bytes", l.BatchBytes, 64 << 20},
		{"answer bytes", l.AnswerBytes, 64 << 20},
		{"entry bytes", l.EntryBytes, MaxCommandBytes},
	} {
		if f.got < 1 || f.got > f.max {
			return fmt.Errorf("%w: the limit of %s is %d, want 1 to %d", ErrInvalid, f.name, f.got, f.max)
		}
	}
	return nil
}

// PairFits says whether a pair fits one command; otherwise its value travels in
// pieces of PieceBytes.
func (l Limits) PairFits(p Pair) bool {
	return len(p.Key)+len(p.Value) <= l.EntryBytes-CommandOverhead || len(p.Value) <= minPiece
}

// PieceBytes is how many bytes of a large value go into one command beside its
// key.
func (l Limits) PieceBytes(key string) int {
	return max(l.EntryBytes-CommandOverhead-len(key), minPiece)
}

// CheckKey says whether key may be used.
func (l Limits) CheckKey(key string) error {
	if len(key) > l.KeyBytes {
		return fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(key), l.KeyBytes)
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("%w: key %q is not valid UTF-8", ErrInvalid, clip(key))
	}
	return nil
}

// CheckKeys checks a batch of keys: their number, each of them, and their
// bytes in all.
func (l Limits) CheckKeys(keys []string) error {
	if err := l.checkCount(len(keys)); err != nil {
		return err
	}
	total := 0
	for i, key := range keys {
		if err := l.CheckKey(key); err != nil {
			return fmt.Errorf("key %d of %d: %w", i, len(keys), err)
		}
		total += len(key)
	}
	return l.checkBytes(total)
}

// CheckPairs checks a batch of pairs as CheckKeys does, with their values.
func (l Limits) CheckPairs(pairs []Pair) error {
	if err := l.checkCount(len(pairs)); err != nil {
		return err
	}
	total := 0
	for i := range pairs {
		p := &pairs[i]
		if err := l.CheckKey(p.Key); err != nil {
			return fmt.Errorf("pair %d of %d: %w", i, len(pairs), err)
		}
		if len(p.Value) > l.ValueBytes {
			return fmt.Errorf("pair %d of %d: %w: the value of key %q has %d bytes, at most %d are allowed",
				i, len(pairs), ErrTooLarge, clip(p.Key), len(p.Value), l.ValueBytes)
		}
		total += len(p.Key) + len(p.Value)
	}
	return l.checkBytes(total)
}

func (l Limits) checkCount(n int) error {
	if n > l.BatchKeys {
		return fmt.Errorf("%w: a batch of %d keys, at most %d are allowed", ErrTooLarge, n, l.BatchKeys)
	}
	return nil
}

func (l Limits) checkBytes(n int) error {
	if n > l.BatchBytes {
		return fmt.Errorf("%w: a batch of %d bytes, at most %d are allowed", ErrTooLarge, n, l.BatchBytes)
	}
	return nil
}

// maxBucketName is the longest bucket name in bytes.
const maxBucketName = 255

// CheckBucketName says whether name may name a bucket: 1 to 255 bytes of valid
// UTF-8 without control characters and without a colon (which separates bucket
// and key in the protocols of gateways).
func CheckBucketName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: an empty bucket name, 1 to %d bytes are allowed", ErrInvalid, maxBucketName)
	case len(name) > maxBucketName:
		return fmt.Errorf("%w: a bucket name of %d bytes, 1 to %d are allowed", ErrInvalid, len(name), maxBucketName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: bucket name %q is not valid UTF-8", ErrInvalid, name)
	}
	for _, r := range name {
		if r == ':' || unicode.IsControl(r) {
			return fmt.Errorf("%w: bucket name %q holds %q; control characters and ':' are not allowed", ErrInvalid, name, r)
		}
	}
	return nil
}

// clip shortens a key for an error message, between two characters if it has
// any.
func clip(key string) string {
	const most = 64
	if len(key) <= most {
		return key
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(key[end]) {
		end--
	}
	return key[:end] + "…"
}
