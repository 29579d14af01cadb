package fsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

type streamer interface {
	applier
	Stream() (*Stream, error)
	Position() Position
	Hash(context.Context) (StateHash, error)
}

// streamed returns a machine's whole stream.
func streamed(t tb, m streamer) []byte {
	t.Helper()
	s, err := m.Stream()
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	b, err := io.ReadAll(s)
	if err != nil {
		t.Fatalf("reading a stream: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("closing a stream: %v", err)
	}
	return b
}

// stage writes a whole stream and returns the first error.
func stage(t tb, s *Store, shard sharding.Shard, stream []byte) error {
	t.Helper()
	st, err := s.Stage(shard)
	if err != nil {
		return err
	}
	if _, err := st.Write(stream); err != nil {
		if discardErr := st.Discard(); discardErr != nil {
			t.Errorf("discard: %v", discardErr)
		}
		return err
	}
	return st.Finish()
}

// install stages and restores a stream that must be good.
func install(t tb, s *Store, shard sharding.Shard, stream []byte) {
	t.Helper()
	if err := stage(t, s, shard, stream); err != nil {
		t.Fatalf("stage: %v", err)
	}
	if err := s.Restore(shard); err != nil {
		t.Fatalf("restore: %v", err)
	}
}

func hashOf(t tb, m streamer) StateHash {
	t.Helper()
	h, err := m.Hash(context.Background())
	if err != nil {
		t.Fatalf("hash: %v", err)
	}
	return h
}

// dumpShard returns the rows of one shard, as dump does.
func dumpShard(t tb, s *Store, shard sharding.Shard) []string {
	t.Helper()
	return slices.DeleteFunc(dump(t, s), func(row string) bool {
		return !strings.HasPrefix(row, fmt.Sprintf("%08x", uint32(shard)))
	})
}

// listStage returns the names under the store's stage directory.
func listStage(t tb, s *Store) []string {
	t.Helper()
	names, err := s.fs.List(s.stagePath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("list: %v", err)
	}
	return names
}

// wantStaged checks what Staged says; index 0 is nothing.
func wantStaged(t tb, s *Store, shard sharding.Shard, index uint64) {
	t.Helper()
	p, ok, err := s.Staged(shard)
	if err != nil || ok != (index != 0) || p.Index != index {
		t.Errorf("staged of shard %d: %+v, %v, %v, want index %d", shard, p, ok, err, index)
	}
}

// goldenStream is the stream of a shard 5 that was led in term 1 and got one
// pair in entry 2: header, a block of the record and the pair, the end.
const goldenStream = "6d6b7673" + "01" + "00000005" + "0000000000000002" + "0000000000000001" + "0000000000000001" + "1b0fcf7d" +
	"01" + "00000063" +
	"09" + "000000000000000000" +
	"36" + "01" + "0000000000000002" + "0000000000000001" + "0000000000000001" + "0000000000000000" + "01" + "0000" + "3fff" +
	"0000000000000000" + "0000000000000000" +
	"13" + "0000000000000007" + "d487f374163e69f4" + "6b6579" +
	"0d" + "0000000000000002" + "76616c7565" +
	"79e5a341" +
	"02" + "00000010" + "0000000000000002" + "e9da31e51beddac8" + "5b79b6c9"

func goldenShard(t tb, s *Store) *Data {
	d := leading(t, s, 5)
	apply(t, d, set(2, 7, "key", "value"))
	return d
}

func TestGoldenStream(t *testing.T) {
	got := streamed(t, goldenShard(t, openMem(t)))
	if hex.EncodeToString(got) != goldenStream {
		t.Errorf("the stream is\n%x, want\n%s", got, goldenStream)
	}
	want, err := hex.DecodeString(goldenStream)
	if err != nil {
		t.Fatal(err)
	}
	s := openMem(t)
	install(t, s, 5, want)
	if got := look(t, dataOf(t, s, 5), 7, "key"); got[0] != "value@2" {
		t.Errorf("the restored shard holds %q", got)
	}
}

// filled returns a machine with many rows, some of them as large as they get.
func filled(t tb, s *Store, shard sharding.Shard) *Data {
	t.Helper()
	d := leading(t, s, shard)
	var pairs []string
	for i := range 3000 {
		pairs = append(pairs, fmt.Sprintf("key-%d", i), strings.Repeat("v", i%700))
	}
	large := strings.Repeat("L", kv.Limits{}.WithDefaults().ValueBytes)
	apply(t, d, set(2, 1, pairs...), set(3, 2, "large", large, "small", "s"), set(4, 1<<63, "", ""))
	return d
}

// TestStreamRestore moves a shard to another store, over another state of it and
// between neighbours, in several kinds of cuts.
func TestStreamRestore(t *testing.T) {
	from := filled(t, openMem(t), 2)
	stream := streamed(t, from)
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r },
		"byte by byte": func(r io.Reader) io.Reader {
			return io.MultiReader(iotest.OneByteReader(io.LimitReader(r, 20<<10)), r) // then blocks, which take long that way
		},
		"halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := openOn(t, fs)
			d := leading(t, s, 2)
			apply(t, d, set(2, 1, "key-1", "old", "gone", "old"), set(3, 1, "more", "old"))
			neighbours := map[sharding.Shard][]string{}
			for _, shard := range []sharding.Shard{1, 3} {
				apply(t, leading(t, s, shard), set(2, 1, "a", "neighbour"))
				neighbours[shard] = dumpShard(t, s, shard)
			}
			st, err := s.Stage(2)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(struct{ io.Writer }{st}, cut(bytes.NewReader(stream))); err != nil {
				t.Fatal(err)
			}
			if got := look(t, d, 1, "gone"); got[0] != "old@2" {
				t.Errorf("staging changed the store: %q", got)
			}
			if err := st.Finish(); err != nil {
				t.Fatal(err)
			}
			wantStaged(t, s, 2, 4)
			if err := s.Restore(2); err != nil {
				t.Fatal(err)
			}
			wantStaged(t, s, 2, 0)
			for range 2 {
				d = dataOf(t, s, 2)
				if got, want := hashOf(t, d), hashOf(t, from); got != want {
					t.Errorf("hash %+v, want %+v", got, want)
				}
				if !bytes.Equal(streamed(t, d), stream) {
					t.Error("the restored shard gives another stream")
				}
				if d.Position() != from.Position() {
					t.Errorf("position %+v, want %+v", d.Position(), from.Position())
				}
				for shard, want := range neighbours {
					if got := dumpShard(t, s, shard); !slices.Equal(got, want) {
						t.Errorf("shard %d holds %q, want %q", shard, got, want)
					}
				}
				apply(t, d, set(3, 1, "key-1", "the log again"))
				closeStore(t, s)
				s = openOn(t, fs)
			}
			closeStore(t, s)
		})
	}
}

// TestStreamIsOneState applies while a stream is read, and restores the shard
// under it.
func TestStreamIsOneState(t *testing.T) {
	s := openMem(t)
	d := filled(t, s, 1)
	other := leading(t, openMem(t), 1)
	apply(t, other, set(9, 1, "other", "state"))
	want, otherStream := streamed(t, d), streamed(t, other)
	st, err := d.Stream()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := st.Position(), (Position{Index: 4, Term: 1, LeadTerm: 1}); got != want {
		t.Errorf("a stream at %+v", got)
	}
	var got bytes.Buffer
	for step := 0; ; step++ {
		switch step {
		case 1:
			apply(t, d, set(5, 1, "key-0", "new", "key-1", "new"), del(6, 1, "key-2"))
		case 2:
			install(t, s, 1, otherStream)
		case 3:
			if err := s.Drop(1); err != nil {
				t.Fatal(err)
			}
		}
		n, err := io.CopyN(&got, st, 100<<10)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("the stream is not the state at its begin")
	}
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading a closed stream: %v", err)
	}
}

// TestStreamIsBounded: no frame is larger than a block, unless one row is.
func TestStreamIsBounded(t *testing.T) {
	s := openMem(t)
	st, err := filled(t, s, 1).Stream()
	if err != nil {
		t.Fatal(err)
	}
	blocks, large := 0, 0
	for {
		if _, err := io.CopyN(io.Discard, st, int64(max(1, len(st.left)))); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		blocks++
		if len(st.frame) > blockBytes+frameHead+crcBytes {
			large = max(large, len(st.frame))
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if value := (kv.Limits{}).WithDefaults().ValueBytes; blocks < 5 || large < value || large > value+1024 {
		t.Errorf("%d frames, one of %d bytes", blocks, large)
	}
}

// TestCatalogueMoves restores and drops the catalogue under its one object.
func TestCatalogueMoves(t *testing.T) {
	from := catalogueOf(t, openMem(t))
	m := testMap(t)
	apply(t, from, Entry{Index: 1, Term: 1, Command: AppendInit(nil, m)}, Entry{Index: 2, Term: 1, Command: AppendCreateBucket(nil, "users")})
	stream := streamed(t, from)
	s := openMem(t)
	c := catalogueOf(t, s)
	apply(t, c, Entry{Index: 1, Term: 1, Command: AppendCreateBucket(nil, "other")})
	install(t, s, sharding.Meta, stream)
	if c.Map() == nil || c.Map().Epoch != m.Epoch || c.Position() != from.Position() {
		t.Errorf("restored: map %+v at %+v", c.Map(), c.Position())
	}
	if names, err := c.Buckets(); err != nil || !slices.Equal(names, []string{"users"}) {
		t.Errorf("restored: buckets %q, %v", names, err)
	}
	if got, want := hashOf(t, c), hashOf(t, from); got != want {
		t.Errorf("hash %+v, want %+v", got, want)
	}
	if err := s.Drop(sharding.Meta); err != nil {
		t.Fatal(err)
	}
	if c != catalogueOf(t, s) || c.Map() != nil || c.Position() != (Position{}) || len(dump(t, s)) != 0 {
		t.Errorf("dropped: map %+v at %+v, rows %q", c.Map(), c.Position(), dump(t, s))
	}
	if got := apply(t, c, Entry{Index: 1, Term: 1, Command: AppendCreateBucket(nil, "again")}); got[0].Value != 1 {
		t.Errorf("a bucket of the new catalogue got id %d, want 1", got[0].Value)
	}
}

// TestEmptyStream: a machine that has applied nothing has no rows, and its
// stream empties a shard.
func TestEmptyStream(t *testing.T) {
	empty := streamed(t, dataOf(t, openMem(t), 1))
	fs := vfs.NewCrashableMem()
	s := openOn(t, fs)
	d := leading(t, s, 1)
	apply(t, leading(t, s, 2), set(2, 1, "k", "kept"))
	install(t, s, 1, empty)
	if _, owns := d.Range(); owns || d.Position() != (Position{}) || look(t, d, 1, "k")[0] != "-" {
		t.Errorf("after an empty stream the shard is at %+v", d.Position())
	}
	crashed := openOn(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	if rows := dumpShard(t, crashed, 1); len(rows) != 0 {
		t.Errorf("after a crash the shard holds %q", rows)
	}
	if got := look(t, dataOf(t, crashed, 2), 1, "k"); got[0] != "kept@2" {
		t.Errorf("after a crash the other shard holds %q", got)
	}
	closeStore(t, crashed)
	apply(t, leading(t, s, 1), set(2, 1, "k", "v"))
	closeStore(t, s)
}

// TestRestoreWakesWaiters, even when it takes the shard back.
func TestRestoreWakesWaiters(t *testing.T) {
	from := filled(t, openMem(t), 1)
	s := openMem(t)
	d := leading(t, s, 1)
	done := make(chan error, 1)
	go func() { done <- d.Wait(context.Background(), 4) }()
	install(t, s, 1, streamed(t, from))
	if err := <-done; err != nil {
		t.Error(err)
	}
	back := streamed(t, leading(t, openMem(t), 1))
	var log strings.Builder
	s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	install(t, s, 1, back)
	if d.Position().Index != 1 || look(t, d, 2, "small")[0] != "-" {
		t.Errorf("taken back to %+v", d.Position())
	}
	if !strings.Contains(log.String(), "takes a shard back") {
		t.Errorf("the log says %q", log.String())
	}
}

// TestReadWhileRestoring reads without a pause while two states are restored in
// turn: every read sees one of them, whole.
func TestReadWhileRestoring(t *testing.T) {
	s := openMem(t)
	d := leading(t, s, 1)
	var streams [2][]byte
	for i := range streams {
		from := leading(t, openMem(t), 1)
		v := fmt.Sprint("state", i)
		apply(t, from, set(2, 1, "a", v, "b", v, "c", v))
		streams[i] = streamed(t, from)
	}
	install(t, s, 1, streams[0])
	var reads atomic.Int32
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if got := look(t, d, 1, "a", "b", "c"); got[0] == "-" || got[1] != got[0] || got[2] != got[0] {
				t.Errorf("read %q", got)
			}
			reads.Add(1)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for i := 0; i < 20 || reads.Load() < 20; i++ {
		apply(t, d, set(uint64(3+i%7), 1, "other", "x")) // so that the memtable overlaps, or not
		install(t, s, 1, streams[i%2])
	}
	close(stop)
	<-done
}

func TestDropShard(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openOn(t, fs)
	d := filled(t, s, 1)
	apply(t, leading(t, s, 2), set(2, 1, "k", "kept"))
	stream := streamed(t, d)
	if err := stage(t, s, 1, stream); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(1); err != nil {
		t.Fatal(err)
	}
	wantStaged(t, s, 1, 0)
	for name, store := range map[string]*Store{"dropped": s, "crashed": openOn(t, fs.CrashClone(vfs.CrashCloneCfg{}))} {
		if rows := dumpShard(t, store, 1); len(rows) != 0 {
			t.Errorf("%s: %d rows are left", name, len(rows))
		}
		if got := look(t, dataOf(t, store, 2), 1, "k"); got[0] != "kept@2" {
			t.Errorf("%s: the other shard holds %q", name, got)
		}
		if store != s {
			closeStore(t, store)
		}
	}
	if err := d.Apply([]Entry{set(5, 1, "k", "v")})[0].Err; !errors.Is(err, ErrDropped) {
		t.Errorf("applying to a dropped shard: %v", err)
	}
	err := d.Get(1, []string{"key-1"}, func(int, []byte, uint64, bool) error { return nil })
	_, _, listErr := d.List(1, 0, 10, 1<<20)
	if !errors.Is(err, ErrDropped) || !errors.Is(listErr, ErrDropped) || d.Position() != (Position{}) {
		t.Errorf("the dropped machine is at %+v and is read: %v, %v", d.Position(), err, listErr)
	}
	fresh := dataOf(t, s, 1)
	if fresh == d || fresh.Position() != (Position{}) {
		t.Errorf("Data gave the old machine, or one at %+v", fresh.Position())
	}
	install(t, s, 1, stream)
	if got := look(t, fresh, 2, "small"); got[0] != "s@3" {
		t.Errorf("the fresh machine holds %q", got)
	}
	if err := s.Drop(77); err != nil {
		t.Errorf("dropping what is not there: %v", err)
	}
	closeStore(t, s)
}

// TestDropEndsStaging drops a shard that is being staged.
func TestDropEndsStaging(t *testing.T) {
	s := openMem(t)
	stream := streamed(t, goldenShard(t, s))
	st, err := s.Stage(5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stage(5); err == nil {
		t.Error("a shard is staged twice at a time")
	}
	if _, err := st.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(5); err == nil {
		t.Error("restored what is not complete")
	}
	if err := s.DiscardStaged(5); err != nil {
		t.Error(err)
	}
	if err := s.Drop(5); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(stream); !errors.Is(err, ErrDropped) {
		t.Errorf("writing on: %v", err)
	}
	if err := st.Finish(); !errors.Is(err, ErrDropped) {
		t.Errorf("finishing: %v", err)
	}
	if err := st.Discard(); err != nil {
		t.Errorf("discarding: %v", err)
	}
	if names := listStage(t, s); len(names) != 0 {
		t.Errorf("left over: %q", names)
	}
	if err := stage(t, s, 5, stream); err != nil {
		t.Errorf("staging after a drop: %v", err)
	}
}

// TestStagings: what Finish, Discard, DiscardStaged and a restart leave.
func TestStagings(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	stream := streamed(t, goldenShard(t, s))
	finished, err := s.Stage(5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := finished.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := finished.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := finished.Finish(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("finishing twice: %v", err)
	}
	if _, err := finished.Write(stream); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("writing after Finish: %v", err)
	}
	if err := finished.Discard(); err != nil {
		t.Error(err)
	}
	wantStaged(t, s, 5, 2)
	discarded, err := s.Stage(6)
	if err != nil {
		t.Fatal(err)
	}
	if err := discarded.Discard(); err != nil {
		t.Error(err)
	}
	cut, err := s.Stage(7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cut.Write(headerOf(7, stream)); err != nil {
		t.Fatal(err)
	}
	if err := cut.Finish(); !errors.Is(err, errStream) {
		t.Errorf("finishing half a stream: %v", err)
	}
	if names := listStage(t, s); !slices.Equal(names, []string{"5"}) {
		t.Errorf("left over: %q, want 5", names)
	}
	if err := mem.MkdirAll(s.stagePath("junk"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mem.MkdirAll(s.stageOf(9), 0o755); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	s = openOn(t, mem)
	if names := listStage(t, s); !slices.Equal(names, []string{"5"}) {
		t.Errorf("after a restart: %q, want 5", names)
	}
	wantStaged(t, s, 5, 2)
	if err := s.DiscardStaged(5); err != nil {
		t.Fatal(err)
	}
	wantStaged(t, s, 5, 0)
	if err := s.DiscardStaged(5); err != nil {
		t.Errorf("discarding nothing: %v", err)
	}
	if err := s.Restore(5); err == nil || !strings.Contains(err.Error(), "nothing is staged") {
		t.Errorf("restoring nothing: %v", err)
	}
	closeStore(t, s)
}

// headerOf returns the header of a stream, made to be of another shard.
func headerOf(shard sharding.Shard, stream []byte) []byte {
	h := slices.Clone(stream[:headerBytes-crcBytes])
	h[8] = byte(shard)
	return appendCRC(h, h)
}

// TestDamagedStaging: a staging whose files are not as the manifest says does
// not count, and Open removes it.
func TestDamagedStaging(t *testing.T) {
	for name, damage := range map[string]func(*Store) error{
		"no table":      func(s *Store) error { return s.fs.Remove(s.stageOf(5, tableName(0))) },
		"a short table": func(s *Store) error { return writeFile(s.fs, s.stageOf(5, tableName(0)), []byte("x")) },
		"bit rot": func(s *Store) error {
			m := manifest{shard: 5, position: Position{Index: 2}, sizes: []uint64{1}}
			b := m.append(nil)
			b[9] ^= 1
			return writeFile(s.fs, s.stageOf(5, manifestFile), b)
		},
		"another shard's": func(s *Store) error {
			m := manifest{shard: 6}
			return writeFile(s.fs, s.stageOf(5, manifestFile), m.append(nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			s := openOn(t, mem)
			if err := stage(t, s, 5, streamed(t, goldenShard(t, s))); err != nil {
				t.Fatal(err)
			}
			wantStaged(t, s, 5, 2)
			if err := damage(s); err != nil {
				t.Fatal(err)
			}
			wantStaged(t, s, 5, 0)
			if err := s.Restore(5); err == nil {
				t.Error("restored from a damaged staging")
			}
			closeStore(t, s)
			s = openOn(t, mem)
			if names := listStage(t, s); len(names) != 0 {
				t.Errorf("left over: %q", names)
			}
			closeStore(t, s)
		})
	}
}

// reseal gives a frame that was changed its right length and checksum.
func reseal(kind byte, body []byte) []byte {
	f := []byte{kind, byte(len(body) >> 24), byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}
	f = append(f, body...)
	return appendCRC(f, f)
}

// TestStageRefuses tries streams that are wrong in one thing each, with right
// checksums.
func TestStageRefuses(t *testing.T) {
	s := openMem(t)
	good := streamed(t, goldenShard(t, s))
	header := good[:headerBytes]
	rec := record{Position: Position{Index: 2, Term: 1, LeadTerm: 1}, owns: true, owned: sharding.Range{Last: sharding.Slots - 1}}
	recordRow := appendRow(nil, []byte(recordKey), rec.append(nil))
	pair := func(bucket uint64, key, value string) []byte {
		k := appendPairKey(nil, 5, bucket, sharding.HashString(bucket, key), key)
		return appendRow(nil, k[shardBytes:], []byte(value))
	}
	rows := func(rows ...[]byte) []byte {
		return append(slices.Clone(header), reseal(frameBlock, bytes.Join(rows, nil))...)
	}
	elsewhere := rec
	elsewhere.Index++
	flipped := slices.Clone(good)
	flipped[headerBytes+frameHead+20] ^= 1
	end := len(good) - frameHead - endBytes - crcBytes
	count, sum := good[end+frameHead:][:8], good[end+frameHead+8:][:8]
	ended := func(count, sum []byte) []byte {
		return append(slices.Clone(good[:end]), reseal(frameEnd, slices.Concat(count, sum))...)
	}
	headerSum := binary.BigEndian.AppendUint64(nil, xxhash.Sum64(header))
	zero := make([]byte, 8)
	for _, c := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"another format", append([]byte("PK\x03\x04"), good[4:]...), "begins with"},
		{"another version", append(append(slices.Clone(good[:4]), 9), good[5:]...), "version 9"},
		{"another shard", headerOf(6, good), "of shard 6, want 5"},
		{"a flipped bit of the header", append(append(slices.Clone(good[:12]), 1), good[13:]...), "checksum"},
		{"a flipped bit of a block", flipped, "checksum"},
		{"another kind of frame", append(slices.Clone(header), reseal(3, []byte("x"))...), "kind 3"},
		{"an empty block", append(slices.Clone(header), reseal(frameBlock, nil)...), "with 0 bytes"},
		{"a block too large", append(slices.Clone(header), frameBlock, 1, 0, 0, 1), "with 16777217 bytes"},
		{"no record first", rows(pair(1, "k", "version-1")), "want the record"},
		{"a record that does not decode", rows(appendRow(nil, []byte(recordKey), []byte("x"))), "record"},
		{"a record of another position", rows(appendRow(nil, []byte(recordKey), elsewhere.append(nil))), "header says"},
		{"rows out of order", rows(recordRow, pair(2, "k", "version-2"), pair(1, "k", "version-1")), "in order"},
		{"a row twice", rows(recordRow, pair(2, "k", "version-2"), pair(2, "k", "version-2")), "in order"},
		{"a short key", rows(recordRow, appendRow(nil, []byte("\x00\x00\x00\x01"), nil)), "at least 9"},
		{"a short key of a pair", rows(recordRow, appendRow(nil, []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x02"), nil)), "at least 16"},
		{"a pair without a version", rows(recordRow, pair(1, "k", "short")), "at least 8"},
		{"half a row", rows(recordRow, pair(1, "k", "version-1")[:9]), "malformed"},
		{"a large block of several rows", rows(recordRow, pair(1, "k", strings.Repeat("v", blockBytes))), "one row"},
		{"an end with other rows", ended(zero, sum), "the end says 0"},
		{"an end with another hash", ended(count, zero), "its hash is"},
		{"no rows", append(slices.Clone(header), reseal(frameEnd, slices.Concat(zero, headerSum))...), "no rows"},
		{"more after the end", append(slices.Clone(good), 0), "after its end"},
		{"no end", good[:end], "it stops after"},
		{"nothing", nil, "it stops after 0 rows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := stage(t, s, 5, c.stream)
			if !errors.Is(err, errStream) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			wantStaged(t, s, 5, 0)
			if names := listStage(t, s); len(names) != 0 {
				t.Errorf("left over: %q", names)
			}
		})
	}
}

// TestManyTables stages more than one table holds.
func TestManyTables(t *testing.T) {
	from := leading(t, openMem(t), 1)
	rng := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 300<<10) // that no compression makes smaller
	for i := range value {
		value[i] = byte(rng.Uint32())
	}
	for i := range uint64(10) {
		apply(t, from, set(2+i, 1, fmt.Sprint("key-", i), string(value)))
	}
	s, err := Open(Config{Dir: testDir, fs: vfs.NewMem(), tableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if err := stage(t, s, 1, streamed(t, from)); err != nil {
		t.Fatal(err)
	}
	m, err := s.staged(1)
	if err != nil || len(m.sizes) != 4 || m.sizes[0] > 1<<20 {
		t.Errorf("staged %+v, %v, want four tables of at most 1 MiB", m, err)
	}
	if err := s.Restore(1); err != nil {
		t.Fatal(err)
	}
	if got, want := hashOf(t, dataOf(t, s, 1)), hashOf(t, from); got != want {
		t.Errorf("hash %+v, want %+v", got, want)
	}
	if got := s.Stats().DiskBytes; got < 3_000_000 || got > 4_000_000 {
		t.Errorf("%d bytes on the disk, want some 3,000,000", got)
	}
}

// TestHash: equal states have equal hashes, in whatever batches and files they
// came; another row, value or position makes another.
func TestHash(t *testing.T) {
	golden := hashOf(t, goldenShard(t, openMem(t)))
	if want := (StateHash{Position{2, 1, 1}, 0xc36ff4c7ffa6283e, 2}); golden != want {
		t.Errorf("hash %+v (%#x), want %+v", golden, golden.Hash, want)
	}
	s := openMem(t)
	d := leading(t, s, 5)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	apply(t, d, set(2, 7, "key", "value"))
	if got := hashOf(t, d); got != golden {
		t.Errorf("hash %+v, want %+v", got, golden)
	}
	for _, e := range []Entry{set(2, 7, "key", "valuE"), set(2, 7, "keY", "value"), set(3, 7, "key", "value"), del(2, 7, "key")} {
		other := leading(t, openMem(t), 5)
		apply(t, other, e)
		if got := hashOf(t, other); got.Hash == golden.Hash {
			t.Errorf("entry %d has the same hash", e.Index)
		}
	}
	if got, want := hashOf(t, dataOf(t, s, 6)), (StateHash{Hash: 0xef46db3751d8e999}); got != want {
		t.Errorf("an empty shard has hash %+v, want that of no bytes, %+v", got, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.hashing <- struct{}{} // another scan runs
	if _, err := d.Hash(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled hash that waits: %v", err)
	}
	<-s.hashing
	if _, err := d.Hash(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled hash: %v", err)
	}
}

// TestCloseEndsStreamsAndStagings closes a store with both open.
func TestCloseEndsStreamsAndStagings(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	d := filled(t, s, 1)
	whole := streamed(t, d)
	stream, err := d.Stream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, stream, 1000); err != nil {
		t.Fatal(err)
	}
	st, err := s.Stage(2)
	if err != nil {
		t.Fatal(err)
	}
	own, err := s.Stage(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.Write(whole[:len(whole)/2]); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	if _, err := stream.Read(make([]byte, 10)); !errors.Is(err, ErrClosed) {
		t.Errorf("reading on: %v", err)
	}
	if err := stream.Close(); err != nil {
		t.Errorf("closing the stream: %v", err)
	}
	_, streamErr := d.Stream()
	_, hashErr := d.Hash(context.Background())
	_, stageErr := s.Stage(1)
	_, writeErr := own.Write(whole)
	_, _, stagedErr := s.Staged(1)
	for call, err := range map[string]error{
		"Stream": streamErr, "Hash": hashErr, "Stage": stageErr, "Write": writeErr, "Finish": st.Finish(), "Discard": st.Discard(),
		"Staged": stagedErr, "DiscardStaged": s.DiscardStaged(1), "Restore": s.Restore(1), "Drop": s.Drop(1),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want %v", call, err, ErrClosed)
		}
	}
	if got := s.Stats().DiskBytes; got != 0 {
		t.Errorf("%d bytes on the disk of a closed store", got)
	}
	names, err := mem.List(testDir + "/" + stageDir)
	if err != nil || len(names) != 0 {
		t.Errorf("left over: %q, %v", names, err)
	}
}
