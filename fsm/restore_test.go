package fsm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// crashTables makes tables this small, so that a restore has several.
const crashTables = 4 << 10

// newState is what the crash tests restore shard 1 to: several tables.
func newState(t tb, s *Store) *Data {
	t.Helper()
	d := leading(t, s, 1)
	for i := range uint64(20) {
		apply(t, d, set(2+i, 1, fmt.Sprintf("new-%d", i), fmt.Sprintf("%01000d", i)))
	}
	return d
}

// The states of shard 1 before it is restored or dropped: the first is flushed,
// the second is not.
func oldFlushed(t tb, s *Store) *Data {
	t.Helper()
	d := leading(t, s, 1)
	for i := range uint64(20) {
		apply(t, d, set(2+i, 1, fmt.Sprintf("old-%d", i), fmt.Sprintf("%0900d", i)))
	}
	return d
}

func oldApplied(t tb, d *Data) { apply(t, d, set(30, 1, "old-3", "newer", "old-99", "newest")) }

// crashing is a file system that is cloned, as a crash would leave it, before
// each change.
type crashing struct {
	vfs.FS
	mem *vfs.MemFS

	mu    sync.Mutex
	phase string // of the clones made now; empty makes none
	all   []crashClone
	rng   *rand.Rand
}

type crashClone struct {
	phase, op string
	fs        *vfs.MemFS
}

func newCrashing() *crashing {
	c := &crashing{mem: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(7, 7))}
	c.FS = errorfs.Wrap(c.mem, errorfs.InjectorFunc(c.before))
	return c
}

func (c *crashing) before(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpRename,
		errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpMkdirAll:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clone(fmt.Sprintf("operation %d of %s", op.Kind, op.Path))
	}
	return nil
}

// clone keeps what a crash now leaves if nothing unsynced survives, and if some
// of it does.
func (c *crashing) clone(op string) {
	if c.phase == "" {
		return
	}
	c.all = append(c.all,
		crashClone{c.phase, op + ", synced", c.mem.CrashClone(vfs.CrashCloneCfg{})},
		crashClone{c.phase, op + ", in part", c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 10 + c.rng.IntN(90), RNG: c.rng})})
}

// enter begins a phase, with a clone.
func (c *crashing) enter(phase string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = phase
	c.clone("begin")
}

// Link keeps clones away: MemFS takes a read lock twice, and a clone that came
// between would wait for it for ever.
func (c *crashing) Link(from, to string) error {
	if err := c.before(errorfs.Op{Kind: errorfs.OpLink, Path: to}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mem.Link(from, to)
}

func openCrashing(t tb, fs vfs.FS) *Store {
	t.Helper()
	s, err := Open(Config{Dir: testDir, fs: fs, Fatal: func(err error) { t.Errorf("fatal: %v", err) }, tableBytes: crashTables})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// crashStates are the hashes that shard 1 may have.
type crashStates struct {
	flushed, applied, restored StateHash
	stream                     []byte
}

func newCrashStates(t *testing.T) crashStates {
	t.Helper()
	from := newState(t, openMem(t))
	old := oldFlushed(t, openMem(t))
	c := crashStates{flushed: hashOf(t, old), restored: hashOf(t, from), stream: streamed(t, from)}
	oldApplied(t, old)
	c.applied = hashOf(t, old)
	return c
}

// checkNeighbour checks that the other shard has what was flushed.
func checkNeighbour(t tb, s *Store) {
	t.Helper()
	if got := look(t, dataOf(t, s, 2), 1, "k"); got[0] != "kept@2" {
		t.Errorf("the other shard holds %q", got)
	}
}

// TestCrashWhileRestoring crashes before every change of the file system, from
// the first byte staged on. The shard then has its old state or the new one; the
// new one from the return of Restore on; and from the return of Finish on, if it
// has the old one, it can be restored.
func TestCrashWhileRestoring(t *testing.T) {
	want := newCrashStates(t)
	for _, memtable := range []bool{false, true} {
		t.Run(fmt.Sprintf("rows in memory %v", memtable), func(t *testing.T) {
			fs := newCrashing()
			s := openCrashing(t, fs)
			d := oldFlushed(t, s)
			apply(t, leading(t, s, 2), set(2, 1, "k", "kept"))
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if memtable {
				oldApplied(t, d)
			}
			fs.enter("staging")
			if err := stage(t, s, 1, want.stream); err != nil {
				t.Fatal(err)
			}
			fs.enter("staged")
			if err := s.Restore(1); err != nil {
				t.Fatal(err)
			}
			fs.enter("restored")
			closeStore(t, s)
			fs.enter("")
			seen := map[StateHash]int{}
			for _, clone := range fs.all {
				seen[checkRestoreCrash(t, clone, want)]++
			}
			if len(fs.all) < 50 || seen[want.flushed] < 5 || seen[want.restored] < 5 {
				t.Errorf("%d crashes, of the states %v", len(fs.all), seen)
			}
		})
	}
}

func checkRestoreCrash(t *testing.T, clone crashClone, want crashStates) StateHash {
	t.Helper()
	s := openCrashing(t, clone.fs)
	defer closeStore(t, s)
	got := hashOf(t, dataOf(t, s, 1))
	_, staged, err := s.Staged(1)
	if err != nil {
		t.Error(err)
	}
	switch {
	case got != want.flushed && got != want.applied && got != want.restored:
		t.Errorf("%s, %s: the shard is at %+v, want %+v", clone.phase, clone.op, got, want.flushed)
	case clone.phase == "staging" && got == want.restored:
		t.Errorf("%s, %s: staging has changed the shard", clone.phase, clone.op)
	case clone.phase == "staged" && got != want.restored && !staged:
		t.Errorf("%s, %s: neither restored nor staged", clone.phase, clone.op)
	case clone.phase == "restored" && (got != want.restored || staged):
		t.Errorf("%s, %s: the shard is at %+v, staged %v", clone.phase, clone.op, got, staged)
	}
	if staged {
		if err := s.Restore(1); err != nil {
			t.Errorf("%s, %s: restoring: %v", clone.phase, clone.op, err)
		}
		if again := hashOf(t, dataOf(t, s, 1)); again != want.restored {
			t.Errorf("%s, %s: restored again the shard is at %+v, want %+v", clone.phase, clone.op, again, want.restored)
		}
	}
	checkNeighbour(t, s)
	return got
}

// TestCrashWhileDropping crashes before every change: all rows are there or none.
func TestCrashWhileDropping(t *testing.T) {
	want := newCrashStates(t)
	var none StateHash
	for _, memtable := range []bool{false, true} {
		t.Run(fmt.Sprintf("rows in memory %v", memtable), func(t *testing.T) {
			fs := newCrashing()
			s := openCrashing(t, fs)
			none = hashOf(t, dataOf(t, s, 99))
			d := oldFlushed(t, s)
			apply(t, leading(t, s, 2), set(2, 1, "k", "kept"))
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if memtable {
				oldApplied(t, d)
			}
			if err := stage(t, s, 1, want.stream); err != nil {
				t.Fatal(err)
			}
			fs.enter("dropping")
			if err := s.Drop(1); err != nil {
				t.Fatal(err)
			}
			fs.enter("dropped")
			closeStore(t, s)
			fs.enter("")
			for _, clone := range fs.all {
				s := openCrashing(t, clone.fs)
				got := hashOf(t, dataOf(t, s, 1))
				_, staged, err := s.Staged(1)
				switch {
				case got != want.flushed && got != want.applied && got != none:
					t.Errorf("%s, %s: the shard is at %+v, want %+v", clone.phase, clone.op, got, none)
				case clone.phase == "dropped" && (got != none || staged || err != nil):
					t.Errorf("%s, %s: the shard is at %+v, staged %v, %v", clone.phase, clone.op, got, staged, err)
				}
				checkNeighbour(t, s)
				closeStore(t, s)
			}
			if len(fs.all) < 10 {
				t.Errorf("only %d crashes", len(fs.all))
			}
		})
	}
}

// TestRestoreOnBrokenDisk: what fails before the store is touched costs only the
// staging or this call; afterwards it is fatal, and Restore does not return nil.
func TestRestoreOnBrokenDisk(t *testing.T) {
	broken := errors.New("broken disk")
	want := newCrashStates(t)
	for _, c := range []struct {
		name   string
		ops    []errorfs.OpKind
		file   string
		staged bool // before it breaks
		fatal  bool
	}{
		{"making a table", []errorfs.OpKind{errorfs.OpCreate}, "stage/1/000001.sst", false, false},
		{"writing a table", []errorfs.OpKind{errorfs.OpFileWrite}, "stage/1/000002.sst", false, false},
		{"syncing a table", []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData}, "stage/1/000000.sst", false, false},
		{"naming the manifest of the staging", []errorfs.OpKind{errorfs.OpRename}, "complete", false, false},
		{"linking and copying a table", []errorfs.OpKind{errorfs.OpLink, errorfs.OpCreate}, ".sst", true, false},
		{"syncing Pebble's manifest", []errorfs.OpKind{errorfs.OpFileSync}, "MANIFEST", true, true},
		{"writing Pebble's manifest", []errorfs.OpKind{errorfs.OpFileWrite}, "MANIFEST", true, true},
	} {
		for _, memtable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, rows in memory %v", c.name, memtable), func(t *testing.T) {
				var failing atomic.Bool
				inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
					if failing.Load() && slices.Contains(c.ops, op.Kind) && strings.Contains(op.Path, c.file) {
						return broken
					}
					return nil
				})
				var fatals atomic.Int32
				mem := vfs.NewCrashableMem()
				s, err := Open(Config{Dir: testDir, fs: errorfs.Wrap(mem, inject), Fatal: func(error) { fatals.Add(1) }, tableBytes: crashTables})
				if err != nil {
					t.Fatal(err)
				}
				oldFlushed(t, s)
				apply(t, leading(t, s, 2), set(2, 1, "k", "kept"))
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				if memtable {
					oldApplied(t, dataOf(t, s, 1))
				}
				before := hashOf(t, dataOf(t, s, 1))
				failing.Store(!c.staged)
				if err := stage(t, s, 1, want.stream); (err == nil) != c.staged {
					t.Fatalf("staging: %v", err)
				}
				failing.Store(true)
				if err := s.Restore(1); err == nil {
					t.Error("Restore gave no error")
				}
				if got := fatals.Load() > 0; got != c.fatal {
					t.Errorf("fatal: %v, want %v", got, c.fatal)
				}
				if !c.fatal {
					failing.Store(false)
					if got := hashOf(t, dataOf(t, s, 1)); got != before {
						t.Errorf("the shard is at %+v, want the old state, %+v", got, before)
					}
					install(t, s, 1, want.stream)
					closeStore(t, s)
					return
				}
				checkRestoreCrash(t, crashClone{"staged", "after a failure", mem.CrashClone(vfs.CrashCloneCfg{})}, want)
				if err := s.Close(); err == nil {
					t.Error("Close of a failed store gave no error")
				}
			})
		}
	}
}

// crashDirEnv gives the child its directory, crashDoEnv what to do there.
const (
	crashDirEnv = "FSM_CRASH_DIR"
	crashDoEnv  = "FSM_CRASH_DO"
)

// TestCrashPointChild is the process that dies at a crash point; it does nothing
// by itself.
func TestCrashPointChild(t *testing.T) {
	dir, do := os.Getenv(crashDirEnv), os.Getenv(crashDoEnv)
	if dir == "" {
		t.Skip("started by TestCrashPoints only")
	}
	s, err := Open(Config{Dir: dir, tableBytes: crashTables})
	if err != nil {
		t.Fatal(err)
	}
	d := oldFlushed(t, s)
	apply(t, leading(t, s, 2), set(2, 1, "k", "kept"))
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	oldApplied(t, d)
	stream := streamed(t, newState(t, openMem(t)))
	if do == "restore" {
		install(t, s, 1, stream)
	} else if err := s.Drop(1); err != nil {
		t.Fatal(err)
	}
	t.Fatal("the crash point was not passed")
}

// TestCrashPoints kills a process on real files at each crash point of Stage,
// Restore and Drop.
func TestCrashPoints(t *testing.T) {
	if !crash.Enabled {
		t.Skip("needs go test -tags crashpoints")
	}
	want := newCrashStates(t)
	none := hashOf(t, dataOf(t, openMem(t), 1))
	for _, c := range []struct {
		do, point string
		states    []StateHash // what the shard may be after the restart
		staged    bool
	}{
		{"restore", "fsm.stage.written", []StateHash{want.flushed}, false},
		{"restore", "fsm.stage.finished", []StateHash{want.flushed}, true},
		{"restore", "fsm.ingest.before", []StateHash{want.flushed}, true},
		{"restore", "fsm.ingest.after", []StateHash{want.flushed, want.applied, want.restored}, true},
		{"restore", "fsm.flush.after", []StateHash{want.restored}, true},
		{"restore", "fsm.restore.done", []StateHash{want.restored}, false},
		{"drop", "fsm.drop.before", []StateHash{want.flushed}, false},
		{"drop", "fsm.ingest.after", []StateHash{want.flushed, want.applied, none}, false},
		{"drop", "fsm.flush.after", []StateHash{none}, false},
		{"drop", "fsm.drop.after", []StateHash{none}, false},
	} {
		t.Run(c.do+" "+c.point, func(t *testing.T) {
			dir := t.TempDir()
			child := exec.Command(os.Args[0], "-test.run=^TestCrashPointChild$", "-test.timeout=60s")
			child.Env = append(os.Environ(), crashDirEnv+"="+dir, crashDoEnv+"="+c.do, "MANYKV_CRASH="+c.point)
			if out, err := child.CombinedOutput(); err == nil || child.ProcessState.ExitCode() != -1 {
				t.Fatalf("the child ended by itself: %v\n%s", err, out)
			}
			s, err := Open(Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer closeStore(t, s)
			checkNeighbour(t, s)
			got := hashOf(t, dataOf(t, s, 1))
			known := false
			for _, state := range c.states {
				known = known || got == state
			}
			if _, staged, err := s.Staged(1); !known || staged != c.staged || err != nil {
				t.Errorf("the shard is at %+v, staged %v (%v), want %+v and %v", got, staged, err, c.states, c.staged)
			}
			if !c.staged {
				return
			}
			if err := s.Restore(1); err != nil {
				t.Fatal(err)
			}
			if got := hashOf(t, dataOf(t, s, 1)); got != want.restored {
				t.Errorf("restored again the shard is at %+v, want %+v", got, want.restored)
			}
		})
	}
}

// A bucket that a restore drops is never seen as one without keys, also while its
// rows are gone already and the machine has not read the new ones.
func TestARestoreThatDropsABucket(t *testing.T) {
	from := openMem(t)
	source := leading(t, from, 1)
	apply(t, source, set(2, 7, "key", "value"), Entry{Index: 3, Term: 1, Command: kv.AppendDrop(nil, 7)})
	s := openMem(t)
	d := leading(t, s, 1)
	apply(t, d, set(2, 7, "key", "value"))
	if err := stage(t, s, 1, streamed(t, source)); err != nil {
		t.Fatalf("stage: %v", err)
	}
	wantNone := func(when string) {
		t.Helper()
		err := d.Get(7, []string{"key"}, func(int, []byte, uint64, bool) error { return nil })
		if !errors.Is(err, kv.ErrNoSuchStore) {
			t.Errorf("a read of the bucket %s: %v, want ErrNoSuchStore", when, err)
		}
	}
	m, err := s.staged(1)
	if err != nil {
		t.Fatal(err)
	}
	links, err := s.linkStaged(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.replace(1, links); err != nil {
		t.Fatal(err)
	}
	wantNone("between the rows and the machine")
	if got := look(t, d, 8, "key"); got[0] != "-" {
		t.Errorf("a bucket that was not dropped has %s, want -", got[0])
	}
	if err := s.reload(1); err != nil {
		t.Fatal(err)
	}
	wantNone("after it")
	if d.replacing.Load() {
		t.Error("readers look for rows still")
	}
}

func TestShardsOfTheStore(t *testing.T) {
	s := openMem(t)
	want := func(shards ...sharding.Shard) {
		t.Helper()
		if got, err := s.Shards(); err != nil || !slices.Equal(got, shards) {
			t.Errorf("shards %v, %v, want %v", got, err, shards)
		}
	}
	want()
	apply(t, leading(t, s, 70000), set(2, 1, "a", "b", "c", "d"))
	leading(t, s, 3)
	want(3, 70000)
	if err := s.Drop(3); err != nil {
		t.Fatal(err)
	}
	want(70000)
}

// A compaction that makes way for a restore is no failure of the disk.
func TestACancelledCompactionIsNotFatal(t *testing.T) {
	s := openMem(t)
	s.backgroundError(fmt.Errorf("wrapped: %w", pebble.ErrCancelledCompaction))
	if err := s.Flush(); err != nil {
		t.Errorf("after a cancelled compaction: %v", err)
	}
}
