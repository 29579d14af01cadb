//go:build linux

package disk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	bolt "go.etcd.io/bbolt"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openDisk makes a disk and returns it with the directory where it is mounted.
func openDisk(t testing.TB, seed uint64) (*Disk, string) {
	t.Helper()
	dir := t.TempDir()
	mount := filepath.Join(dir, "mount")
	must(t, os.Mkdir(mount, 0o700))
	d, err := Open(Config{Mount: mount, Store: filepath.Join(dir, "store"), Seed: seed})
	if err != nil && (os.Geteuid() != 0 || errors.Is(err, os.ErrNotExist)) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d, mount
}

func write(t testing.TB, name string, data []byte, sync bool) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

func syncDir(t testing.TB, name string) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// What is synced survives every power cut; what is not survives some, some of it torn,
// and no other bytes ever come of it.
func TestPowerCuts(t *testing.T) {
	const blocks = 8
	old, next := bytes.Repeat([]byte{'o'}, blocks*blockBytes), bytes.Repeat([]byte{'n'}, blocks*blockBytes)
	var all, none, torn, nameless int
	for seed := range uint64(60) {
		d, mount := openDisk(t, seed)
		name, fresh := filepath.Join(mount, "synced"), filepath.Join(mount, "fresh")
		write(t, name, old, true)
		syncDir(t, mount)
		write(t, name, next[:blocks/2*blockBytes], false) // half of it again
		write(t, fresh, old, true)                        // whose name is not synced
		lost, err := d.PowerCut()
		must(t, err)
		got, err := os.ReadFile(name)
		must(t, err)
		if len(got) != len(old) || !bytes.Equal(got[blocks/2*blockBytes:], old[blocks/2*blockBytes:]) {
			t.Fatalf("seed %d: what was synced is not there: %d bytes", seed, len(got))
		}
		switch n := bytes.Count(got, []byte("n")); n {
		case 0:
			none++
		case blocks / 2 * blockBytes:
			all++
		default:
			if n%blockBytes != 0 {
				torn++
			}
			if n%sectorBytes != 0 {
				t.Fatalf("seed %d: %d new bytes, want whole sectors", seed, n)
			}
		}
		switch got, err := os.ReadFile(fresh); {
		case errors.Is(err, os.ErrNotExist):
			nameless++
		case err != nil || !bytes.Equal(got, old):
			t.Fatalf("seed %d: the fresh file: %v, %d bytes", seed, err, len(got))
		}
		if lost.Blocks != blocks/2 || lost.Changes != 1 {
			t.Errorf("seed %d: %+v", seed, lost)
		}
	}
	if all == 0 || none == 0 || torn == 0 || nameless == 0 || nameless == 60 {
		t.Errorf("of 60 power cuts: all kept %d, none %d, torn %d, name lost %d; want some of each", all, none, torn, nameless)
	}
}

// A rename is all or nothing, and later changes do not survive without earlier ones.
func TestChangesAreInOrder(t *testing.T) {
	kept := make(map[string]int)
	for seed := range uint64(40) {
		d, mount := openDisk(t, seed)
		in := func(name string) string { return filepath.Join(mount, name) }
		must(t, os.Mkdir(in("dir"), 0o700))
		write(t, in("a"), []byte("1"), true)
		syncDir(t, mount)
		must(t, os.Rename(in("a"), in("dir/b")))
		write(t, in("c"), nil, false)
		must(t, os.Remove(in("dir/b")))
		_, err := d.PowerCut()
		must(t, err)
		var names []string
		for _, name := range []string{"a", "dir/b", "c"} {
			if _, err := os.Stat(in(name)); err == nil {
				names = append(names, name)
			}
		}
		kept[strings.Join(names, " ")]++
	}
	for _, want := range []string{"a", "dir/b", "dir/b c", "c"} {
		if kept[want] == 0 {
			t.Errorf("never only %q: %v", want, kept)
		}
		delete(kept, want)
	}
	if len(kept) > 0 {
		t.Errorf("states that cannot be: %v", kept)
	}
}

// Truncating and writing again leaves the old or the new, not bytes from elsewhere.
func TestTruncate(t *testing.T) {
	for seed := range uint64(30) {
		d, mount := openDisk(t, seed)
		name := filepath.Join(mount, "f")
		write(t, name, bytes.Repeat([]byte{'o'}, 3*blockBytes), true)
		syncDir(t, mount)
		must(t, os.Truncate(name, 100))
		write(t, name, bytes.Repeat([]byte{'n'}, 2*blockBytes), false)
		before, err := os.ReadFile(name)
		must(t, err)
		if len(before) != 2*blockBytes || bytes.ContainsAny(before, "o\x00") {
			t.Fatalf("seed %d: before the cut: %d bytes", seed, len(before))
		}
		_, err = d.PowerCut()
		must(t, err)
		got, err := os.ReadFile(name)
		must(t, err)
		if len(bytes.Trim(got, "on\x00")) > 0 || len(got) < 100 || len(got) > 3*blockBytes {
			t.Errorf("seed %d: %d bytes, or others", seed, len(got))
		}
	}
}

func TestFaults(t *testing.T) {
	d, mount := openDisk(t, 1)
	name := filepath.Join(mount, "f")
	write(t, name, []byte("0123456789"), true)
	syncDir(t, mount)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	writeAt := func(at int64) error { _, err := f.WriteAt([]byte("x"), at); return err }

	d.SetFault(Fault{WriteError: syscall.EIO, Times: 1, Match: "f"})
	if first, second := writeAt(0), writeAt(0); !errors.Is(first, syscall.EIO) || second != nil {
		t.Errorf("a write fails once: %v, %v", first, second)
	}
	d.ClearFaults()
	d.SetFault(Fault{Full: true})
	if within, beyond := writeAt(9), writeAt(10); within != nil || !errors.Is(beyond, syscall.ENOSPC) {
		t.Errorf("a full disk: %v, %v", within, beyond)
	}
	if _, err := os.Create(name + "2"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a new file on a full disk: %v", err)
	}
	d.ClearFaults()
	d.SetFault(Fault{Match: "other", SyncError: syscall.EIO})
	must(t, f.Sync())
	d.SetFault(Fault{HangSync: true})
	synced := make(chan error)
	go func() { synced <- f.Sync() }()
	for d.Stats().Delayed == 0 {
		select {
		case err := <-synced:
			t.Fatalf("a sync that hangs returned: %v", err)
		default:
		}
	}
	d.ClearFaults()
	must(t, <-synced)
	if s := d.Stats(); s.Failed < 3 || s.Syncs < 2 || s.DirSyncs != 1 {
		t.Errorf("counted %+v", s)
	}
}

// After a failed sync a later one does not save what was written before.
func TestFailedSyncIsNotMadeGood(t *testing.T) {
	saved := 0
	const seeds = 20
	for seed := range uint64(seeds) {
		d, mount := openDisk(t, seed)
		name := filepath.Join(mount, "f")
		write(t, name, bytes.Repeat([]byte{'o'}, blockBytes), true)
		syncDir(t, mount)
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte{'n'}, blockBytes), 0)
		must(t, err)
		d.SetFault(Fault{SyncError: syscall.EIO, Times: 1})
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("the sync that fails: %v", err)
		}
		must(t, f.Sync())
		must(t, f.Close())
		_, err = d.PowerCut()
		must(t, err)
		got, err := os.ReadFile(name)
		must(t, err)
		if got[0] == 'n' {
			saved++
		}
	}
	if saved == seeds {
		t.Error("a sync after one that failed saved what was written before it, each time")
	}
}

func TestFlippedBits(t *testing.T) {
	d, mount := openDisk(t, 1)
	must(t, os.Mkdir(filepath.Join(mount, "journal"), 0o700))
	name := filepath.Join(mount, "journal", "1")
	zeros := make([]byte, 10_000)
	write(t, name, zeros, true)
	write(t, filepath.Join(mount, "other"), zeros, true)
	for _, dir := range []string{mount, filepath.Join(mount, "journal")} {
		syncDir(t, dir)
	}
	flips, err := d.FlipBits("journal/*", 3)
	must(t, err)
	for _, powerCut := range []bool{false, true} {
		if powerCut {
			_, err := d.PowerCut()
			must(t, err)
		}
		got, err := os.ReadFile(name)
		must(t, err)
		want := bytes.Clone(zeros)
		for _, f := range flips {
			if f.Path != "journal/1" {
				t.Errorf("flipped a bit in %s", f.Path)
			}
			want[f.Offset] ^= 1 << f.Bit
		}
		if len(flips) != 3 || !bytes.Equal(got, want) {
			t.Errorf("%v are not what is read, power cut %v", flips, powerCut)
		}
	}
	must(t, d.Wipe())
	if entries, err := os.ReadDir(mount); err != nil || len(entries) > 0 {
		t.Errorf("wiped: %v, %v", entries, err)
	}
	if flips, err := d.FlipBits("*", 1); err != nil || flips != nil {
		t.Errorf("nothing to flip: %v, %v", flips, err)
	}
}

// Files whose names are gone leave the store, when nobody has them open.
func TestRemovedFilesAreCollected(t *testing.T) {
	d, mount := openDisk(t, 1)
	for i := range 20 {
		name := filepath.Join(mount, strconv.Itoa(i))
		write(t, name, make([]byte, 100), true)
		must(t, os.Remove(name))
	}
	syncDir(t, mount)
	stored, err := os.ReadDir(d.cfg.Store)
	must(t, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(stored) > 2 || len(d.tree.files) > 1 { // the kernel may not have closed the last yet
		t.Errorf("%d files in the store, %d in the tree", len(stored), len(d.tree.files))
	}
}

// childEnv is what a child process shall write to, and how: see TestMain.
const childEnv = "MANYKV_DISK_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		kind, dir, _ := strings.Cut(spec, ":")
		if err := appendForEver(kind, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// entries is a real store that keeps entries.
type entries interface {
	last() (uint64, error)
	append(n uint64) error
}

func openLog(kind, dir string) (entries, error) {
	if kind == "wal" {
		w, err := raftwal.Open(dir)
		return walLog{w}, err
	}
	db, err := bolt.Open(filepath.Join(dir, "bolt.db"), 0o600, &bolt.Options{NoSync: kind == "bolt-nosync", NoGrowSync: kind == "bolt-nosync"})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return boltLog{db}, errors.Join(f.Sync(), f.Close())
}

type walLog struct{ w *raftwal.WAL }

func (l walLog) last() (uint64, error) { return l.w.LastIndex() }
func (l walLog) append(n uint64) error {
	return l.w.StoreLogs([]*raft.Log{{Index: n, Term: 1, Data: bytes.Repeat([]byte{byte(n)}, 700)}})
}

type boltLog struct{ db *bolt.DB }

func (l boltLog) last() (n uint64, err error) {
	return n, l.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte("b")); b != nil {
			n = uint64(b.Stats().KeyN)
		}
		return nil
	})
}

func (l boltLog) append(n uint64) error {
	return l.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		return b.Put(fmt.Appendf(nil, "%08d", n), bytes.Repeat([]byte{byte(n)}, 700))
	})
}

// appendForEver says what there is, then appends and says so, until it is killed.
func appendForEver(kind, dir string) error {
	l, err := openLog(kind, dir)
	if err != nil {
		return err
	}
	n, err := l.last()
	if err != nil {
		return err
	}
	for fmt.Println(n); ; {
		n++
		if err := l.append(n); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// lives starts a child on a store, kills it after some entries, and returns what it
// said of its start and of its end. ok is false if it could not open the store.
func lives(t *testing.T, kind, dir string, times int) (found, acknowledged int, ok bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+kind+":"+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		n, err := strconv.Atoi(lines.Text())
		must(t, err)
		if i == 0 {
			found, ok = n, true
		}
		acknowledged = n
		if i == times {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // killed
	if !ok {
		t.Logf("%s: %s", kind, bytes.TrimSpace(stderr.Bytes()))
	}
	return found, acknowledged, ok
}

// Real stores keep what they have acknowledged through power cuts; one that does not
// sync is seen to lose.
func TestStoresThroughPowerCuts(t *testing.T) {
	for kind, syncs := range map[string]bool{"wal": true, "bolt": true, "bolt-nosync": false} {
		t.Run(kind, func(t *testing.T) {
			d, mount := openDisk(t, 3)
			acknowledged, lost := 0, 0
			const rounds = 12
			for round := range rounds {
				found, last, ok := lives(t, kind, mount, 10+7*round)
				if !ok || found < acknowledged {
					lost++
					t.Logf("round %d: %d found of %d acknowledged, opened: %v", round, found, acknowledged, ok)
				}
				if !ok {
					break
				}
				acknowledged = last
				_, err := d.PowerCut()
				must(t, err)
			}
			if (lost == 0) != syncs {
				t.Errorf("%d times something was lost in %d rounds; it syncs: %v", lost, rounds, syncs)
			}
		})
	}
}
