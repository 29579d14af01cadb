package fsm

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
)

// piece puts bytes of the value of key "k" aside.
func piece(o kv.Origin, offset uint64, part string) []byte {
	return kv.AppendPiece(nil, o, 1, offset, kv.Pair{Key: "k", Value: []byte(part)})
}

// last completes the value of key "k".
func last(o kv.Origin, offset uint64, part string) []byte {
	return kv.AppendLast(nil, o, 1, offset, false, 0, kv.Pair{Key: "k", Value: []byte(part)})
}

// lastSwap completes it if the key has a version.
func lastSwap(o kv.Origin, offset uint64, part string, version uint64) []byte {
	return kv.AppendLast(nil, o, 1, offset, true, version, kv.Pair{Key: "k", Value: []byte(part)})
}

// pieceStep is a command and what shall become of it.
type pieceStep struct {
	command []byte
	value   uint64
	err     error
}

// TestPieces sends a client's pieces, each time to a shard whose key "k" has the
// version 2, in one batch, in several, and with restarts.
func TestPieces(t *testing.T) {
	acked := func(seq, acked uint64, entry uint32) kv.Origin {
		return kv.Origin{Client: 1, Seq: seq, Acked: acked, Entry: entry}
	}
	for _, c := range []struct {
		name  string
		steps []pieceStep
		left  string // what the key is in the end; "": as it was
		aside int    // pieces left in the end
	}{
		{"a value", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 1), 2, "cde"), 0, nil}, {last(by(1, 1, 2), 5, "f"), 0, nil},
		}, "abcdef@5", 0},
		{"not without the last", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 1), 2, "cd"), 0, nil},
		}, "", 2},
		{"each sent twice", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 0), 0, "ab"), 0, nil},
			{piece(by(1, 1, 1), 2, "cd"), 0, nil}, {piece(by(1, 1, 1), 2, "cd"), 0, nil},
			{last(by(1, 1, 2), 4, "e"), 0, nil}, {last(by(1, 1, 2), 4, "e"), 0, nil},
		}, "abcde@7", 0},
		{"a last alone", []pieceStep{{last(by(1, 1, 0), 0, "whole"), 0, nil}}, "whole@3", 0},
		{"empty parts", []pieceStep{
			{piece(by(1, 1, 0), 0, ""), 0, nil}, {piece(by(1, 1, 1), 0, "a"), 0, nil},
			{piece(by(1, 1, 2), 1, ""), 0, nil}, {piece(by(1, 1, 3), 1, "b"), 0, nil}, {last(by(1, 1, 4), 2, ""), 0, nil},
		}, "ab@7", 0},
		{"two values of one call", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {last(by(1, 1, 1), 2, "c"), 0, nil},
			{piece(by(1, 1, 2), 0, "x"), 0, nil}, {last(by(1, 1, 3), 1, "y"), 0, nil},
		}, "xy@6", 0},
		{"two calls at once", []pieceStep{
			{piece(by(1, 2, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 0), 0, "xy"), 0, nil},
			{piece(by(1, 1, 1), 2, "z"), 0, nil}, {last(by(1, 2, 1), 2, "c"), 0, nil},
		}, "abc@6", 2},
		{"two clients at once", []pieceStep{
			{piece(by(2, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 0), 0, "xy"), 0, nil}, {last(by(2, 1, 1), 2, "c"), 0, nil},
		}, "abc@5", 1},
		{"other writes between", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {kv.AppendDelete(nil, by(1, 1, 1), 1, []string{"k"}), 0, nil}, {last(by(1, 1, 2), 2, "c"), 0, nil},
		}, "abc@5", 0},
		{"begun again", []pieceStep{
			{piece(by(1, 1, 0), 0, "long one"), 0, nil}, {piece(by(1, 1, 1), 0, "ab"), 0, nil}, {last(by(1, 1, 2), 2, "c"), 0, nil},
		}, "abc@5", 0},
		{"given up for a last alone", []pieceStep{
			{piece(by(1, 1, 0), 0, "long one"), 0, nil}, {last(by(1, 1, 1), 0, "ab"), 0, nil},
		}, "ab@4", 0},
		{"a gap", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 1), 3, "d"), 0, kv.ErrInvalid}, {last(by(1, 1, 2), 2, "c"), 0, kv.ErrInvalid},
		}, "", 0},
		{"an overlap", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {last(by(1, 1, 1), 1, "c"), 0, kv.ErrInvalid},
			{last(by(1, 1, 1), 2, "c"), 0, kv.ErrInvalid},
		}, "", 0},
		{"of another call", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {last(by(1, 2, 0), 2, "c"), 0, kv.ErrInvalid}, {last(by(1, 1, 1), 2, "d"), 0, nil},
		}, "abd@5", 0},
		{"of another key", []pieceStep{
			{kv.AppendPiece(nil, by(1, 1, 0), 1, 0, kv.Pair{Key: "other", Value: []byte("ab")}), 0, nil}, {last(by(1, 1, 1), 2, "c"), 0, kv.ErrInvalid},
		}, "", 0},
		{"of another bucket", []pieceStep{
			{kv.AppendPiece(nil, by(1, 1, 0), 2, 0, kv.Pair{Key: "k", Value: []byte("ab")}), 0, nil}, {last(by(1, 1, 1), 2, "c"), 0, kv.ErrInvalid},
		}, "", 0},
		{"a malformed piece", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 1, 1), 2, "c")[:60], 0, kv.ErrInvalid}, {last(by(1, 1, 2), 2, "c"), 0, kv.ErrInvalid},
		}, "", 0},
		{"far out", []pieceStep{
			{piece(by(1, 1, 0), math.MaxUint64, "ab"), 0, kv.ErrInvalid}, {last(by(1, 1, 1), math.MaxUint64, "ab"), 0, kv.ErrInvalid},
		}, "", 0},
		{"without a session", []pieceStep{
			{piece(kv.Origin{}, 0, "ab"), 0, kv.ErrInvalid}, {last(kv.Origin{}, 0, "ab"), 0, kv.ErrInvalid},
		}, "", 0},
		{"acknowledged", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {piece(by(1, 2, 0), 0, "cd"), 0, nil},
			{piece(acked(3, 1, 0), 0, "ef"), 0, nil}, {last(by(1, 1, 1), 2, "c"), 0, ErrForgotten},
		}, "", 2},
		{"the bucket is dropped", []pieceStep{
			{kv.AppendPiece(nil, by(1, 1, 0), 3, 0, kv.Pair{Key: "k", Value: []byte("ab")}), 0, nil}, {kv.AppendDrop(nil, 3), 0, nil},
			{kv.AppendLast(nil, by(1, 1, 1), 3, 2, false, 0, kv.Pair{Key: "k", Value: []byte("c")}), 0, kv.ErrNoSuchStore},
		}, "", 0},
		{"a swap", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {lastSwap(by(1, 1, 1), 2, "c", 2), 4, nil}, {lastSwap(by(1, 1, 1), 2, "c", 2), 4, nil},
		}, "abc@4", 0},
		{"a swap of another version", []pieceStep{
			{piece(by(1, 1, 0), 0, "ab"), 0, nil}, {lastSwap(by(1, 1, 1), 2, "c", 1), 2, kv.ErrConflict},
			{lastSwap(by(1, 1, 1), 2, "c", 2), 2, kv.ErrConflict}, {last(by(1, 1, 2), 2, "c"), 0, kv.ErrInvalid},
		}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, cut := range []string{"whole", "single", "restarts"} {
				checkPieces(t, cut, c.steps, c.left, c.aside)
			}
		})
	}
}

func checkPieces(t *testing.T, cut string, steps []pieceStep, left string, aside int) {
	t.Helper()
	fs := vfs.NewMem()
	s := openOn(t, fs)
	defer func() { closeStore(t, s) }()
	d := leading(t, s, 1)
	apply(t, d, set(2, 1, "k", "before"))
	var results []Result
	entries := make([]Entry, len(steps))
	for i := range steps {
		entries[i] = Entry{Index: uint64(i + 3), Term: 1, Command: steps[i].command}
		if cut == "whole" {
			continue
		}
		results = append(results, d.Apply(entries[i:i+1])...)
		if cut == "restarts" {
			closeStore(t, s)
			s = openOn(t, fs)
			d = dataOf(t, s, 1)
		}
	}
	if cut == "whole" {
		results = d.Apply(entries)
	}
	for i, r := range results {
		wantResult(t, fmt.Sprintf("%s, step %d", cut, i), r, steps[i].value, steps[i].err)
	}
	if left == "" {
		left = "before@2"
	}
	if got := look(t, d, 1, "k")[0]; got != left {
		t.Errorf("%s: the key is %s, want %s", cut, got, left)
	}
	if got := rowsOf(t, s, 1, tagPiece); len(got) != aside {
		t.Errorf("%s: %d pieces are aside, want %d: %q", cut, len(got), aside, got)
	}
}

// TestPiecesExpireWithTheirSession, the abandoned ones and those under way.
func TestPiecesExpireWithTheirSession(t *testing.T) {
	s := openMem(t)
	d := leading(t, s, 1)
	wantResult(t, "a piece", runAt(t, d, 10, piece(by(1, 1, 0), 0, "ab")), 0, nil)
	wantResult(t, "of another call", runAt(t, d, 10, piece(by(1, 2, 0), 0, "cd")), 0, nil)
	wantResult(t, "of another client", runAt(t, d, 11, piece(by(2, 1, 0), 0, "ef")), 0, nil)
	wantResult(t, "its last, too late", runAt(t, d, 10+sessionTTL, last(by(1, 1, 1), 2, "c")), 0, ErrOutOfOrder)
	if got := rowsOf(t, s, 1, tagPiece); len(got) != 1 || !strings.HasSuffix(got[0], "6566") {
		t.Errorf("the pieces %q are left, want those of client 2", got)
	}
	wantResult(t, "the last of the other client", run1(t, d, last(by(2, 1, 1), 2, "g")), 0, nil)
	if got := look(t, d, 1, "k")[0]; got != "efg@6" {
		t.Errorf("the key is %s, want efg@6", got)
	}
}

// largest returns the commands of a value of kv.MaxValueBytes and more.
func largest(client uint64, key string, more int) (commands [][]byte, value []byte) {
	const part = 200 << 10
	value = bytes.Repeat([]byte(key), (kv.MaxValueBytes+more)/len(key)+1)[:kv.MaxValueBytes+more]
	for offset := 0; ; offset += part {
		o := kv.Origin{Client: client, Seq: 1, Entry: uint32(len(commands))}
		if offset+part >= len(value) {
			p := kv.Pair{Key: key, Value: value[offset:]}
			return append(commands, kv.AppendLast(nil, o, 1, uint64(offset), false, 0, p)), value
		}
		p := kv.Pair{Key: key, Value: value[offset : offset+part]}
		commands = append(commands, kv.AppendPiece(nil, o, 1, uint64(offset), p))
	}
}

// TestTheLargestValues applies some, entries of all mixed, in one call of Apply,
// and one that is a byte too large.
func TestTheLargestValues(t *testing.T) {
	keys := []string{"one", "two"}
	fs := vfs.NewMem()
	s := openOn(t, fs)
	d := leading(t, s, 1)
	var entries []Entry
	values := make([][]byte, len(keys))
	all := make([][][]byte, len(keys))
	for i, key := range keys {
		all[i], values[i] = largest(uint64(i+1), key, 0)
	}
	for n := range all[0] {
		for i := range keys {
			entries = append(entries, Entry{Index: uint64(len(entries) + 2), Term: 1, Command: all[i][n]})
		}
	}
	counting := &countingState{Data: d}
	for i, r := range d.apply(counting, entries) {
		wantResult(t, fmt.Sprintf("entry %d", i+2), r, 0, nil)
	}
	if counting.batches < 2 {
		t.Errorf("%d values of 8 MiB and their pieces took %d batches, want several", len(keys), counting.batches)
	}
	over, _ := largest(9, "over", 1)
	for i, command := range over {
		want := error(nil)
		if i == len(over)-1 {
			want = kv.ErrTooLarge
		}
		wantResult(t, fmt.Sprintf("part %d of a value too large", i), run1(t, d, command), 0, want)
	}
	for range 2 {
		err := d.Get(1, append(keys, "over"), func(i int, value []byte, _ uint64, found bool) error {
			if found != (i < len(keys)) || found && !bytes.Equal(value, values[i]) {
				return fmt.Errorf("value %d has %d bytes (found %v)", i, len(value), found)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if got := rowsOf(t, s, 1, tagPiece); len(got) != 0 {
			t.Errorf("%d pieces are left", len(got))
		}
		closeStore(t, s)
		s = openOn(t, fs)
		d = dataOf(t, s, 1)
	}
	closeStore(t, s)
}

// TestAMissingPieceIsFatal: what was put aside and is not there is a damaged
// store, not a shorter value.
func TestAMissingPieceIsFatal(t *testing.T) {
	for name, damage := range map[string]func(*pebble.DB) error{
		"missing": func(db *pebble.DB) error { return db.Delete(numberedKey(1, tagPiece, 1, 1, 2), pebble.NoSync) },
		"empty":   func(db *pebble.DB) error { return db.Set(numberedKey(1, tagPiece, 1, 1, 2), nil, pebble.NoSync) },
		"too long": func(db *pebble.DB) error {
			return db.Set(numberedKey(1, tagPiece, 1, 1, 2), []byte("cde"), pebble.NoSync)
		},
	} {
		t.Run(name, func(t *testing.T) {
			fatals := 0
			s, err := Open(Config{Dir: testDir, fs: vfs.NewMem(), WriteBufferBytes: 1, Fatal: func(error) { fatals++ }})
			if err != nil {
				t.Fatal(err)
			}
			d := leading(t, s, 1)
			wantResult(t, "a piece", run1(t, d, piece(by(1, 1, 0), 0, "ab")), 0, nil)
			wantResult(t, "another", run1(t, d, piece(by(1, 1, 1), 2, "cd")), 0, nil)
			if err := damage(s.db); err != nil {
				t.Fatal(err)
			}
			r := run1(t, d, last(by(1, 1, 2), 4, "e"))
			if failure := context.Cause(s.failed); r.Err == nil || r.Err != failure || fatals != 1 {
				t.Errorf("the last gave %v after %d fatal errors, want the store's failure, %v", r.Err, fatals, failure)
			}
			if err := s.Close(); err == nil {
				t.Error("Close of a failed store gave no error")
			}
		})
	}
}
