package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/kv"
)

func (p *program) bucketCommand() *cobra.Command {
	return group("bucket", "Make and list buckets", p.bucketCreateCommand(), p.bucketListCommand())
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
