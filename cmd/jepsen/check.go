//go:build linux

package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/jepsen"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check DIR",
		Short: "Judge the history of a run again",
		Long: `Judge the history of the task registers in a run's folder again: whether each key's
operations are linearizable, and each value had one version.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			operations, err := jepsen.ReadHistory(filepath.Join(args[0], jepsen.HistoryFile))
			if err != nil {
				return err
			}
			v := jepsen.CheckHistory(operations)
			if err := errors.Join(v.Err(), jepsen.Versions(operations)); err != nil {
				fmt.Println("FAIL:", err)
				return errVerdict
			}
			fmt.Printf("PASS: %d operations on %d keys are linearizable, checked in %v\n", v.Operations, v.Keys, v.Took)
			return nil
		},
	}
}
