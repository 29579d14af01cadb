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
	var versioned bool
	cmd := &cobra.Command{
		Use:   "get BUCKET KEY",
		Short: "Print the value of a key: its bytes and nothing else",
		Long: `Print the value of a key: its bytes and nothing else. No value is a failure.

--with-version prints a line of JSON instead, with the version of the value, as
'manykv cas' wants it:

  {"key":"k","value":"text","version":17}
  {"key":"k","value_base64":"AP8=","version":17}` + exitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withBucket(cmd.Context(), args[0], false, func(_ *client.Client, b *client.Bucket) error {
				value, version, found, err := b.GetVersion(cmd.Context(), args[1])
				switch {
				case err != nil:
					return err
				case !found:
					return fmt.Errorf("key %q of bucket %q: %w", args[1], args[0], errNotFound)
				case versioned:
					return p.stdout.json(versionedRecord{recordOf(&kv.Pair{Key: args[1], Value: value}), version})
				}
				_, err = p.stdout.Write(value)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&versioned, "with-version", false, "print the value and its version as JSON")
	return p.calls(cmd)
}

// versionedRecord is a record with the version of its value.
type versionedRecord struct {
	record
	Version uint64 `json:"version"`
}

func (p *program) setCommand() *cobra.Command {
	var create bool
	cmd := &cobra.Command{
		Use:   "set BUCKET KEY VALUE",
		Short: "Set the value of a key",
		Long:  `Set the value of a key. VALUE "-" means all bytes of standard input.` + exitsHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := p.value(args[2])
			if err != nil {
				return err
			}
			return p.withBucket(cmd.Context(), args[0], create, func(_ *client.Client, b *client.Bucket) error {
				return b.Set(cmd.Context(), args[1], value)
			})
		},
	}
	cmd.Flags().BoolVar(&create, "create", false, "make the bucket if there is none of that name")
	return p.calls(cmd)
}

// value is the bytes of an argument or, for "-", of standard input.
func (p *program) value(arg string) ([]byte, error) {
	if arg == "-" {
		return p.readValue()
	}
	return []byte(arg), nil
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
