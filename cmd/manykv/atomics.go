package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const incrHelp = `Add DELTA, 1 if it is not given, to the number in a key, and print the sum:

  manykv incr stats visits
  manykv incr stats visits -5

A key without a value counts from 0. A number is -9223372036854775808 to
9223372036854775807 in decimal, as 'manykv set stats visits 7' writes it: another
value, and a sum beyond these, is a failure and changes nothing. A failure whose
outcome is unknown may have added DELTA, once; running the command again adds it
again.` + exitsHelp

func (p *program) incrCommand() *cobra.Command {
	var create bool
	cmd := &cobra.Command{
		Use:   "incr BUCKET KEY [DELTA]",
		Short: "Add to the number in a key, and print the sum",
		Long:  incrHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			delta := int64(1)
			if len(args) > 2 {
				var err error
				if delta, err = strconv.ParseInt(args[2], 10, 64); err != nil {
					return usagef("DELTA %q, want a number of 64 bits, as 5 or -5", args[2])
				}
			}
			return p.withBucket(cmd.Context(), args[0], create, func(_ *client.Client, b *client.Bucket) error {
				sum, err := b.Increment(cmd.Context(), args[1], delta)
				if err != nil {
					return err
				}
				p.stdout.printf("%d\n", sum)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&create, "create", false, "make the bucket if there is none of that name")
	return p.calls(cmd)
}

const casHelp = `Set the value of a key if the key has the version that --version names, or, with
--absent, no value; print the version it has then. VALUE "-" means all bytes of
standard input. Every write of a key gives it another version; this prints the
version with the value:

  manykv get files k --with-version          {"key":"k","value":"old","version":17}
  manykv cas files k new --version 17
  manykv cas files lock me --absent

If the key has another version nothing is changed, standard error says which it
has (0: no value), and the exit code is 3. A failure whose outcome is unknown may
have set the value: 'get --with-version' shows it.

Exit codes: 0 done; 1 failed, also because of a bucket's name, a key or a value
that is not allowed; 2 used wrongly; 3 the key has another version.`

func (p *program) casCommand() *cobra.Command {
	var version uint64
	var absent, create bool
	cmd := &cobra.Command{
		Use:   "cas BUCKET KEY VALUE",
		Short: "Set the value of a key if the key still has a known version",
		Long:  casHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch given := cmd.Flags().Changed("version"); {
			case given == absent:
				return usagef("want either --version or --absent")
			case given && version == 0:
				return usagef("--version 0, want 1 or more; --absent is for a key without a value")
			}
			value, err := p.value(args[2])
			if err != nil {
				return err
			}
			return p.withBucket(cmd.Context(), args[0], create, func(_ *client.Client, b *client.Bucket) error {
				return p.swap(cmd.Context(), b, args[1], version, value)
			})
		},
	}
	cmd.Flags().Uint64Var(&version, "version", 0, "the version that the key must have")
	cmd.Flags().BoolVar(&absent, "absent", false, "the key must have no value")
	cmd.Flags().BoolVar(&create, "create", false, "make the bucket if there is none of that name")
	return p.calls(cmd)
}

// swapper is a bucket whose keys can be swapped.
type swapper interface {
	CompareAndSwap(ctx context.Context, key string, version uint64, value []byte) (uint64, error)
}

// swap prints the key's new version. The error of a conflict says which it has.
func (p *program) swap(ctx context.Context, b swapper, key string, version uint64, value []byte) error {
	now, err := b.CompareAndSwap(ctx, key, version, value)
	if errors.Is(err, kv.ErrConflict) {
		if batch, ok := errors.AsType[*kv.BatchError](err); ok {
			err = batch.Err // of one key there is nothing to count
		}
		return conflict{err}
	}
	if err != nil {
		return err
	}
	p.stdout.printf("%d\n", now)
	return nil
}

// conflict is a failure with an exit code of its own.
type conflict struct{ error }

func (c conflict) Unwrap() error { return c.error }
