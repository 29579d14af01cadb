package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

const exportHelp = `Write all pairs of a bucket as lines of JSON, to FILE or to standard output:

  {"key":"k","value":"text"}            a value that is UTF-8
  {"key":"k","value_base64":"AP8="}     one that is not

'manykv import BUCKET FILE' and 'manykv set-many BUCKET' read such lines. They are
in the order of the keys' hashes.

It is not a snapshot: a key that is written or deleted while the export runs may
be in it with its old or its new value, or not be in it; every other key is in it
once.

FILE is written as FILE.part, which gets its name when it is complete and on disk;
a FILE that is there already is not overwritten. An export that failed, or was
interrupted or killed, leaves FILE.part, and

  manykv export files files.ndjson --resume

goes on with it. It first reads FILE.part, which must hold pairs of this bucket, in
their order: one of another bucket, also one that was deleted and made again under
the name, is refused. What may be missing its end is cut off and written again. A
part of less than 100 pairs is begun anew, and so is any without --resume.

On standard output, an export that fails, after a few attempts, says the cursor
from which --cursor goes on; what was printed before has to be kept elsewhere.` + exitsHelp

// exportOptions are the flags of export.
type exportOptions struct {
	cursor uint64 // to standard output
	resume bool   // of a file
	json   bool
}

// check says which flags do not fit to a file, or to standard output.
func (o *exportOptions) check(file, cursor bool) error {
	switch {
	case o.json && !file:
		return usagef("--json needs a FILE: without one the pairs are on standard output")
	case o.resume && !file:
		return usagef("--resume needs a FILE: --cursor goes on with standard output")
	case cursor && file:
		return usagef("--cursor is for standard output: --resume goes on with a FILE")
	default:
		return nil
	}
}

func (p *program) exportCommand() *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export BUCKET [FILE]",
		Short: "Write all pairs of a bucket as lines of JSON",
		Long:  exportHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(len(args) > 1, cmd.Flags().Changed("cursor")); err != nil {
				return err
			}
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				if len(args) < 2 {
					return p.exportOut(cmd.Context(), b, &o)
				}
				_, id := b.ID()
				return p.exportFile(cmd.Context(), b, func(key string) uint64 { return sharding.HashString(id, key) }, args[1], &o)
			})
		},
	}
	cmd.Flags().Uint64Var(&o.cursor, "cursor", 0, "where to begin on standard output: a cursor that an earlier export printed")
	cmd.Flags().BoolVar(&o.resume, "resume", false, "go on with the FILE.part of an export that did not end")
	cmd.Flags().BoolVar(&o.json, "json", false, "print the summary as JSON")
	return p.calls(cmd)
}

// source is a bucket to export.
type source interface {
	lister
	getter
}

// export is one in progress.
type export struct {
	p      *program
	from   source
	keys   atomic.Int64
	bytes  atomic.Int64 // of keys and values
	cursor uint64       // all pairs before it are written
}

// exportOut writes the pairs to standard output.
func (p *program) exportOut(ctx context.Context, from source, o *exportOptions) error {
	e := &export{p: p, from: from, cursor: o.cursor}
	f, err := e.run(ctx, p.stdout, !p.screen, func() error { return nil })
	if err != nil {
		return hinted{err, fmt.Sprintf("--cursor %d goes on, with pairs that may have been printed", e.cursor)}
	}
	p.stderr.printf("exported %s\n", f)
	return nil
}

// exportFile writes the pairs to a file, or what is still missing in it. hash is
// the order of the bucket.
func (p *program) exportFile(ctx context.Context, from source, hash func(key string) uint64, name string, o *exportOptions) error {
	e := &export{p: p, from: from}
	var part *partFile
	var err error
	if o.resume {
		part, e.cursor, err = resumePart(name, hash)
	} else {
		part, err = openPart(name, os.O_CREATE|os.O_TRUNC)
	}
	if err != nil {
		return err
	}
	f, err := e.run(ctx, part, true, part.mark)
	if err != nil {
		if keeping := part.keep(); keeping != nil {
			return errors.Join(err, keeping)
		}
		return hinted{err, fmt.Sprintf("%s holds what came before; --resume goes on", part.name())}
	}
	if err := part.complete(); err != nil {
		return err
	}
	if o.json {
		return p.stdout.json(f)
	}
	p.stdout.printf("exported %s\n", f)
	return nil
}

// run writes pairs to w until the end of the bucket; marked is called after each
// page that is written whole.
func (e *export) run(ctx context.Context, w io.Writer, show bool, marked func() error) (*pairFigures, error) {
	start := time.Now()
	if show {
		shown := startProgress(e.p.stderr, e.p.terminal, func() string { return "export: " + e.figures(start).String() })
		defer shown.Close()
	}
	buffered := bufio.NewWriterSize(w, 1<<16)
	for pg, err := range e.p.pages(ctx, e.from, e.cursor) {
		if err == nil {
			err = e.write(ctx, &printer{w: buffered}, pg.keys)
		}
		if err == nil {
			err = errors.Join(buffered.Flush(), marked())
		}
		if err != nil {
			return nil, err
		}
		e.cursor = pg.next
	}
	return e.figures(start), nil
}

// write prints the pairs of some keys.
func (e *export) write(ctx context.Context, out *printer, keys []string) error {
	for pairs, err := range getRuns(ctx, patient{e.from, e.p.conn.timeout}, keys) {
		if err == nil {
			err = e.print(out, pairs)
		}
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// patient is a bucket that is asked again if that may help.
type patient struct {
	getter
	timeout time.Duration
}

func (b patient) GetMany(ctx context.Context, keys []string) (pairs []*kv.Pair, err error) {
	err = insist(ctx, b.timeout, func(ctx context.Context) error {
		pairs, err = b.getter.GetMany(ctx, keys)
		return err
	})
	return pairs, err
}

// print prints pairs; nil is a key that was deleted since it was listed.
func (e *export) print(out *printer, pairs []*kv.Pair) error {
	for _, pair := range pairs {
		if pair == nil {
			continue
		}
		if err := out.json(recordOf(pair)); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
		e.keys.Add(1)
		e.bytes.Add(pairSize(*pair))
	}
	return nil
}

func (e *export) figures(start time.Time) *pairFigures {
	return newPairFigures(e.keys.Load(), e.bytes.Load(), time.Since(start))
}

// pairFigures are what was done with pairs in a time.
type pairFigures struct {
	Keys       int64   `json:"keys"`
	Bytes      int64   `json:"bytes"` // of keys and values
	Seconds    float64 `json:"seconds"`
	KeysPerSec float64 `json:"keys_per_second"`
	MBPerSec   float64 `json:"mb_per_second"`
}

func newPairFigures(keys, bytes int64, took time.Duration) *pairFigures {
	return &pairFigures{
		Keys: keys, Bytes: bytes, Seconds: took.Seconds(),
		KeysPerSec: perSecond(float64(keys), took), MBPerSec: perSecond(megabytes(bytes), took),
	}
}

func (f *pairFigures) String() string {
	return fmt.Sprintf("%s, %.1f MB in %.2f s: %.0f keys/s, %.1f MB/s",
		count(f.Keys, "key", "keys"), megabytes(f.Bytes), f.Seconds, f.KeysPerSec, f.MBPerSec)
}
