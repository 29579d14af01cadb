//go:build linux

package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// childEnv names what a child does, one of children; its directory is its argument.
	childEnv = "MANYKV_DISK_CHILD"
	// patience bounds what ends at once on an idle machine.
	patience = 20 * time.Second
)

// children are the programs that tests run on a disk. They are processes of
// their own: they get killed, and map files.
var children = map[string]func(dir string) error{
	"bbolt":        func(dir string) error { return appendTo(openBolt(dir, false)) },
	"bbolt-nosync": func(dir string) error { return appendTo(openBolt(dir, true)) },
	"raft-wal":     func(dir string) error { return appendTo(openWAL(dir)) },
	"pebble":       func(dir string) error { return appendTo(openPebble(dir)) },
	"mapping":      mapFile,
	"disk":         serveUntilKilled,
	"namespace":    keepNamespace,
}

func TestMain(m *testing.M) {
	if run := children[os.Getenv(childEnv)]; run != nil {
		if err := run(os.Args[1]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// child is a running program. Its lines are what it printed.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// start starts a program; it is killed when the test ends.
func start(t *testing.T, name, dir string) *child {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	c := &child{t: t, cmd: exec.Command(exe, dir)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+name)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	must(t, c.cmd.Start())
	t.Cleanup(c.kill)
	c.lines = bufio.NewScanner(out)
	return c
}

// next is the program's next line, or false at its end. It fails the test if
// the program says that something is wrong.
func (c *child) next() (string, bool) {
	c.t.Helper()
	if !c.lines.Scan() {
		return "", false
	}
	return c.lines.Text(), true
}

// expect fails the test unless the next line is want.
func (c *child) expect(want string) {
	c.t.Helper()
	if got, _ := c.next(); got != want {
		c.t.Fatalf("the program said %q, want %q", got, want)
	}
}

// say sends the program an empty line.
func (c *child) say() {
	c.t.Helper()
	_, err := io.WriteString(c.in, "\n")
	must(c.t, err)
}

// kill kills the program, if it runs, and waits for its end.
func (c *child) kill() {
	if c.cmd.ProcessState != nil {
		return
	}
	c.cmd.Process.Kill()
	for c.lines.Scan() { // a pipe must be empty before Wait
	}
	c.cmd.Wait()
}

// testDisk is a disk that a test has mounted.
type testDisk struct {
	*Disk
	t     *testing.T
	mount string
}

// openDisk mounts a disk until the test ends; without root or FUSE the test is skipped.
func openDisk(t *testing.T, cfg Config) *testDisk {
	t.Helper()
	cfg.Mount, cfg.Store = t.TempDir(), filepath.Join(t.TempDir(), "store")
	d, err := Open(cfg)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return &testDisk{Disk: d, t: t, mount: cfg.Mount}
}

// path is the path of a file of the disk.
func (d *testDisk) path(name string) string { return filepath.Join(d.mount, name) }

// create creates a file with data. It is closed when the test ends, at the latest.
func (d *testDisk) create(name, data string) *os.File {
	d.t.Helper()
	f, err := os.Create(d.path(name))
	must(d.t, err)
	d.t.Cleanup(func() { f.Close() })
	_, err = f.WriteString(data)
	must(d.t, err)
	return f
}

// syncDir syncs a directory.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// read reads a file of the disk; one that is not there reads as "none".
func (d *testDisk) read(name string) string {
	d.t.Helper()
	data, err := os.ReadFile(d.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return "none"
	}
	must(d.t, err)
	return string(data)
}

// cut cuts the power.
func (d *testDisk) cut() Lost {
	d.t.Helper()
	lost, err := d.PowerCut()
	must(d.t, err)
	return lost
}

// await polls until it holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// result waits for what a goroutine sends.
func result[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case v := <-c:
		return v
	case <-late.C:
		t.Fatalf("not within %s: %s", patience, what)
		panic("unreachable")
	}
}

// mounted says whether something is mounted there.
func mounted(t *testing.T, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	return strings.Contains(string(table), " "+dir+" ")
}
