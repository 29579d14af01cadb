package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const (
	// importAttempts and importPause bound how long a batch is tried again:
	// with the time-out of each call, long enough to outlive an election or the
	// restart of a node.
	importAttempts = 6
	importPause    = 250 * time.Millisecond
	// mostParallel bounds --parallel: each holds a batch in memory.
	mostParallel = 64
)

const importHelp = `Import every regular file below a directory, SOURCE: its path below SOURCE, with
'/', is the key, its content the value. If SOURCE is a file, it holds a pair a
line, as 'manykv export' writes them; a line of at most %[3]d MiB:

  {"key":"k","value":"text"}
  {"key":"k","value_base64":"AP8="}

Batches of at most 1,000 keys and 4 MiB are sent, those of a file one after the
other, so that the last occurrence of a key wins. A batch that failed, even one
whose outcome is unknown, is sent again a few times: the same content twice is
harmless.

--resume notes in STATE-FILE, after each batch, how far the import is. The same
command goes on from there after it failed or was killed, and removes STATE-FILE
when all is imported. It refuses to go on if SOURCE, or the last file imported
below it, has another size or time now, or the bucket is another one of that name.
Other files below SOURCE that changed since they were imported are not imported
again: --verify finds them.

Files that cannot be values (larger than %[1]d bytes, or a name that is not
UTF-8 or longer than %[2]d bytes) or cannot be read are reported and skipped; the
exit code is 1 then. A line that is no pair ends the import. A cluster may be set
to allow less (max_value_bytes of 'manykv server').

--verify reads everything back afterwards through another node, and compares
SHA-256 sums with the files of a directory.` + exitsHelp

// importOptions are the flags of import.
type importOptions struct {
	create, verify, verifyOnly, json bool
	verifyAddr, resume               string
	parallel                         int
}

func (p *program) importCommand() *cobra.Command {
	var o importOptions
	limits := kv.Limits{}.WithDefaults()
	cmd := &cobra.Command{
		Use:   "import BUCKET SOURCE",
		Short: "Import the files of a directory, and compare them, or an exported file",
		Long:  fmt.Sprintf(importHelp, limits.ValueBytes, limits.KeyBytes, maxLine>>20),
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			info, err := os.Stat(args[1])
			if err != nil {
				return fmt.Errorf("what to import: %w", err)
			}
			if !info.Mode().IsRegular() {
				return p.importTree(cmd.Context(), args[0], args[1], &o)
			}
			if o.verify || o.verifyOnly || cmd.Flags().Changed("parallel") {
				return usagef("--verify, --verify-only and --parallel are for a directory, %s is a file", args[1])
			}
			return p.importLines(cmd.Context(), args[0], args[1], &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.create, "create", false, "make the bucket if there is none of that name")
	f.BoolVar(&o.verify, "verify", false, "then read everything back and compare it with the files")
	f.BoolVar(&o.verifyOnly, "verify-only", false, "only read everything back and compare")
	f.StringVar(&o.verifyAddr, "verify-addr", "", "`host:port` of the node to read back through (default another than the one used)")
	f.IntVar(&o.parallel, "parallel", 4, "how many batches of files are in flight")
	f.StringVar(&o.resume, "resume", "", "`STATE-FILE` in which to note how far the import is, and from which to go on")
	f.BoolVar(&o.json, "json", false, "print the summary as JSON")
	return p.calls(cmd)
}

func (o *importOptions) check() error {
	switch {
	case o.parallel < 1 || o.parallel > mostParallel:
		return usagef("--parallel %d, want 1 to %d", o.parallel, mostParallel)
	case o.resume != "" && o.verifyOnly:
		return usagef("--resume with --verify-only, which imports nothing")
	case o.verifyAddr == "":
		return nil
	case !o.verify && !o.verifyOnly:
		return usagef("--verify-addr without --verify or --verify-only")
	}
	if err := checkAddr(o.verifyAddr); err != nil {
		return usagef("--verify-addr %w", err)
	}
	return nil
}

// importSummary is what is printed at the end.
type importSummary struct {
	Import *figures       `json:"import,omitempty"`
	Lines  *pairFigures   `json:"lines,omitempty"`
	Verify *verifyFigures `json:"verify,omitempty"`
}

// figures are what was done with a tree in a time.
type figures struct {
	Files      int64   `json:"files"`
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	KeysPerSec float64 `json:"keys_per_second"`
	MBPerSec   float64 `json:"mb_per_second"`
	Skipped    remarks `json:"skipped"`
}

func (t *tree) figures(took time.Duration) figures {
	t.mu.Lock()
	defer t.mu.Unlock()
	return figures{
		Files: t.files.Load(), Bytes: t.bytes.Load(), Seconds: took.Seconds(),
		KeysPerSec: perSecond(float64(t.files.Load()), took),
		MBPerSec:   perSecond(megabytes(t.bytes.Load()), took),
		Skipped:    t.skipped,
	}
}

func (f *figures) String() string {
	return fmt.Sprintf("%s, %.1f MB in %.2f s: %.0f keys/s, %.1f MB/s",
		count(f.Files, "file", "files"), megabytes(f.Bytes), f.Seconds, f.KeysPerSec, f.MBPerSec)
}

func (p *program) importTree(ctx context.Context, bucket, dir string, o *importOptions) error {
	t, err := openTree(dir)
	if err != nil {
		return fmt.Errorf("directory to import: %w", err)
	}
	defer func() { _ = t.root.Close() }() // it was only read from
	return p.withBucket(ctx, bucket, o.create && !o.verifyOnly, func(c *client.Client, b *client.Bucket) error {
		var sum importSummary
		if !o.verifyOnly {
			mark, err := openBookmark(o.resume, bucket, bucketID(b), dir)
			if err != nil {
				return err
			}
			if err := p.findFile(t, mark); err != nil {
				return err
			}
			if sum.Import, err = p.importFiles(ctx, t, sender{b, c, p.conn.timeout}, mark, o); err != nil {
				return mark.stopped(err)
			}
			if err := mark.finished(); err != nil {
				return err
			}
		}
		if o.verify || o.verifyOnly {
			sum.Verify, err = p.verifyTree(ctx, c, bucket, t.again(), o)
			if err != nil {
				return err
			}
		}
		if o.json {
			err = p.stdout.json(sum)
		}
		return errors.Join(sum.failure(), err)
	})
}

// failure is why the exit code is not 0 although all was done that could be.
func (s *importSummary) failure() error {
	if s.Verify != nil && s.Verify.Differing.Count > 0 {
		return errors.New(count(s.Verify.Differing.Count, "file differs", "files differ"))
	}
	if s.Import != nil && s.Import.Skipped.Count > 0 {
		return skipped(s.Import.Skipped.Count)
	}
	if s.Verify != nil && s.Verify.Skipped.Count > 0 {
		return skipped(s.Verify.Skipped.Count)
	}
	return nil
}

func skipped(files int) error {
	return errors.New(count(files, "file was skipped", "files were skipped"))
}

// again is the same directory with nothing done; verifying begins at its first
// file, whatever was imported before.
func (t *tree) again() *tree { return &tree{root: t.root, limits: t.limits} }

// skippedSoFar is a copy of the remarks.
func (t *tree) skippedSoFar() remarks {
	t.mu.Lock()
	defer t.mu.Unlock()
	return remarks{t.skipped.Count, slices.Clone(t.skipped.First)}
}

// setter is a bucket to write to.
type setter interface {
	SetMany(ctx context.Context, pairs []kv.Pair) error
}

// findFile goes to where an earlier import stopped, if there was one.
func (p *program) findFile(t *tree, mark *bookmark) error {
	if !mark.begun() {
		return nil
	}
	last := mark.state.File
	info, err := t.root.Lstat(last)
	if err != nil {
		return fmt.Errorf("the last file imported: %w", err)
	}
	if err := mark.checkSame(last, info); err != nil {
		return err
	}
	p.stderr.printf("going on after %q: %s imported before\n", last, count(mark.state.Keys, "file was", "files were"))
	t.after, t.skipped = strings.Split(last, "/"), mark.state.Skipped
	return nil
}

func (p *program) importFiles(ctx context.Context, t *tree, to setter, mark *bookmark, o *importOptions) (*figures, error) {
	took, err := p.watch(ctx, "import", t, func(ctx context.Context) error {
		return t.eachBatch(ctx, o.parallel, func(ctx context.Context, n int, batch []file) error {
			sent := int64(0)
			// Again in batches: files may have grown since they were found.
			for pairs, err := range batches(t.pairs(batch), pairSize) {
				if err == nil {
					err = to.SetMany(ctx, pairs)
				}
				if err != nil {
					return fmt.Errorf("import: files %q to %q: %w", pairs[0].Key, pairs[len(pairs)-1].Key, err)
				}
				for _, pair := range pairs {
					t.bytes.Add(int64(len(pair.Value)))
				}
				t.files.Add(int64(len(pairs)))
				sent += int64(len(pairs))
			}
			last := batch[len(batch)-1]
			return mark.reached(n, func(s *importState) {
				s.File, s.Size, s.Modified = last.key, last.size, last.modified
				s.Keys += sent
				s.Skipped = t.skippedSoFar()
			})
		})
	})
	if err != nil {
		return nil, err
	}
	sum := t.figures(took)
	p.reportFigures("imported", &sum, o.json)
	return &sum, nil
}

func (p *program) reportFigures(did string, f *figures, asJSON bool) {
	if f.Skipped.Count > 0 {
		p.stderr.printf("%s skipped:\n", count(f.Skipped.Count, "file", "files"))
		f.Skipped.print(p.stderr)
	}
	if !asJSON {
		p.stdout.printf("%s %s\n", did, f)
	}
}

// insist tries a call again that may succeed later.
func insist(ctx context.Context, timeout time.Duration, call func(context.Context) error) error {
	pause := importPause
	for attempt := 1; ; attempt++ {
		attemptCtx, done := context.WithTimeout(ctx, timeout)
		err := call(attemptCtx)
		done()
		switch kv.CodeOf(err) {
		case kv.CodeUnknown, kv.CodeUnavailable, kv.CodeBusy:
		default:
			return err
		}
		if attempt == importAttempts {
			return fmt.Errorf("after %d attempts: %w", attempt, err)
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return err
		}
	}
}

// watch runs work over the tree and shows how far it is.
func (p *program) watch(ctx context.Context, what string, t *tree, work func(context.Context) error) (time.Duration, error) {
	var total atomic.Int64 // bytes; 0 until they are counted
	counting, stop := context.WithCancel(ctx)
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		if p.terminal { // a second walk, so that the bar knows its end
			counted := t.again()
			counted.after = t.after
			total.Store(counted.count(counting))
		}
	}()
	start := time.Now()
	shown := startProgress(p.stderr, p.terminal, func() string {
		done, all := t.bytes.Load(), total.Load()
		line := fmt.Sprintf("%s: %s, %.1f MB, %.1f MB/s", what, count(t.files.Load(), "file", "files"), megabytes(done),
			perSecond(megabytes(done), time.Since(start)))
		if all > 0 {
			line = bar(done, all) + " " + line
		}
		return line
	})
	err := work(ctx)
	took := time.Since(start)
	shown.Close()
	stop()
	<-counted
	return took, err
}

// count adds up the bytes of all usable files; 0 if it was interrupted.
func (t *tree) count(ctx context.Context) int64 {
	total := int64(0)
	for f, err := range t.usable(t.walk(ctx)) {
		if err != nil {
			return 0
		}
		total += f.size
	}
	return total
}
