// Command bench compares manykv with etcd and Redis: three nodes of each, one store
// after the other, on loopback with every sync on, under the same load (package load)
// through each store's own Go client. It is a module of its own, so that users of
// manykv do not depend on the clients of others.
//
// What is a batch:
//
//	manykv  Bucket.GetMany, Bucket.SetMany
//	etcd    one Txn of Gets, or of Puts; reads are linearizable, etcd's default
//	Redis   MGET, MSET and WAIT 1; a primary and two replicas, appendfsync always: what
//	        an MSET needs, since one of Redis Cluster may not span slots. Reads are the
//	        primary's own word: it may have been deposed.
//
// manykv's connections are encrypted and both ends have certificates; the others' are
// plain TCP.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/load"
)

type options struct {
	manykv   string
	stores   list
	callers  list
	ops      list
	batch    int
	value    int
	keys     int
	shards   int
	duration time.Duration
	rounds   int
	etcd     string
	redis    string
	dir      string
	into     string
}

// list is a flag of words by comma.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = strings.Split(s, ","); return nil }

// measured is one cell: one store, one operation, so many callers.
type measured struct {
	Store   string `json:"store"`
	Callers int    `json:"callers"`
	Round   int    `json:"round"`
	load.Result
}

// report is what a run came to.
type report struct {
	Date      string     `json:"date"`
	Commit    string     `json:"commit"`
	Disk      string     `json:"disk"`
	Rounds    int        `json:"rounds"`
	Shards    int        `json:"shards"` // 0: the default
	Command   string     `json:"command"`
	Machine   string     `json:"machine"`
	Versions  []string   `json:"versions"`
	Batch     int        `json:"batch"`
	ValueSize int        `json:"value_size"`
	KeySpace  int        `json:"key_space"`
	Seconds   float64    `json:"seconds_each"`
	Cells     []measured `json:"cells"`
}

func main() {
	o := options{stores: list{"manykv", "etcd", "redis"}, callers: list{"1", "16", "64"}, ops: list{"set-many", "get-many", "set", "get"}}
	flag.StringVar(&o.manykv, "manykv", "bin/manykv", "the `program` manykv")
	flag.Var(&o.stores, "stores", "what to measure, by comma")
	flag.Var(&o.callers, "callers", "calls in flight, by comma")
	flag.Var(&o.ops, "ops", "operations, by comma: "+strings.Join(load.Ops, ", "))
	flag.IntVar(&o.batch, "batch", 100, "keys in a batch")
	flag.IntVar(&o.value, "value-size", 256, "bytes of a value")
	flag.IntVar(&o.keys, "keys", 100_000, "size of the key space")
	flag.IntVar(&o.shards, "shards", 0, "manykv's shards; 0: its default, two for each node")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "how long each operation is measured")
	flag.IntVar(&o.rounds, "rounds", 3, "how often all of it is done, beginning with another store each time; the table has medians")
	flag.StringVar(&o.etcd, "etcd", "etcd", "the `program` etcd")
	flag.StringVar(&o.redis, "redis", "redis-server", "the `program` redis-server")
	flag.StringVar(&o.dir, "dir", "", "`folder` for compare.json, compare.md and compare.svg; default none")
	flag.StringVar(&o.into, "into", "", "Markdown `file` whose part between <!-- compare --> and <!-- /compare --> is replaced by the table, with the plot beside it")
	flag.Parse()
	runtime.LockOSThread() // see processes.run
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	if err := load.CheckOps(o.ops); err != nil {
		return err
	}
	disk, err := diskOf(os.TempDir())
	if err != nil {
		return err
	}
	r := &report{
		Date: time.Now().Format("2006-01-02"), Commit: output(ctx, "git", "describe", "--always", "--dirty"), Disk: disk,
		Command: "bench " + strings.Join(os.Args[1:], " "), Machine: machine(), Rounds: o.rounds, Shards: o.shards,
		Batch: o.batch, ValueSize: o.value, KeySpace: o.keys, Seconds: o.duration.Seconds(),
	}
	for round := range o.rounds {
		for i := range o.stores {
			name := o.stores[(round+i)%len(o.stores)]
			cells, version, err := measure(ctx, o, name, round)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r.Cells = append(r.Cells, cells...)
			if round == 0 {
				r.Versions = append(r.Versions, version)
			}
		}
	}
	fmt.Println(table(r))
	return r.save(o)
}

// measure starts a store, measures it and ends it.
func measure(ctx context.Context, o *options, name string, round int) (cells []measured, version string, err error) {
	start, known := stores[name]
	if !known {
		return nil, "", fmt.Errorf("there is no store of that name, only %s", strings.Join(storeNames(), ", "))
	}
	dir, err := os.MkdirTemp("", "bench-"+name+"-")
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	nodes := &processes{dir: dir}
	defer func() { err = errors.Join(err, nodes.stop()) }()
	s, err := start(ctx, nodes, o)
	if err != nil {
		return nil, "", fmt.Errorf("%w; %s", err, nodes.lastWords())
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for i, callers := range o.callers {
		n := 0
		if _, err := fmt.Sscan(callers, &n); err != nil {
			return nil, "", fmt.Errorf("callers %q: %w", callers, err)
		}
		l := &load.Load{Store: s.store, Batch: o.batch, ValueSize: o.value, Keys: o.keys, Callers: n, Duration: o.duration, Timeout: callTimeout}
		if err := l.Check(kv.Limits{}.WithDefaults()); err != nil {
			return nil, "", err
		}
		if i == 0 || slices.Contains(o.ops, "delete-many") {
			fmt.Fprintf(os.Stderr, "%s: filling %d keys\n", name, o.keys)
			if err := l.Fill(ctx, new(load.Seen)); err != nil {
				return nil, "", fmt.Errorf("fill: %w; %s", err, nodes.lastWords())
			}
		}
		for _, op := range o.ops {
			r := l.Measure(ctx, op, new(load.Seen))
			if ctx.Err() != nil {
				return nil, "", context.Cause(ctx)
			}
			if r.Errors > 0 {
				return nil, "", fmt.Errorf("%s: %d calls failed, the first: %s; %s", op, r.Errors, r.FirstError, nodes.lastWords())
			}
			fmt.Fprintf(os.Stderr, "%-7s %-9s %3d callers  %9.0f keys/s  p50 %7.2f ms  p99 %7.2f ms\n", name, op, n, r.KeysPerSec, r.P50, r.P99)
			cells = append(cells, measured{Store: name, Callers: n, Round: round, Result: r})
		}
	}
	return cells, s.version, nil
}

const callTimeout = 30 * time.Second

func (r *report) save(o *options) error {
	if o.dir != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(o.dir, 0o755); err != nil {
			return err
		}
		for name, content := range map[string]string{"compare.json": string(text) + "\n", "compare.md": table(r), "compare.svg": plot(r)} {
			if err := os.WriteFile(filepath.Join(o.dir, name), []byte(content), 0o644); err != nil {
				return err
			}
		}
	}
	if o.into == "" {
		return nil
	}
	page, err := os.ReadFile(o.into)
	if err != nil {
		return err
	}
	const begin, end = "<!-- compare -->\n", "<!-- /compare -->"
	before, rest, found := strings.Cut(string(page), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s has no %s … %s", o.into, strings.TrimSpace(begin), end)
	}
	picture := strings.TrimSuffix(o.into, ".md") + ".svg"
	text := before + begin + "\n" + table(r) + fmt.Sprintf("\n![keys a second](%s)\n\n", filepath.Base(picture)) + end + after
	return errors.Join(os.WriteFile(o.into, []byte(text), 0o644), os.WriteFile(picture, []byte(plot(r)), 0o644))
}

// output is the first line that a command prints; empty if it cannot be run.
func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// diskOf names the file system under a folder. One in memory is refused: there every
// sync is done at once, and nothing is kept.
func diskOf(dir string) (string, error) {
	const tmpfs, ext, xfs, btrfs, overlay = 0x01021994, 0xef53, 0x58465342, 0x9123683e, 0x794c7630
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "", fmt.Errorf("file system of %s: %w", dir, err)
	}
	if s.Type == tmpfs {
		return "", fmt.Errorf("%s is in memory: name a folder on a disk with TMPDIR", dir)
	}
	names := map[int64]string{ext: "ext4", xfs: "xfs", btrfs: "btrfs", overlay: "overlay"}
	if name, known := names[s.Type]; known {
		return name, nil
	}
	return fmt.Sprintf("file system %#x", s.Type), nil
}

// machine says on what was measured.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s/%s", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH)
}
