package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// DefaultPort is the UDP port a node listens on when nothing else is said.
const DefaultPort = "7400"

// Config says what a node is. The zero value of a field is its documented
// default.
type Config struct {
	// Name is the node's name, the one its certificate carries. Default: the
	// certificate's.
	Name string
	// DataDir holds everything the node keeps. Required.
	DataDir string
	// Listen is the UDP address, "host:port"; default "0.0.0.0:7400".
	Listen string
	// Advertise is the address at which others reach the node, "host:port",
	// DNS names allowed; default Listen, if that names a host.
	Advertise string
	// CAFile, CertFile and KeyFile are PEM files; GossipKeyFile holds the
	// cluster's gossip key in hex. `manykv cert` makes them. Required.
	CAFile, CertFile, KeyFile, GossipKeyFile string
	// Join are addresses of other nodes; the node's own may be among them.
	Join []string
	// BootstrapExpect is the number of empty nodes that found a cluster
	// together; 0: never found one.
	BootstrapExpect int
	// Shards of a new cluster; 0: sharding.ShardsPerNode for each node.
	Shards int
	// Replicas of each shard of a new cluster; 0: sharding.ReplicasPerShard.
	Replicas int
	// LogStore is what backs the log: "wal" (default) or "boltdb".
	LogStore string
	// JournalBytes is the size of the log of all shards at which the node takes
	// snapshots and cuts it; 0: 512 MiB, at least 8 MiB.
	JournalBytes int64
	// CacheBytes is how much of the tables on disk is kept in memory; 0: 64 MiB, at
	// least 1 MiB.
	CacheBytes int64
	// ValueCacheBytes is how much of the values that are read is kept besides, ready to be
	// sent; 0: 32 MiB, at least 1 MiB.
	ValueCacheBytes int64
	// WriteBufferBytes is how much of what was written is kept together before it goes to
	// the tables on disk, all shards' together; 0: 48 MiB, at least 1 MiB.
	WriteBufferBytes int64
	// RequestBytes bounds, each for itself, the bytes of requests being received
	// or served, of writes under way and of answers being made; what does not fit
	// is refused as busy. 0: 128 MiB.
	RequestBytes int64
	// Limits bound each request; see kv.Limits for the defaults.
	Limits kv.Limits
	// SlowCall is how long a request for parts of a batch takes that is logged, with
	// where its time went; 0: 1 s, below 0: none is.
	SlowCall time.Duration
	// Tracer starts spans for what the node serves and coordinates; nil: none are.
	Tracer trace.Tracer
	// Logger hears what the node does; default: nothing is logged.
	Logger *slog.Logger
	// Version is shown in the status.
	Version string
}

// Defaults and minimums.
const (
	// DefaultJournalBytes is some seconds of the heaviest load, and what a start
	// reads at most, in a few seconds.
	DefaultJournalBytes = 512 << 20
	// MinJournalBytes is little, and good for tests: a shard that is written to
	// takes a snapshot every few seconds.
	MinJournalBytes = 8 << 20
	// DefaultRequestBytes is four of the largest batches at once, or thousands of
	// ordinary ones.
	DefaultRequestBytes = 128 << 20
	// DefaultSlowCall is far more than any call takes while nothing is wrong, and
	// less than an election.
	DefaultSlowCall = time.Second
	// The defaults of caches and buffer suit a node of 512 MiB.
	DefaultCacheBytes       = fsm.DefaultCacheBytes
	DefaultValueCacheBytes  = fsm.DefaultValueCacheBytes
	DefaultWriteBufferBytes = fsm.DefaultWriteBufferBytes
	// MinCacheBytes of each: less holds a few blocks, or values, and no more.
	MinCacheBytes = 1 << 20
	// MinRequestBytes still lets the smaller requests through.
	MinRequestBytes = 1 << 20
)

func (c Config) withDefaults() (Config, error) {
	if c.Listen == "" {
		c.Listen = net.JoinHostPort("0.0.0.0", DefaultPort)
	}
	if c.Replicas == 0 {
		c.Replicas = sharding.ReplicasPerShard
	}
	if c.LogStore == "" {
		c.LogStore = "wal"
	}
	if c.JournalBytes == 0 {
		c.JournalBytes = DefaultJournalBytes
	}
	if c.RequestBytes == 0 {
		c.RequestBytes = DefaultRequestBytes
	}
	if c.SlowCall == 0 {
		c.SlowCall = DefaultSlowCall
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.WithDefaults()
	return c, errors.Join(c.Limits.Validate(), c.validate())
}

func (c Config) validate() error {
	if c.DataDir == "" {
		return errors.New("no data directory given")
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q: %w; want host:port", c.Listen, err)
	}
	if c.Advertise == "" && (host == "" || net.ParseIP(host).IsUnspecified()) {
		return fmt.Errorf("listen address %q names no host that others could use: an advertise address (host:port) is needed", c.Listen)
	}
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return fmt.Errorf("advertise address %q: %w; want host:port", c.Advertise, err)
		}
	}
	for _, addr := range c.Join {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("address to join %q: %w; want host:port", addr, err)
		}
	}
	if c.BootstrapExpect < 0 || c.BootstrapExpect > sharding.MaxNodes {
		return fmt.Errorf("bootstrap-expect is %d, want 0 to %d", c.BootstrapExpect, sharding.MaxNodes)
	}
	if c.BootstrapExpect > 1 && len(c.Join) == 0 {
		return fmt.Errorf("bootstrap-expect is %d but there is no address to join: the nodes must be able to find each other", c.BootstrapExpect)
	}
	if c.Shards < 0 || c.Shards > sharding.MaxShards {
		return fmt.Errorf("shards is %d, want 0 (default) to %d", c.Shards, sharding.MaxShards)
	}
	if c.JournalBytes < MinJournalBytes {
		return fmt.Errorf("journal bytes is %d, want at least %d", c.JournalBytes, MinJournalBytes)
	}
	if c.RequestBytes < MinRequestBytes {
		return fmt.Errorf("request bytes is %d, want at least %d", c.RequestBytes, MinRequestBytes)
	}
	for _, bytes := range []int64{c.CacheBytes, c.ValueCacheBytes, c.WriteBufferBytes} {
		if bytes != 0 && bytes < MinCacheBytes {
			return fmt.Errorf("a cache or buffer of %d bytes, want 0 (default) or at least %d", bytes, MinCacheBytes)
		}
	}
	if c.LogStore != "wal" && c.LogStore != "boltdb" {
		return fmt.Errorf("log store %q, want wal or boltdb", c.LogStore)
	}
	return nil
}
