package main

import (
	"bufio"
	"context"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/sharding"
)

const keysHelp = `List the keys of a bucket, one a line, in the order of their hashes, which looks
random but stays the same. A key with control characters, or that begins with
'"', is printed as a JSON string, so that a line is a key whatever it holds;
'manykv get-many BUCKET -' and 'delete-many' read such lines:

  manykv keys files | manykv get-many files -
  manykv keys files --limit 100              the first 100, and where to go on
  manykv keys files --cursor 123 --limit 100

The listing is no snapshot: a key that is set or deleted meanwhile may or may
not be in it; every other key is in it once. Keys are printed as they come, in
pages of at most 1,000. When a page fails, after a few attempts, or the command
is interrupted, the cursor of the next page is printed on standard error; so it
is when --limit ends the listing. A cursor is a number from 0, the beginning, to
18446744073709551615, and is good for this bucket only.` + exitsHelp

// keysOptions are the flags of keys.
type keysOptions struct {
	cursor uint64
	limit  uint64
	json   bool
}

func (p *program) keysCommand() *cobra.Command {
	var o keysOptions
	cmd := &cobra.Command{
		Use:   "keys BUCKET",
		Short: "List the keys of a bucket, one a line",
		Long:  keysHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				_, id := b.ID()
				return p.listKeys(cmd.Context(), b, func(key string) uint64 { return sharding.HashString(id, key) }, &o)
			})
		},
	}
	cmd.Flags().Uint64Var(&o.cursor, "cursor", 0, "where to begin: a cursor that an earlier listing printed")
	cmd.Flags().Uint64Var(&o.limit, "limit", 0, "stop after so many keys; 0: never")
	cmd.Flags().BoolVar(&o.json, "json", false, "print every key as a JSON string")
	return p.calls(cmd)
}

// lister is a bucket whose keys can be listed.
type lister interface {
	ListKeys(ctx context.Context, cursor uint64) (keys []string, next uint64, err error)
}

// page is one answer of a listing, or, with an error, the place where one is
// missing.
type page struct {
	keys   []string
	cursor uint64 // where it begins
	next   uint64 // where the next does; 0: it is the last
}

// pages lists a bucket from a cursor on. It ends with the first error.
func (p *program) pages(ctx context.Context, from lister, cursor uint64) iter.Seq2[page, error] {
	return func(yield func(page, error) bool) {
		for {
			pg := page{cursor: cursor}
			err := insist(ctx, p.conn.timeout, func(ctx context.Context) (err error) {
				pg.keys, pg.next, err = from.ListKeys(ctx, cursor)
				return err
			})
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if !yield(pg, err) || err != nil || pg.next == 0 {
				return
			}
			cursor = pg.next
		}
	}
}

// cut returns the first n keys of a page, and others of the last one's hash: a
// listing goes on with a hash.
func (pg page) cut(n uint64, hash func(key string) uint64) page {
	if uint64(len(pg.keys)) <= n {
		return pg
	}
	for n > 0 && n < uint64(len(pg.keys)) && hash(pg.keys[n]) == hash(pg.keys[n-1]) {
		n++
	}
	if n < uint64(len(pg.keys)) {
		pg.next = hash(pg.keys[n])
		pg.keys = pg.keys[:n]
	}
	return pg
}

// listKeys prints each page as soon as it is there.
func (p *program) listKeys(ctx context.Context, from lister, hash func(key string) uint64, o *keysOptions) error {
	line := keyLine
	if o.json {
		line = jsonString
	}
	buffered := bufio.NewWriter(p.stdout)
	out := &printer{w: buffered}
	left := o.limit
	for pg, err := range p.pages(ctx, from, o.cursor) {
		if err != nil {
			return hinted{err, fmt.Sprintf("--cursor %d goes on", pg.cursor)}
		}
		if o.limit > 0 {
			pg = pg.cut(left, hash)
		}
		for _, key := range pg.keys {
			text, err := line(key)
			if err != nil {
				return err
			}
			out.printf("%s\n", text)
		}
		if err := buffered.Flush(); err != nil {
			return hinted{err, fmt.Sprintf("--cursor %d goes on, with keys that may have been printed", pg.cursor)}
		}
		left -= min(left, uint64(len(pg.keys)))
		if o.limit > 0 && left == 0 && pg.next != 0 {
			p.stderr.printf("--cursor %d goes on\n", pg.next)
			return nil
		}
	}
	return nil
}
