package cluster

import (
	"bytes"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger gives raft a logger that writes its warnings and errors to ours.
func raftLogger(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level:       hclog.Warn,
		DisableTime: true,
		Output:      lineLogger{l},
	})
}

// lineLogger turns lines like "[WARN]  text" into records: it is what hclog and
// memberlist's log package write to. Both repeat themselves for every shard and
// every try while a peer is away, which the node itself says once, so all of it
// is for debugging.
type lineLogger struct{ l *slog.Logger }

func (w lineLogger) Write(line []byte) (int, error) {
	w.l.Debug(string(bytes.TrimSpace(line)))
	return len(line), nil
}
