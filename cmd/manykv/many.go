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

The one argument "-" means keys from standard input, one a line.`

func (p *program) getManyCommand() *cobra.Command {
	return p.connects(&cobra.Command{
		Use:   "get-many BUCKET KEY...",
		Short: "Print the values of many keys as lines of JSON",
		Long:  getManyHelp,
		Args:  cobra.MinimumNArgs(2),
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
		pairs, err := getAll(ctx, from, batch)
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
they were applied, or not applied, or neither, and names the first.`

func (p *program) setManyCommand() *cobra.Command {
	var create, asJSON bool
	cmd := &cobra.Command{
		Use:   "set-many BUCKET [KEY=VALUE...]",
		Short: "Set many keys, from arguments or lines of JSON",
		Long:  setManyHelp,
		Args:  cobra.MinimumNArgs(1),
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
				return p.reportTally("set", &t, err, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&create, "create", false, "make the bucket if there is none of that name")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return p.connects(cmd)
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
		Long: `Delete many keys; missing ones are skipped. The one argument "-" means keys
from standard input, one a line, sent in calls of at most 1,000 keys.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				t, err := writeAll(cmd.Context(), p.keys(args[1:]), keySize, itself, b.DeleteMany)
				return p.reportTally("deleted", &t, err, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return p.connects(cmd)
}

// reportTally prints what became of all keys that were sent, and passes err on.
func (p *program) reportTally(done string, t *tally, err error, asJSON bool) error {
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
		return fmt.Errorf("%d keys in %d calls: %d applied, %d not applied, %d unknown; input after them was not sent: %w",
			t.Applied+t.NotApplied+t.Unknown, t.Calls, t.Applied, t.NotApplied, t.Unknown, err)
	}
	p.stdout.printf("%s %d keys in %d calls\n", done, t.Applied, t.Calls)
	return nil
}
