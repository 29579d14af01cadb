package fsm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// TestEachEntryIsAppliedOnce counts how often entries are applied, by what they
// add to a number: in one life of the store, and with a restart after each.
func TestEachEntryIsAppliedOnce(t *testing.T) {
	acked := func(client, seq, acked uint64, entry uint32) kv.Origin {
		return kv.Origin{Client: client, Seq: seq, Acked: acked, Entry: entry}
	}
	steps := []struct {
		name   string
		origin kv.Origin
		value  uint64
		err    error
	}{
		{"the first entry", by(1, 1, 0), 1, nil},
		{"again", by(1, 1, 0), 1, nil},
		{"one too far", by(1, 1, 2), 0, ErrOutOfOrder},
		{"the second", by(1, 1, 1), 2, nil},
		{"the one that was too far", by(1, 1, 2), 3, nil},
		{"the first again", by(1, 1, 0), 1, nil},
		{"the second again", by(1, 1, 1), 2, nil},
		{"a later call", by(1, 3, 0), 4, nil},
		{"a call between", by(1, 2, 0), 5, nil},
		{"a call that does not begin", by(1, 4, 1), 0, ErrOutOfOrder},
		{"two calls are acknowledged", acked(1, 5, 2, 0), 6, nil},
		{"a forgotten call", by(1, 1, 0), 0, ErrForgotten},
		{"its next entry", by(1, 1, 3), 0, ErrForgotten},
		{"the other forgotten call", acked(1, 2, 1, 0), 0, ErrForgotten},
		{"a call that is not forgotten", by(1, 3, 0), 4, nil},
		{"a refused entry acknowledges too", acked(1, 7, 3, 9), 0, ErrOutOfOrder},
		{"what it acknowledged", by(1, 3, 0), 0, ErrForgotten},
		{"another client", by(2, 1, 0), 7, nil},
		{"an unknown client does not begin", by(3, 1, 1), 0, ErrOutOfOrder},
		{"no client", kv.Origin{}, 8, nil},
		{"no client again", kv.Origin{}, 9, nil},
		{"a call acknowledged by itself", acked(2, 9, 9, 0), 0, kv.ErrInvalid},
		{"a call acknowledged before it was made", acked(2, 9, 10, 0), 0, kv.ErrInvalid},
		{"which acknowledged nothing", by(2, 1, 0), 7, nil},
		{"a call too far ahead", acked(2, kv.MaxOpenCalls+3, 2, 0), 0, kv.ErrInvalid},
		{"the farthest call", acked(2, kv.MaxOpenCalls+2, 2, 0), 10, nil},
		{"the last call there can be", acked(4, math.MaxUint64, math.MaxUint64-1, 0), 11, nil},
		{"again", acked(4, math.MaxUint64, math.MaxUint64-1, 0), 11, nil},
		{"nothing else was applied", kv.Origin{}, 12, nil},
	}
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarts %v", restarts), func(t *testing.T) {
			fs := vfs.NewMem()
			s := openOn(t, fs)
			d := leading(t, s, 1)
			for _, step := range steps {
				wantResult(t, step.name, run1(t, d, add(step.origin, 1)), step.value, step.err)
				if restarts {
					closeStore(t, s)
					s = openOn(t, fs)
					d = dataOf(t, s, 1)
				}
			}
			closeStore(t, s)
		})
	}
}

// TestRefusalsAreRemembered: a refused entry stays refused when the reason is
// gone, because its client may have been told.
func TestRefusalsAreRemembered(t *testing.T) {
	d := leading(t, openMem(t), 1)
	pair := kv.Pair{Key: "k", Value: []byte("swapped")}
	swap := kv.AppendSwap(nil, by(1, 1, 0), 1, 99, pair)
	wantResult(t, "a swap", run1(t, d, swap), 0, kv.ErrConflict)
	apply(t, d, set(99, 1, "k", "v"))
	wantResult(t, "again, at the right version", run1(t, d, swap), 0, kv.ErrConflict)

	other := kv.AppendSwap(nil, by(1, 2, 0), 1, 7, pair)
	wantResult(t, "another", run1(t, d, other), 99, kv.ErrConflict)
	apply(t, d, del(102, 1, "k"))
	wantResult(t, "another again", run1(t, d, other), 99, kv.ErrConflict)

	short := kv.AppendSet(nil, by(1, 3, 0), 1, []kv.Pair{pair})
	short = short[:len(short)-1]
	wantResult(t, "a malformed set", run1(t, d, short), 0, kv.ErrInvalid)
	wantResult(t, "repaired", run1(t, d, kv.AppendSet(nil, by(1, 3, 0), 1, []kv.Pair{pair})), 0, kv.ErrInvalid)
	wantResult(t, "the call's next entry", run1(t, d, kv.AppendSet(nil, by(1, 3, 1), 1, []kv.Pair{pair})), 0, nil)
	if got := look(t, d, 1, "k"); got[0] != "swapped@106" {
		t.Errorf("the key is %s, want it set by the last entry", got[0])
	}
}

// TestNotOwnerIsNotRemembered: a stale map must not use up an entry's number, nor
// acknowledge anything.
func TestNotOwnerIsNotRemembered(t *testing.T) {
	s := openMem(t)
	d := dataOf(t, s, 1)
	wantResult(t, "before the first lead", run1(t, d, add(by(1, 1, 0), 1)), 0, ErrNotOwner)
	slot := sharding.SlotOf(sharding.HashString(1, "n"))
	apply(t, d, Entry{Index: 2, Term: 1, Command: kv.AppendLead(nil, slot, slot)})
	wantResult(t, "a key of its own", run1(t, d, add(by(1, 1, 0), 1)), 1, nil)
	foreign := kv.AppendSet(nil, kv.Origin{Client: 1, Seq: 2, Acked: 1}, 1, []kv.Pair{{Key: "foreign"}})
	before := rowsOf(t, s, 1, tagSession)
	wantResult(t, "a foreign key", runAt(t, d, 5, foreign), 0, ErrNotOwner)
	if got := rowsOf(t, s, 1, tagSession); !slices.Equal(got, before) {
		t.Errorf("the session became %q, was %q", got, before)
	}
	wantResult(t, "the first call", run1(t, d, add(by(1, 1, 0), 1)), 1, nil)
	wantResult(t, "the second, elsewhere", run1(t, d, add(by(1, 2, 0), 1)), 2, nil)
}

// TestAnswersOfACallAreBounded fills a call with answers that are all different.
func TestAnswersOfACallAreBounded(t *testing.T) {
	d := leading(t, openMem(t), 1)
	for i := range uint64(maxAnswers) {
		wantResult(t, "an increment", run1(t, d, add(by(1, 1, uint32(i)), 1)), i+1, nil)
	}
	for range 2 {
		wantResult(t, "one more", run1(t, d, add(by(1, 1, maxAnswers), 1)), 0, kv.ErrInvalid)
		wantResult(t, "the one after it", run1(t, d, add(by(1, 1, maxAnswers+1), 1)), 0, ErrOutOfOrder)
		wantResult(t, "an old one", run1(t, d, add(by(1, 1, 7), 1)), 8, nil)
	}
	wantResult(t, "another call", run1(t, d, add(by(1, 2, 0), 1)), maxAnswers+1, nil)

	// Equal answers take no room: a large batch whose bucket is gone.
	wantResult(t, "a drop", run1(t, d, kv.AppendDrop(nil, 2)), 0, nil)
	for i := range uint32(10 * maxAnswers) {
		wantResult(t, "a set", run1(t, d, kv.AppendSet(nil, by(1, 3, i), 2, nil)), 0, kv.ErrNoSuchStore)
	}
	if got := len(d.sessions.of[1].calls[2].answers); got != 1 {
		t.Errorf("equal answers are kept as %d, want 1", got)
	}
}

// TestSessionsExpire: by shard time, when an entry tells a later one.
func TestSessionsExpire(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarts %v", restarts), func(t *testing.T) {
			fs := vfs.NewMem()
			s := openOn(t, fs)
			d := leading(t, s, 1)
			step := func(name string, time uint64, o kv.Origin, value uint64, err error) {
				t.Helper()
				wantResult(t, name, runAt(t, d, time, add(o, 1)), value, err)
				if restarts {
					closeStore(t, s)
					s = openOn(t, fs)
					d = dataOf(t, s, 1)
				}
			}
			step("client 1", 1000, by(1, 1, 0), 1, nil)
			step("client 2", 2000, by(2, 1, 0), 2, nil)
			step("an older time", 500, by(3, 1, 0), 3, nil)
			if got := d.Time(); got != 2000 {
				t.Errorf("the shard's time is %d, want 2000", got)
			}
			step("no time", 0, by(1, 1, 0), 1, nil) // client 1 was active at 2000
			step("client 2 in time", 1999+sessionTTL, by(2, 1, 0), 2, nil)
			step("client 1 in time", 1999+sessionTTL, by(1, 1, 0), 1, nil)
			if got := len(rowsOf(t, s, 1, tagSession)); got != 3 {
				t.Errorf("%d sessions, want 3", got)
			}
			step("somebody else", 2000+sessionTTL, kv.Origin{}, 4, nil)
			if got := len(rowsOf(t, s, 1, tagSession)); got != 2 {
				t.Errorf("%d sessions after client 3's expired, want 2", got)
			}
			step("client 3, forgotten", 2000+sessionTTL, by(3, 1, 0), 5, nil)
			step("the end of time", math.MaxUint64, kv.Origin{}, 6, nil)
			if got := rowsOf(t, s, 1, tagSession); len(got) != 0 {
				t.Errorf("sessions %q, want none", got)
			}
			closeStore(t, s)
		})
	}
}

// TestTheShardHasRoomForSoManySessions fills it. Nobody who may still send an
// entry again is forgotten for somebody new.
func TestTheShardHasRoomForSoManySessions(t *testing.T) {
	s := openMem(t)
	d := leading(t, s, 1)
	fill := make([]Entry, maxSessions)
	for i := range fill {
		fill[i] = Entry{Index: uint64(i + 2), Term: 1, Time: 1000, Command: kv.AppendSet(nil, by(uint64(i+1), 1, 0), 1, nil)}
	}
	apply(t, d, fill...)
	wantResult(t, "a session that is there", runAt(t, d, 1000, add(by(1, 1, 1), 1)), 1, nil)
	late := 999 + retryWindow
	wantResult(t, "a new client", runAt(t, d, late, add(by(maxSessions+1, 1, 0), 1)), 0, kv.ErrBusy)
	wantResult(t, "its next entry", runAt(t, d, late, add(by(maxSessions+1, 1, 1), 1)), 0, ErrOutOfOrder)
	wantResult(t, "no client", runAt(t, d, late, add(kv.Origin{}, 1)), 2, nil)
	wantResult(t, "a new client, later", runAt(t, d, late+1, add(by(maxSessions+1, 1, 0), 1)), 3, nil)
	if d.sessions.of[2] != nil || len(d.sessions.of) != maxSessions {
		t.Errorf("%d sessions, want %d and that of client 2, who was heard of before all others, forgotten", len(d.sessions.of), maxSessions)
	}
	wantResult(t, "client 1", runAt(t, d, 0, add(by(1, 1, 1), 1)), 1, nil)
	if got := len(rowsOf(t, s, 1, tagSession)); got != maxSessions {
		t.Errorf("%d rows of sessions, want %d", got, maxSessions)
	}
}

var goldenSession = session{last: 0x0102, index: 0x0304, acked: 0x10, calls: []call{
	{seq: 0x11, next: 1},
	{seq: 0x15, next: 300, answers: []answer{
		{first: 0, count: 1, value: 0x1234},
		{first: 0x88, count: 2, code: kv.CodeConflict, value: 5},
		{first: 0x8b, count: 161, code: kv.CodeNoSuchStore},
	}},
	{seq: 0x410, next: 2, aside: 0x100, hash: 0x1122334455667788},
}}

const goldenSessionBytes = "01" + "0000000000000102" + "0000000000000304" + "0000000000000010" + "03" +
	"01" + "01" + "00" + "00" +
	"04" + "ac02" + "00" + "03" + "00" + "01" + "00" + "b424" + "8701" + "02" + "09" + "05" + "01" + "a101" + "01" + "00" +
	"fb07" + "02" + "8002" + "1122334455667788" + "00"

func TestGoldenSession(t *testing.T) {
	if got := hex.EncodeToString(goldenSession.append(nil)); got != goldenSessionBytes {
		t.Errorf("the session is\n%s, want\n%s", got, goldenSessionBytes)
	}
	b, err := hex.DecodeString(goldenSessionBytes)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeSession(b); err != nil || !reflect.DeepEqual(got, goldenSession) {
		t.Errorf("decoded %+v (%v), want %+v", got, err, goldenSession)
	}
}

// TestUnreadableSessions: what no machine writes is not taken for a session.
func TestUnreadableSessions(t *testing.T) {
	good := func() session {
		return session{last: 5, index: 3, acked: 7, calls: []call{{seq: 8, next: 3, answers: []answer{{first: 1, count: 1, value: 9}}}}}
	}
	edited := func(edit func(*session)) []byte {
		s := good()
		edit(&s)
		return s.append(nil)
	}
	for _, c := range []struct {
		name string
		row  []byte
	}{
		{"nothing", nil},
		{"another format", append([]byte{sessionFormat + 1}, edited(func(*session) {})[1:]...)},
		{"cut short", edited(func(*session) {})[:20]},
		{"bytes left over", append(edited(func(*session) {}), 0)},
		{"a call twice", edited(func(s *session) { s.calls = append(s.calls, s.calls[0]) })},
		{"a call acknowledged", edited(func(s *session) { s.calls[0].seq = 7 })},
		{"a call too far ahead", edited(func(s *session) { s.calls[0].seq = 8 + kv.MaxOpenCalls })},
		{"calls past the end of numbers", edited(func(s *session) { s.acked, s.calls[0].seq = math.MaxUint64, 4 })},
		{"too many calls", edited(func(s *session) { s.calls = slices.Repeat(s.calls, kv.MaxOpenCalls+1) })},
		{"a call without entries", edited(func(s *session) { s.calls[0] = call{seq: 8} })},
		{"endless entries", edited(func(s *session) { s.calls[0].next = 1<<32 + 1 })},
		{"too much aside", edited(func(s *session) { s.calls[0].aside = kv.MaxValueBytes + 1 })},
		{"an answer to nothing", edited(func(s *session) { s.calls[0].answers[0].first = 3 })},
		{"an answer without entries", edited(func(s *session) { s.calls[0].answers[0].count = 0 })},
		{"an endless answer", edited(func(s *session) { s.calls[0].answers[0].count = math.MaxUint64 })},
		{"answers of another order", edited(func(s *session) {
			s.calls[0].answers = append(s.calls[0].answers, answer{first: 1, count: 1})
		})},
		{"too many answers", edited(func(s *session) {
			s.calls[0].next = 1000
			s.calls[0].answers = nil
			for i := range uint64(maxAnswers + 1) {
				s.calls[0].answers = append(s.calls[0].answers, answer{first: i, count: 1})
			}
		})},
		{"a time to come", edited(func(s *session) { s.last = 11 })},
		{"an entry to come", edited(func(s *session) { s.index = 4 })},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openMem(t)
			rec := record{Position: Position{Index: 3}, time: 10}
			for at, row := range map[string][]byte{
				string(rowKey(1, tagRecord, "")):       rec.append(nil),
				string(numberedKey(1, tagSession, 77)): c.row,
			} {
				if err := s.db.Set([]byte(at), row, pebble.NoSync); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Data(1); err == nil {
				t.Error("it was read")
			}
		})
	}
	if _, err := decodeSession(edited(func(*session) {})); err != nil {
		t.Errorf("the session that the others are made of: %v", err)
	}
}

func FuzzDecodeSession(f *testing.F) {
	good := goldenSession.append(nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(slices.Clone(good), 0))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSession(b)
		if err != nil {
			if !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("got %v, want %v", err, kv.ErrMalformed)
			}
			return
		}
		row := s.append(nil)
		if len(row) > len(b) { // a varint may be longer than it need be
			t.Errorf("%x decodes to what encodes as %x", b, row)
		}
		if again, err := decodeSession(row); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v is read back as %+v (%v)", s, again, err)
		}
	})
}
