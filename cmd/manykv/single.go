package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// errNotFound is a key without a value.
var errNotFound = errors.New("not found")

func (p *program) getCommand() *cobra.Command {
	return p.calls(&cobra.Command{
		Use:   "get BUCKET KEY",
		Short: "Print the value of a key: its bytes and nothing else",
		Long:  "Print the value of a key: its bytes and nothing else. No value is a failure." + exitsHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				value, found, err := b.Get(cmd.Context(), args[1])
				if err != nil {
					return err
				}
				if !found {
					return fmt.Errorf("key %q of bucket %q: %w", args[1], args[0], errNotFound)
				}
				_, err = p.stdout.Write(value)
				return err
			})
		},
	})
}

func (p *program) setCommand() *cobra.Command {
	var create bool
	cmd := &cobra.Command{
		Use:   "set BUCKET KEY VALUE",
		Short: "Set the value of a key",
		Long:  `Set the value of a key. VALUE "-" means all bytes of standard input.` + exitsHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			value := []byte(args[2])
			if args[2] == "-" {
				var err error
				if value, err = p.readValue(); err != nil {
					return err
				}
			}
			return p.withBucket(cmd.Context(), args[0], create, func(_ *client.Client, b *client.Bucket) error {
				return b.Set(cmd.Context(), args[1], value)
			})
		},
	}
	cmd.Flags().BoolVar(&create, "create", false, "make the bucket if there is none of that name")
	return p.calls(cmd)
}

// readValue reads a value from standard input, but not without end.
func (p *program) readValue() ([]byte, error) {
	most := kv.Limits{}.WithDefaults().ValueBytes
	value, err := io.ReadAll(io.LimitReader(p.stdin, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("read the value from standard input: %w", err)
	}
	if len(value) > most {
		return nil, fmt.Errorf("%w: the value on standard input has more than %d bytes", kv.ErrTooLarge, most)
	}
	return value, nil
}

func (p *program) deleteCommand() *cobra.Command {
	return p.calls(&cobra.Command{
		Use:   "delete BUCKET KEY",
		Short: "Delete a key; a missing one is no error",
		Long:  "Delete a key; a missing one is no error." + exitsHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				return b.Delete(cmd.Context(), args[1])
			})
		},
	})
}

func (p *program) existsCommand() *cobra.Command {
	return p.calls(&cobra.Command{
		Use:   "exists BUCKET KEY",
		Short: "Say whether a key has a value: true and exit code 0, or false and 1",
		Long:  "Say whether a key has a value: print true or false." + exitsHelp + " The answer false is 1, too.",
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				there, err := b.Exists(cmd.Context(), args[1])
				if err != nil {
					return err
				}
				p.stdout.printf("%t\n", there)
				if !there {
					return errFalse
				}
				return nil
			})
		},
	})
}
