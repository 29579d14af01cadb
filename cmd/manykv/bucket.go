package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/kv"
)

func (p *program) bucketCommand() *cobra.Command {
	return group("bucket", "Make, list and delete buckets", p.bucketCreateCommand(), p.bucketDeleteCommand(), p.bucketListCommand())
}

func (p *program) bucketCreateCommand() *cobra.Command {
	var ifMissing bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a bucket",
		Long: `Make a bucket: a namespace of keys. Its name is 1 to 255 bytes of UTF-8
without control characters and ':'.` + exitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := p.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			err = c.CreateBucket(cmd.Context(), args[0])
			if err == nil || ifMissing && errors.Is(err, kv.ErrExists) {
				return nil
			}
			err = fmt.Errorf("create bucket %q: %w", args[0], err)
			if errors.Is(err, kv.ErrExists) {
				return hinted{err, "--if-missing succeeds then, too"}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&ifMissing, "if-missing", false, "succeed if there is one of that name already")
	return p.calls(cmd)
}

func (p *program) bucketListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all buckets, one name a line",
		Long:  "List all buckets, one name a line, sorted." + exitsHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := p.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			names, err := c.ListBuckets(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return p.stdout.json(append([]string{}, names...)) // [] rather than null
			}
			for _, name := range names {
				p.stdout.printf("%s\n", name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array")
	return p.calls(cmd)
}

func (p *program) bucketDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a bucket and all keys in it",
		Long: `Delete a bucket and all keys in it. There is no way back. Unless --yes is given,
a terminal is asked for the bucket's name; without a terminal --yes is needed.

The name is free at once; the keys are removed from the shards in the background,
and take space until then. A bucket made later under this name is another one:
clients that have the deleted one open fail, with "no such store", until they
open it again.` + exitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			name := args[0]
			if !yes {
				if err := p.confirm(cmd.Context(), fmt.Sprintf("This deletes bucket %q and all keys in it.", name), name); err != nil {
					return err
				}
			}
			c, err := p.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			err = c.DeleteBucket(cmd.Context(), name)
			if errors.Is(err, kv.ErrNoSuchStore) {
				return hinted{err, "'manykv bucket list' lists the buckets"}
			}
			if err != nil {
				return fmt.Errorf("delete bucket %q: %w", name, err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return p.calls(cmd)
}
