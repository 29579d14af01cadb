//go:build linux

package disk

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// use is what a program does with a disk that has a file f and a directory d.
type use struct {
	name string
	on   On
	do   func(d *testDisk, f *os.File) error
}

// first is how many operations must fail so that the program sees one fail: the
// kernel reads again what it failed to read ahead.
func (u use) first() int {
	if u.on == OnRead {
		return 2
	}
	return 1
}

var uses = []use{
	{"read", OnRead, func(_ *testDisk, f *os.File) error { _, err := f.ReadAt(make([]byte, 4), 0); return err }},
	{"write", OnWrite, func(_ *testDisk, f *os.File) error { _, err := f.WriteAt([]byte("data"), 0); return err }},
	{"truncate", OnWrite, func(_ *testDisk, f *os.File) error { return f.Truncate(4) }},
	{"allocate", OnWrite, func(_ *testDisk, f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 4) }},
	{"fsync", OnSync, func(_ *testDisk, f *os.File) error { return f.Sync() }},
	{"fdatasync", OnSync, func(_ *testDisk, f *os.File) error { return unix.Fdatasync(int(f.Fd())) }},
	{"fsync of a directory", OnSync, func(d *testDisk, _ *os.File) error { return syncDir(d.path("d")) }},
	{"create", OnNames, func(d *testDisk, _ *os.File) error {
		f, err := os.Create(d.path("d/new"))
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Remove(d.path("d/new")))
	}},
	{"mkdir", OnNames, func(d *testDisk, _ *os.File) error {
		return errors.Join(os.Mkdir(d.path("d/dir"), 0o755), os.Remove(d.path("d/dir")))
	}},
	{"rename", OnNames, func(d *testDisk, _ *os.File) error {
		return errors.Join(os.Rename(d.path("f"), d.path("g")), os.Rename(d.path("g"), d.path("f")))
	}},
	{"link", OnNames, func(d *testDisk, _ *os.File) error {
		return errors.Join(os.Link(d.path("f"), d.path("g")), os.Remove(d.path("g")))
	}},
}

// TestFaults: every kind of operation fails with the error of a fault that is
// about it, and with no other; once if the fault is for one, until it is cleared otherwise.
func TestFaults(t *testing.T) {
	d := openDisk(t, Config{})
	f := d.create("f", "data")
	must(t, os.Mkdir(d.path("d"), 0o755))
	for _, u := range uses {
		t.Run(u.name, func(t *testing.T) {
			defer d.ClearFaults()
			must(t, d.SetFault(Fault{On: onAll &^ u.on, Err: syscall.EIO}))
			if err := u.do(d, f); err != nil {
				t.Errorf("with faults on all else: %v", err)
			}
			d.ClearFaults()
			must(t, d.SetFault(Fault{On: u.on, Err: syscall.ENOSPC, First: u.first()}))
			if err := u.do(d, f); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the first says %v, want %v", err, syscall.ENOSPC)
			}
			if err := u.do(d, f); err != nil {
				t.Errorf("after the first: %v", err)
			}
			must(t, d.SetFault(Fault{On: u.on, Err: syscall.EIO}))
			for range 3 {
				if err := u.do(d, f); !errors.Is(err, syscall.EIO) {
					t.Errorf("got %v, want %v", err, syscall.EIO)
				}
			}
			d.ClearFaults()
			if err := u.do(d, f); err != nil {
				t.Errorf("after the faults were cleared: %v", err)
			}
		})
	}
	if got := d.read("f"); got != "data" {
		t.Errorf("the file is %q after all, want %q", got, "data")
	}
}

// TestFaultMatch: a fault is about what its pattern says.
func TestFaultMatch(t *testing.T) {
	d := openDisk(t, Config{})
	must(t, os.MkdirAll(d.path("n1/wal"), 0o755))
	f := d.create("n1/wal/1.wal", "")
	for _, test := range []struct {
		match string
		want  bool
	}{
		{"", true}, {"*.wal", true}, {"1.wal", true}, {"n1/wal/*", true}, {"n1/*/1.wal", true},
		{"*.db", false}, {"n1/*", false}, {"n2/wal/*", false}, {"wal", false}, {".", false},
	} {
		must(t, d.SetFault(Fault{On: OnSync, Match: test.match, Err: syscall.EIO}))
		if err := f.Sync(); errors.Is(err, syscall.EIO) != test.want {
			t.Errorf("%q: %v, want an error: %t", test.match, err, test.want)
		}
		d.ClearFaults()
	}
	must(t, d.SetFault(Fault{On: OnSync, Match: ".", Err: syscall.EIO}))
	if err := syncDir(d.mount); !errors.Is(err, syscall.EIO) {
		t.Errorf("the mount's own directory: %v, want %v", err, syscall.EIO)
	}
	must(t, syncDir(d.path("n1")))
	must(t, os.Rename(d.path("n1"), d.path("n2")))
	must(t, d.SetFault(Fault{On: OnSync, Match: "n2/wal/*", Err: syscall.EIO}))
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("after its directory was renamed: %v, want %v", err, syscall.EIO)
	}
}

// TestFaultRefused: errors say what is wrong with a fault.
func TestFaultRefused(t *testing.T) {
	d := &Disk{}
	for _, test := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Err: syscall.EIO}, "kinds of operations 0b0"},
		{Fault{On: 1 << 7, Err: syscall.EIO}, "0b10000000"},
		{Fault{On: OnSync}, "without Delay, Hang or Err"},
		{Fault{On: OnSync, Err: syscall.EIO, First: -1}, "first -1"},
		{Fault{On: OnSync, Delay: -1}, "-1ns"},
		{Fault{On: OnSync, Err: syscall.EIO, Match: "["}, "syntax error in pattern"},
	} {
		if err := d.SetFault(test.fault); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.fault, err, test.want)
		}
	}
}

// TestFailedSync: a program that tries a failed sync again until it succeeds loses data.
func TestFailedSync(t *testing.T) {
	d := openDisk(t, Config{})
	for range cutSeeds {
		f := d.create("f", "")
		must(t, errors.Join(f.Sync(), syncDir(d.mount)))
		_, err := f.WriteString("data")
		must(t, err)
		must(t, d.SetFault(Fault{On: OnSync, Err: syscall.EIO, First: 1}))
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("the first sync says %v, want %v", err, syscall.EIO)
		}
		must(t, f.Sync())
		if got := d.read("f"); got != "data" {
			t.Fatalf("after the syncs the file is %q", got)
		}
		d.ClearFaults()
		d.cut()
		switch got := d.read("f"); got {
		case "data":
		case "\x00\x00\x00\x00":
			return
		default:
			t.Fatalf("after the cut the file is %q", got)
		}
	}
	t.Errorf("the data was there after %d cuts", cutSeeds)
}

// TestHang: operations that a fault holds end when the faults are cleared, when
// the power is cut and when the disk is closed.
func TestHang(t *testing.T) {
	for _, u := range uses {
		for _, end := range []struct {
			name string
			end  func(d *testDisk) error
			want bool // the operation succeeds
		}{
			{"ClearFaults", func(d *testDisk) error { d.ClearFaults(); return nil }, true},
			{"PowerCut", func(d *testDisk) error { _, err := d.PowerCut(); return err }, false},
			{"Close", func(d *testDisk) error { return d.Close() }, false},
		} {
			t.Run(u.name+"/"+end.name, func(t *testing.T) {
				t.Parallel()
				d := openDisk(t, Config{})
				f := d.create("f", "data")
				must(t, os.Mkdir(d.path("d"), 0o755))
				must(t, d.SetFault(Fault{On: u.on, Hang: true}))
				done := make(chan error, 1)
				go func() { done <- u.do(d, f) }()
				await(t, "the operation hangs", func() bool { return d.Stats().Faults == 1 })
				select {
				case err := <-done:
					t.Fatalf("the operation did not hang: %v", err)
				default:
				}
				ended := make(chan error, 1)
				go func() { ended <- end.end(d) }()
				must(t, result(t, end.name, ended))
				if err := result(t, "the operation ends", done); (err == nil) != end.want {
					t.Errorf("the operation says %v, want success: %t", err, end.want)
				}
			})
		}
	}
}

// TestDelay: an operation takes as long as a fault says, unless faults are cleared before.
func TestDelay(t *testing.T) {
	const delay = 30 * time.Millisecond
	d := openDisk(t, Config{})
	f := d.create("f", "data")
	must(t, d.SetFault(Fault{On: OnSync, Delay: delay, First: 1}))
	began := time.Now()
	must(t, f.Sync())
	if took := time.Since(began); took < delay {
		t.Errorf("the sync took %s, want %s", took, delay)
	}
	must(t, d.SetFault(Fault{On: OnSync, Delay: time.Hour}))
	done := make(chan error, 1)
	go func() { done <- f.Sync() }()
	await(t, "the sync waits", func() bool { return d.Stats().Faults == 2 })
	d.ClearFaults()
	must(t, result(t, "the sync ends", done))
}

// TestFull: a full disk takes what fits, and more when there is room again.
func TestFull(t *testing.T) {
	const limit = 64 * blockSize
	d := openDisk(t, Config{Limit: limit})
	f := d.create("f", "")
	data := make([]byte, 10*blockSize)
	wrote, writes := 0, 0
	for {
		n, err := f.Write(data)
		wrote += n
		writes++
		if err == nil {
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		break
	}
	if want := limit - blockSize; wrote != want { // the file itself takes a block
		t.Errorf("%d bytes fit, want %d", wrote, want)
	}
	var stat syscall.Statfs_t
	must(t, syscall.Statfs(d.mount, &stat))
	if stat.Bfree != 0 || stat.Blocks != 64 {
		t.Errorf("%d of %d blocks are free, want 0 of 64", stat.Bfree, stat.Blocks)
	}
	for _, err := range []error{
		os.Mkdir(d.path("d"), 0o755), f.Truncate(limit + 1), unix.Fallocate(int(f.Fd()), 0, 0, limit+1),
	} {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("on a full disk: %v, want %v", err, syscall.ENOSPC)
		}
	}
	_, err := f.WriteAt(data, 0)
	must(t, err) // what is there can be overwritten
	must(t, f.Truncate(blockSize))
	must(t, os.Mkdir(d.path("d"), 0o755))
	must(t, d.SetLimit(3*blockSize))
	if _, err := f.WriteAt(data[:1], blockSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("beyond a lower limit: %v, want %v", err, syscall.ENOSPC)
	}
	d.ClearFaults() // the limit is that of Config again
	_, err = f.WriteAt(data[:1], blockSize)
	must(t, err)
	must(t, errors.Join(os.Remove(d.path("d")), os.Remove(d.path("f")), f.Close()))
	await(t, "the room of what was removed is free", func() bool { return d.Stats().Used == 0 })
}

// TestFlipBits: readers see the flipped bits, also those that had the file open
// and its pages cached, and a power cut leaves them.
func TestFlipBits(t *testing.T) {
	d := openDisk(t, Config{Seed: 3})
	const size = 3*blockSize + 10
	f := d.create("f.db", string(make([]byte, size)))
	must(t, errors.Join(f.Sync(), syncDir(d.mount)))
	d.create("other", "0000")
	if got := d.read("f.db"); len(got) != size {
		t.Fatalf("the file has %d bytes", len(got))
	}
	flips, err := d.FlipBits("*.db", 20)
	must(t, err)
	want := make([]byte, size)
	for _, flip := range flips {
		if flip.Path != "f.db" {
			t.Errorf("a bit of %s was flipped", flip.Path)
		}
		want[flip.Offset] ^= 1 << flip.Bit
	}
	got := make([]byte, size)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	if string(got) != string(want) || string(got) == string(make([]byte, size)) {
		t.Errorf("a reader sees other bits flipped than %v", flips)
	}
	if got := d.read("other"); got != "0000" {
		t.Errorf("the other file is %q", got)
	}
	d.cut()
	if d.read("f.db") != string(want) {
		t.Error("after a power cut other bits are flipped")
	}
	for match, n := range map[string]int{"none": 1, "f.db": 8*size + 1, "*.db": -1} {
		if flips, err := d.FlipBits(match, n); err == nil || len(flips) > 0 {
			t.Errorf("%d bits of %q: %v, %v, want an error", n, match, flips, err)
		}
	}
}
