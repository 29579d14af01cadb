//go:build linux

package disk

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountedCut: what a program synced through the mount is there after cuts,
// what it did not is lost sometimes and kept sometimes.
func TestMountedCut(t *testing.T) {
	d := openDisk(t, Config{})
	synced := d.create("synced", "safe")
	must(t, synced.Sync())
	flagged, err := os.OpenFile(d.path("flagged"), os.O_CREATE|os.O_WRONLY|unix.O_DSYNC, 0o644)
	must(t, err)
	_, err = flagged.WriteString("safe too")
	must(t, errors.Join(err, flagged.Close(), syncDir(d.mount)))
	seen := map[string]bool{}
	for range cutSeeds {
		f := d.create("unsynced", "")
		must(t, errors.Join(f.Sync(), syncDir(d.mount)))
		_, err := f.WriteString("perhaps")
		must(t, err)
		lost := d.cut()
		if _, err := f.Stat(); !errors.Is(err, syscall.ENOTCONN) {
			t.Fatalf("a file of before the cut says %v, want %v", err, syscall.ENOTCONN)
		}
		f.Close()
		if a, b := d.read("synced"), d.read("flagged"); a != "safe" || b != "safe too" {
			t.Fatalf("%s: the synced files are %q and %q", lost, a, b)
		}
		got := d.read("unsynced")
		if kept := got == "perhaps"; kept != (lost.Bytes.Kept == 7) {
			t.Fatalf("%s: the file is %q", lost, got)
		}
		seen[strings.ReplaceAll(got, "\x00", "_")] = true
		if len(seen) == 3 {
			return
		}
	}
	t.Errorf("the cuts left %v, want the data, nothing, and zeros", seen)
}

// TestMountedNames: names that were not synced go, also if the kernel had them cached.
func TestMountedNames(t *testing.T) {
	d := openDisk(t, Config{})
	seen := map[string]bool{}
	for range cutSeeds {
		must(t, os.WriteFile(d.path("f"), []byte("old"), 0o644))
		must(t, os.WriteFile(d.path("new"), []byte("new"), 0o644))
		for _, name := range []string{"f", "new"} {
			f, err := os.Open(d.path(name))
			must(t, err)
			must(t, errors.Join(f.Sync(), f.Close()))
		}
		must(t, syncDir(d.mount))
		must(t, os.Rename(d.path("new"), d.path("f")))
		if got := d.read("f") + " " + d.read("new"); got != "new none" {
			t.Fatalf("before the cut there is %q", got)
		}
		d.cut()
		seen[d.read("f")+" "+d.read("new")] = true
		if len(seen) == 2 && seen["old new"] && seen["new none"] {
			return
		}
	}
	t.Errorf("the cuts left %v, want the rename and its lack", seen)
}

// TestDeadMount: a process that was killed leaves a mount, which the next one takes away.
func TestDeadMount(t *testing.T) {
	d := openDisk(t, Config{})
	must(t, d.Close())
	t.Cleanup(func() { syscall.Unmount(d.mount, syscall.MNT_DETACH) }) // if the test fails
	c := start(t, "disk", d.mount)
	c.expect("mounted")
	c.kill()
	if err := syscall.Statfs(d.mount, new(syscall.Statfs_t)); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("the dead mount says %v, want %v", err, syscall.ENOTCONN)
	}
	again, err := Open(Config{Mount: d.mount, Store: filepath.Join(t.TempDir(), "store")})
	must(t, err)
	must(t, again.Close())
	if mounted(t, d.mount) {
		t.Errorf("something is still mounted at %s", d.mount)
	}
}

// serveUntilKilled is a program that mounts a disk.
func serveUntilKilled(dir string) error {
	store, err := os.MkdirTemp(filepath.Dir(dir), "store")
	if err != nil {
		return err
	}
	if _, err := Open(Config{Mount: dir, Store: store}); err != nil {
		return err
	}
	fmt.Println("mounted")
	select {}
}

// TestCloseUnderUse: Close takes the disk from under open files.
func TestCloseUnderUse(t *testing.T) {
	d := openDisk(t, Config{})
	f := d.create("f", "data")
	must(t, d.Close())
	if _, err := f.WriteString("more"); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("a write after Close says %v, want %v", err, syscall.ENOTCONN)
	}
	if mounted(t, d.mount) {
		t.Errorf("the disk is still mounted at %s", d.mount)
	}
	if there, err := os.ReadDir(d.cfg.Store); err != nil || len(there) > 0 {
		t.Errorf("%d entries are left in the store: %v", len(there), err)
	}
	must(t, d.Close())
	if _, err := d.PowerCut(); !errors.Is(err, ErrClosed) {
		t.Errorf("a power cut after Close says %v, want %v", err, ErrClosed)
	}
}

// TestOtherNamespace: a copy of the mount in another mount namespace, such as
// that of a node with a network of its own, does not keep the disk from ending.
func TestOtherNamespace(t *testing.T) {
	d := openDisk(t, Config{})
	c := start(t, "namespace", d.mount)
	c.expect("ready")
	d.cut()
	f := d.create("f", "after the cut") // in the new mount
	must(t, f.Close())
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	must(t, result(t, "Close", closed))
	c.say()
	c.expect(syscall.ENOTCONN.Error())
}

// keepNamespace is a program in a mount namespace of its own.
func keepNamespace(dir string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	// What is unmounted elsewhere stays mounted here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	fmt.Println("ready")
	bufio.NewScanner(os.Stdin).Scan()
	fmt.Println(syscall.Statfs(dir, new(syscall.Statfs_t)))
	return nil
}

// TestOpenRefuses: errors say what is wrong.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "want two directories"},
		{Config{Mount: dir, Store: filepath.Join(dir, "store")}, "is below Mount"},
		{Config{Mount: dir, Store: t.TempDir(), Limit: -1}, "Limit is -1"},
		{Config{Mount: filepath.Join(dir, "none"), Store: t.TempDir()}, "no such file"},
		{Config{Mount: file, Store: t.TempDir()}, "is a file"},
		{Config{Mount: t.TempDir(), Store: dir}, "has 1 entries, want an empty directory"},
	} {
		d, err := Open(test.cfg)
		if err == nil {
			d.Close()
		}
		if errors.Is(err, ErrUnavailable) {
			t.Skip(err)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Open(%+v) says %v, want %q", test.cfg, err, test.want)
		}
	}
	for _, test := range []struct {
		uid          int
		device, want string
	}{{1000, fuseDevice, "root"}, {0, file + "none", file + "none"}} {
		if err := missing(test.uid, test.device); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("user %d with %s: %v, want %v and %q", test.uid, test.device, err, ErrUnavailable, test.want)
		}
	}
}

// TestMapping runs a program that maps a file.
func TestMapping(t *testing.T) {
	d := openDisk(t, Config{})
	c := start(t, "mapping", d.mount)
	c.expect("mapped")
	flips, err := d.FlipBits("mapped", 1)
	must(t, err)
	c.say()
	c.expect(fmt.Sprintf("bit %d at %d", flips[0].Bit, flips[0].Offset))
	c.expect("synced")
	c.kill()
	d.cut()
	if got := d.read("mapped")[:6]; got != "mapped" {
		t.Errorf("after the cut the file begins with %q, want %q", got, "mapped")
	}
}

// mapFile is a program that reads and writes a file both ways, and says which
// bit of it was flipped meanwhile.
func mapFile(dir string) error {
	f, err := os.Create(filepath.Join(dir, "mapped"))
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(2*blockSize), syncDir(dir)); err != nil {
		return err
	}
	mapping, err := unix.Mmap(int(f.Fd()), 0, 2*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for _, at := range []int64{0, blockSize - 2, 2*blockSize - 5} {
		if _, err := f.WriteAt([]byte("write"), at); err != nil {
			return err
		}
		if got := string(mapping[at : at+5]); got != "write" {
			return fmt.Errorf("after a write at %d the mapping has %q", at, got)
		}
		if _, err := f.WriteAt(make([]byte, 5), at); err != nil {
			return err
		}
	}
	fmt.Println("mapped")
	bufio.NewScanner(os.Stdin).Scan()
	for i, b := range mapping {
		for bit := range 8 {
			if b>>bit&1 != 0 {
				fmt.Printf("bit %d at %d\n", bit, i)
			}
		}
	}
	copy(mapping, "mapped")
	got := make([]byte, 6)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "mapped" {
		return fmt.Errorf("after a write to the mapping a read gives %q, %w", got, err)
	}
	if err := unix.Msync(mapping, unix.MS_SYNC); err != nil {
		return err
	}
	fmt.Println("synced")
	select {}
}

// TestLocks: flock(2) works, by file and not by process.
func TestLocks(t *testing.T) {
	d := openDisk(t, Config{})
	a, b := d.create("lock", ""), d.create("lock", "")
	must(t, syscall.Flock(int(a.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	if err := syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("a second lock says %v, want %v", err, syscall.EWOULDBLOCK)
	}
	must(t, a.Close())
	must(t, syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
}
