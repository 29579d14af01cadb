//go:build !linux

package raftlog

import "github.com/hashicorp/raft-wal/types"

// syncData makes durable what was written to a file.
func syncData(f types.WritableFile) error { return f.Sync() }
