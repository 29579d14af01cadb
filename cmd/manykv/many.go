package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const getManyHelp = `Print the values of many keys, one line of JSON for each, in the order asked:

  {"key":"k","value":"text"}            a value that is UTF-8
  {"key":"k","value_base64":"AP8="}     one that is not
  null                                  no value

The output always is such lines (NDJSON). The one argument "-" means keys from
standard input, one a line; a line that begins with '"' is a JSON string, as
'manykv keys' prints keys with line breaks. There may be any number of them:
they are asked for in calls of at most 1,000 keys, one after the other, and the
values of each call are printed as they come.` + exitsHelp

func (p *program) getManyCommand() *cobra.Command {
	return p.calls(&cobra.Command{
		Use:   "get-many BUCKET KEY...",
		Short: "Print the values of many keys as lines of JSON",
		Long:  getManyHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				return p.printMany(cmd.Context(), b, p.keys(args[1:]))
			})
		},
	})
}

// printMany prints each batch as soon as it is there.
func (p *program) printMany(ctx context.Context, from getter, keys iter.Seq2[string, error]) error {
	buffered := bufio.NewWriter(p.stdout)
	out := &printer{w: buffered}
	for batch, err := range batches(keys, keySize) {
		if err != nil {
			return err
		}
		for pairs, err := range getRuns(ctx, from, batch) {
			if err != nil {
				return err
			}
			for _, pair := range pairs {
				var line any // null
				if pair != nil {
					line = recordOf(pair)
				}
				if err := out.json(line); err != nil {
					return err
				}
			}
			if err := buffered.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// keys are those of the arguments or, for "-", of standard input.
func (p *program) keys(args []string) iter.Seq2[string, error] {
	if len(args) == 1 && args[0] == "-" {
		return readKeys(p.stdin)
	}
	return each(args)
}

const setManyHelp = `Set many keys, given as KEY=VALUE arguments or as lines of JSON on standard
input:

  {"key":"k","value":"text"}
  {"key":"k","value_base64":"AP8="}

The last occurrence of a key wins. Standard input may be of any length: it is
sent in calls of at most 1,000 keys and 4 MiB, one after the other, until one
fails. A batch is not atomic: a failure says of how many keys it is known that
they were applied, or not applied, or neither, and names the first.` + exitsHelp

func (p *program) setManyCommand() *cobra.Command {
	var create, asJSON bool
	cmd := &cobra.Command{
		Use:   "set-many BUCKET [KEY=VALUE...]",
		Short: "Set many keys, from arguments or lines of JSON",
		Long:  setManyHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			pairs := readPairs(p.stdin)
			if len(args) > 1 {
				given, err := parsePairs(args[1:])
				if err != nil {
					return err
				}
				pairs = each(given)
			}
			return p.withBucket(cmd.Context(), args[0], create, func(_ *client.Client, b *client.Bucket) error {
				t, err := writeAll(cmd.Context(), pairs, pairSize, keyOfPair, b.SetMany)
				return p.reportTally(&t, err, asJSON, (*tally).set)
			})
		},
	}
	cmd.Flags().BoolVar(&create, "create", false, "make the bucket if there is none of that name")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return p.calls(cmd)
}

// parsePairs reads KEY=VALUE arguments. A key with '=' in it needs JSON.
func parsePairs(args []string) ([]kv.Pair, error) {
	pairs := make([]kv.Pair, len(args))
	for i, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, usagef("argument %q, want KEY=VALUE", arg)
		}
		pairs[i] = kv.Pair{Key: key, Value: []byte(value)}
	}
	return pairs, nil
}

func (p *program) deleteManyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "delete-many BUCKET KEY...",
		Short: "Delete many keys; missing ones are skipped",
		Long: `Delete many keys; missing ones are skipped, and how many there were is not
known. The one argument "-" means keys from standard input, one a line; a line
that begins with '"' is a JSON string. There may be any number of them: they
are sent in calls of at most 1,000 keys, one after the other, until one fails.` + exitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				t, err := writeAll(cmd.Context(), p.keys(args[1:]), keySize, itself, b.DeleteMany)
				return p.reportTally(&t, err, asJSON, (*tally).gone)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return p.calls(cmd)
}

// reportTally prints what became of all keys that were sent, all's well in the
// words of done, and passes err on.
func (p *program) reportTally(t *tally, err error, asJSON bool, done func(*tally) string) error {
	if asJSON {
		return errors.Join(err, p.stdout.json(t))
	}
	if err != nil {
		if t.Calls == 0 {
			return err
		}
		t.printConcerned(p.stderr)
		if batch, ok := errors.AsType[*kv.BatchError](err); ok {
			err = batch.Err // its counts are among ours
		}
		return fmt.Errorf("%s in %s: %d applied, %d not applied, %d unknown; input after them was not sent: %w",
			count(t.Applied+t.NotApplied+t.Unknown, "key", "keys"), count(t.Calls, "call", "calls"), t.Applied, t.NotApplied, t.Unknown, err)
	}
	p.stdout.printf("%s\n", done(t))
	return nil
}
