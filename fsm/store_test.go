package fsm

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/manykv/manykv/sharding"
)

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{{}, {Dir: "x", CacheBytes: -1}} {
		if s, err := Open(cfg); err == nil {
			closeStore(t, s)
			t.Errorf("%+v was accepted", cfg)
		}
	}
	cfg := Config{Dir: "x"}.withDefaults()
	if cfg.CacheBytes != 64<<20 || cfg.Logger == nil {
		t.Errorf("defaults are %+v", cfg)
	}
	broken := errors.New("broken")
	defer func() {
		if got := recover(); got != broken {
			t.Errorf("the default of Fatal panicked with %v, want %v", got, broken)
		}
	}()
	cfg.Fatal(broken)
}

func TestOneMachineForEachShard(t *testing.T) {
	s := openMem(t)
	if dataOf(t, s, 1) != dataOf(t, s, 1) || catalogueOf(t, s) != catalogueOf(t, s) {
		t.Error("two machines for one shard")
	}
	if _, err := s.Data(sharding.Meta); err == nil {
		t.Error("shard 0 was opened as a data shard")
	}
}

func TestRealFiles(t *testing.T) {
	dir := t.TempDir()
	for i := uint64(0); i < 3; i++ {
		s, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: dir}); err == nil {
			t.Error("one directory was opened twice")
		}
		d := dataOf(t, s, 1)
		if got := d.Position().Index; got != i {
			t.Errorf("position %d, want %d", got, i)
		}
		apply(t, d, Entry{Index: i + 1, Term: 1})
		closeStore(t, s)
	}
}

func TestClosed(t *testing.T) {
	s := openOn(t, vfs.NewMem())
	d, c := leading(t, s, 1), catalogueOf(t, s)
	closeStore(t, s)
	closeStore(t, s)
	_, dataErr := s.Data(2)
	_, catalogueErr := s.Catalogue()
	_, _, bucketErr := c.Bucket("b")
	_, bucketsErr := c.Buckets()
	for call, err := range map[string]error{
		"Get": d.Get(1, []string{"k"}, func(int, []byte, uint64, bool) error {
			t.Error("a key was visited")
			return nil
		}),
		"Apply":     d.Apply([]Entry{set(2, 1, "k", "v")})[0].Err,
		"Wait":      d.Wait(context.Background(), 2),
		"Flush":     s.Flush(),
		"Data":      dataErr,
		"Catalogue": catalogueErr,
		"Bucket":    bucketErr,
		"Buckets":   bucketsErr,
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want %v", call, err, ErrClosed)
		}
	}
	if got := d.Position().Index; got != 1 {
		t.Errorf("position %d, want 1", got)
	}
}

// TestCloseWaitsForReaders closes the store in the middle of a visit.
func TestCloseWaitsForReaders(t *testing.T) {
	s := openOn(t, vfs.NewMem())
	d := leading(t, s, 1)
	apply(t, d, set(2, 1, "a", "1", "b", "2"))
	closed := make(chan error, 1)
	var seen []string
	err := d.Get(1, []string{"a", "b"}, func(_ int, value []byte, _ uint64, _ bool) error {
		if len(seen) == 0 {
			go func() { closed <- s.Close() }()
			for s.gate.TryRLock() { // until Close waits for us
				s.gate.RUnlock()
				if len(closed) > 0 {
					return errors.New("the store was closed during a visit")
				}
				runtime.Gosched()
			}
		}
		seen = append(seen, string(value))
		return nil
	})
	if err != nil || !slices.Equal(seen, []string{"1", "2"}) {
		t.Errorf("read %q, %v", seen, err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestPebbleLogsThroughSlog: its chatter at debug, its errors as errors.
func TestPebbleLogsThroughSlog(t *testing.T) {
	for _, c := range []struct {
		level slog.Level
		info  bool
	}{{slog.LevelDebug, true}, {slog.LevelInfo, false}} {
		var out strings.Builder
		l := pebbleLog{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: c.level}))}
		l.Infof("table %d", 7)
		if got := strings.Contains(out.String(), "table 7"); got != c.info {
			t.Errorf("at %v the log is %q", c.level, out.String())
		}
		l.Errorf("job %d", 8)
		if !strings.Contains(out.String(), "level=ERROR") || !strings.Contains(out.String(), "job 8") {
			t.Errorf("at %v the log is %q, want an error", c.level, out.String())
		}
	}
}

// TestDiskErrorIsFatal breaks the disk under a flush: the store says so once,
// refuses all work, hangs nowhere, and loses nothing that was flushed before.
func TestDiskErrorIsFatal(t *testing.T) {
	broken := errors.New("broken disk")
	for _, c := range []struct {
		name string
		op   errorfs.OpKind
		file string
	}{
		{"making a table", errorfs.OpCreate, ".sst"},
		{"writing a table", errorfs.OpFileWrite, ".sst"},
		{"syncing a table", errorfs.OpFileSyncData, ".sst"},
		{"writing the manifest", errorfs.OpFileWrite, "MANIFEST"},
		{"syncing the manifest", errorfs.OpFileSync, "MANIFEST"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var failing atomic.Bool
			inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
				if failing.Load() && op.Kind == c.op && strings.Contains(op.Path, c.file) {
					return broken
				}
				return nil
			})
			var fatals atomic.Int32
			var reported atomic.Value
			s, err := Open(Config{Dir: testDir, fs: errorfs.Wrap(mem, inject), Fatal: func(err error) {
				fatals.Add(1)
				reported.Store(err)
			}})
			if err != nil {
				t.Fatal(err)
			}
			d := leading(t, s, 1)
			apply(t, d, set(2, 1, "k", "kept"))
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			apply(t, d, set(3, 1, "k", "lost"))
			failing.Store(true)
			checkFailed(t, s, d)
			if err := s.Close(); err == nil {
				t.Error("Close gave no error, though it could not flush")
			}
			if err, _ := reported.Load().(error); fatals.Load() != 1 || err == nil || !strings.Contains(err.Error(), broken.Error()) {
				t.Errorf("Fatal was called %d times, with %v, want once with %v", fatals.Load(), err, broken)
			}
			s = openOn(t, mem.CrashClone(vfs.CrashCloneCfg{}))
			defer closeStore(t, s)
			if got := look(t, dataOf(t, s, 1), 1, "k"); got[0] != "kept@2" {
				t.Errorf("after a restart %q, want kept@2", got)
			}
		})
	}
}

// checkFailed flushes a store whose disk is broken and tries the rest.
func checkFailed(t *testing.T, s *Store, d *Data) {
	t.Helper()
	flushErr := s.Flush()
	if flushErr == nil {
		t.Fatal("Flush gave no error")
	}
	for call, err := range map[string]error{
		"Flush": s.Flush(),
		"Apply": d.Apply([]Entry{set(4, 1, "k", "more")})[0].Err,
		"Wait":  d.Wait(context.Background(), 4),
		"Get":   d.Get(1, []string{"k"}, func(int, []byte, uint64, bool) error { return nil }),
	} {
		if !errors.Is(err, flushErr) {
			t.Errorf("%s: %v, want the first error, %v", call, err, flushErr)
		}
	}
	if got := d.Position().Index; got != 3 {
		t.Errorf("position %d, want 3", got)
	}
}

// TestHungDiskIsFatal blocks a sync for longer than is allowed.
func TestHungDiskIsFatal(t *testing.T) {
	blocked, release := make(chan struct{}, 1), make(chan struct{})
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".sst") {
			blocked <- struct{}{}
			<-release
		}
		return nil
	})
	fatals := make(chan error, 1)
	s, err := Open(Config{
		Dir: testDir, fs: errorfs.Wrap(vfs.NewMem(), inject), Fatal: func(err error) { fatals <- err },
		slowDisk: time.Second, hungDisk: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.slow(vfs.DiskSlowInfo{Duration: time.Second}) // slow, but not hung
	d := leading(t, s, 1)
	flushed := make(chan error, 1)
	go func() { flushed <- s.Flush() }()
	<-blocked
	fatal := <-fatals // Pebble looks every 2 s
	if !strings.Contains(fatal.Error(), "the disk hangs: sync") || !strings.Contains(fatal.Error(), ".sst") {
		t.Errorf("fatal: %v", fatal)
	}
	if err := <-flushed; !errors.Is(err, fatal) {
		t.Errorf("the flush that hangs: %v, want %v", err, fatal)
	}
	if err := d.Apply([]Entry{set(2, 1, "k", "v")})[0].Err; !errors.Is(err, fatal) {
		t.Errorf("applying: %v, want %v", err, fatal)
	}
	close(release)
	if err := s.Close(); !errors.Is(err, fatal) {
		t.Errorf("close: %v, want %v", err, fatal)
	}
}

// waitingIn returns how many goroutines wait in a function of the store.
func waitingIn(function string) (n int) {
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(stack, "fsm.(*Store)."+function+"(") && (strings.Contains(head, "[chan receive") || strings.Contains(head, "[sync.Mutex.Lock")) {
			n++
		}
	}
	return n
}

// TestFlushesAreShared: whoever comes while a flush runs waits for the next
// one, and all of them for the same.
func TestFlushesAreShared(t *testing.T) {
	const callers = 20
	mem := vfs.NewCrashableMem()
	blocked, release := make(chan struct{}, 1), make(chan struct{})
	var first sync.Once
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			first.Do(func() {
				blocked <- struct{}{}
				<-release
			})
		}
		return nil
	})
	s := openOn(t, errorfs.Wrap(mem, inject))
	d := leading(t, s, 1)
	flushed := make(chan error, callers+1)
	go func() { flushed <- s.Flush() }()
	<-blocked
	apply(t, d, set(2, 1, "k", "late"))
	for range callers {
		go func() { flushed <- s.Flush() }()
	}
	for waitingIn("sharedFlush") < callers {
		runtime.Gosched()
	}
	close(release)
	for range callers + 1 {
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	}
	crashed := openOn(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	if got := look(t, dataOf(t, crashed, 1), 1, "k"); got[0] != "late@2" {
		t.Errorf("after the flush and a crash: %q", got)
	}
	closeStore(t, crashed)
	if got := s.db.Metrics().Flush.Count; got != 2 {
		t.Errorf("%d flushes for %d callers, want 2", got, callers+1)
	}
	closeStore(t, s)
}

// failingState is a machine's differing part in which something fails.
type failingState struct {
	*Data
	fail func() error
}

func (f failingState) command(*pebble.Batch, *Entry) (Result, error) { return Result{}, f.fail() }

// TestApplyErrorIsFatal: a machine that could not apply an entry goes nowhere,
// even if Pebble reports the failure of a commit only to its log.
func TestApplyErrorIsFatal(t *testing.T) {
	broken := errors.New("broken")
	for name, fail := range map[string]func(*Store) error{
		"reading": func(*Store) error { return broken },
		"committing": func(s *Store) error {
			pebbleLog{slog.New(slog.DiscardHandler), s.fatal}.Fatalf("commit: %w", broken)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			fatals := 0
			s, err := Open(Config{Dir: testDir, fs: vfs.NewMem(), Fatal: func(error) { fatals++ }})
			if err != nil {
				t.Fatal(err)
			}
			d := leading(t, s, 1)
			results := d.apply(failingState{d, func() error { return fail(s) }}, []Entry{set(2, 1, "a", "1"), set(3, 1, "a", "2")})
			for i, r := range results {
				if !errors.Is(r.Err, broken) {
					t.Errorf("entry %d: %v, want %v", i, r.Err, broken)
				}
			}
			if got := d.Position().Index; got != 1 || fatals != 1 {
				t.Errorf("position %d after %d fatal errors, want 1 and 1", got, fatals)
			}
			if err := s.Close(); !errors.Is(err, broken) {
				t.Errorf("close: %v, want %v", err, broken)
			}
		})
	}
}

// TestCorruptTableIsFatal flips bits of a table under a read.
func TestCorruptTableIsFatal(t *testing.T) {
	var flip atomic.Bool
	fatals := make(chan error, 1)
	s, err := Open(Config{Dir: testDir, fs: rottenFS{vfs.NewMem(), &flip}, ValueCacheBytes: 1, Fatal: func(err error) { fatals <- err }})
	if err != nil {
		t.Fatal(err)
	}
	d := leading(t, s, 1)
	apply(t, d, set(2, 1, "k", "value"))
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	flip.Store(true)
	err = d.Get(1, []string{"k"}, func(int, []byte, uint64, bool) error {
		t.Error("a corrupt value was visited")
		return nil
	})
	if err == nil {
		t.Error("reading a corrupt table gave no error")
	}
	select {
	case err := <-fatals:
		if !strings.Contains(err.Error(), "corrupt") {
			t.Errorf("fatal: %v, want it to speak of corruption", err)
		}
	default:
		t.Error("a corrupt table was not fatal")
	}
	if err := s.Close(); err == nil {
		t.Error("Close of a failed store gave no error")
	}
}

// rottenFS is a file system whose tables read back wrong once flip is set.
type rottenFS struct {
	vfs.FS
	flip *atomic.Bool
}

func (fs rottenFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return f, err
	}
	return rottenFile{f, fs.flip}, nil
}

type rottenFile struct {
	vfs.File
	flip *atomic.Bool
}

func (f rottenFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if f.flip.Load() {
		for i := range b[:n] {
			b[i] ^= 1
		}
	}
	return n, err
}
