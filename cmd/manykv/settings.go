package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// serverConfig is a node's configuration, as its TOML file spells it.
type serverConfig struct {
	Name             string   `toml:"name,omitempty"`
	DataDir          string   `toml:"data_dir,omitempty"`
	Listen           string   `toml:"listen,omitempty"`
	Advertise        string   `toml:"advertise,omitempty"`
	CAFile           string   `toml:"ca_file,omitempty"`
	CertFile         string   `toml:"cert_file,omitempty"`
	KeyFile          string   `toml:"key_file,omitempty"`
	GossipKeyFile    string   `toml:"gossip_key_file,omitempty"`
	Join             []string `toml:"join,omitempty"`
	BootstrapExpect  int      `toml:"bootstrap_expect,omitempty"`
	Shards           int      `toml:"shards,omitempty"`
	Replicas         int      `toml:"replicas,omitempty"`
	LogStore         string   `toml:"log_store,omitempty"`
	LogLevel         string   `toml:"log_level,omitempty"`
	JournalBytes     int64    `toml:"journal_bytes,omitempty"`
	CacheBytes       int64    `toml:"cache_bytes,omitempty"`
	ValueCacheBytes  int64    `toml:"value_cache_bytes,omitempty"`
	WriteBufferBytes int64    `toml:"write_buffer_bytes,omitempty"`
	RequestBytes     int64    `toml:"request_bytes,omitempty"`
	HTTP             string   `toml:"http,omitempty"`
	PProf            bool     `toml:"pprof,omitempty"`
	SlowCall         string   `toml:"slow_call,omitempty"`
	OTLP             string   `toml:"otlp,omitempty"`
	MaxKeyBytes      int      `toml:"max_key_bytes,omitempty"`
	MaxValueBytes    int      `toml:"max_value_bytes,omitempty"`
	MaxBatchKeys     int      `toml:"max_batch_keys,omitempty"`
	MaxBatchBytes    int      `toml:"max_batch_bytes,omitempty"`
}

// setting is one of them: data_dir in a file, --data-dir as a flag and
// MANYKV_DATA_DIR in the environment.
type setting struct {
	name     string
	field    func(*serverConfig) any // *string, *bool, *int, *int64 or *[]string
	required bool
	path     bool // a relative one in a file starts at the file's folder
	help     string
}

// settings is the one table of them.
var settings = []setting{
	{name: "name", field: func(c *serverConfig) any { return &c.Name },
		help: "the node's name, which must be the certificate's (default that)"},
	{name: "data_dir", field: func(c *serverConfig) any { return &c.DataDir }, required: true, path: true,
		help: "directory of everything the node keeps; made if there is none"},
	{name: "listen", field: func(c *serverConfig) any { return &c.Listen },
		help: "UDP address to listen on, `host:port` (default 0.0.0.0:" + cluster.DefaultPort + ")"},
	{name: "advertise", field: func(c *serverConfig) any { return &c.Advertise },
		help: "`host:port` at which others reach the node (default listen, if that names a host)"},
	{name: "ca_file", field: func(c *serverConfig) any { return &c.CAFile }, required: true, path: true,
		help: "certificate of the cluster's CA"},
	{name: "cert_file", field: func(c *serverConfig) any { return &c.CertFile }, required: true, path: true,
		help: "the node's certificate"},
	{name: "key_file", field: func(c *serverConfig) any { return &c.KeyFile }, required: true, path: true,
		help: "the key of the node's certificate"},
	{name: "gossip_key_file", field: func(c *serverConfig) any { return &c.GossipKeyFile }, required: true, path: true,
		help: "the cluster's gossip key"},
	{name: "join", field: func(c *serverConfig) any { return &c.Join },
		help: "`host:port` of other nodes, comma separated; the node's own may be among them"},
	{name: "bootstrap_expect", field: func(c *serverConfig) any { return &c.BootstrapExpect },
		help: "number of empty nodes that found a cluster together; 0: never found one"},
	{name: "shards", field: func(c *serverConfig) any { return &c.Shards },
		help: "shards of a new cluster; 0: two for each node"},
	{name: "replicas", field: func(c *serverConfig) any { return &c.Replicas },
		help: "replicas of each shard of a new cluster; 0: three"},
	{name: "log_store", field: func(c *serverConfig) any { return &c.LogStore },
		help: "what keeps the log: wal (default) or boltdb"},
	{name: "log_level", field: func(c *serverConfig) any { return &c.LogLevel },
		help: "debug, info (default), warn or error"},
	{name: "journal_bytes", field: func(c *serverConfig) any { return &c.JournalBytes },
		help: fmt.Sprintf("size of the log of all shards at which the node takes snapshots and cuts it, at least %d; 0: %d", cluster.MinJournalBytes, cluster.DefaultJournalBytes)},
	{name: "cache_bytes", field: func(c *serverConfig) any { return &c.CacheBytes },
		help: fmt.Sprintf("how many bytes of the tables on disk are kept in memory, at least %d; 0: %d", cluster.MinCacheBytes, cluster.DefaultCacheBytes)},
	{name: "value_cache_bytes", field: func(c *serverConfig) any { return &c.ValueCacheBytes },
		help: fmt.Sprintf("how many bytes of values that are read are kept besides, ready to be sent, at least %d; 0: %d", cluster.MinCacheBytes, cluster.DefaultValueCacheBytes)},
	{name: "write_buffer_bytes", field: func(c *serverConfig) any { return &c.WriteBufferBytes },
		help: fmt.Sprintf("how many bytes of what was written are kept together before they go to the tables on disk, at least %d; 0: %d", cluster.MinCacheBytes, cluster.DefaultWriteBufferBytes)},
	{name: "request_bytes", field: func(c *serverConfig) any { return &c.RequestBytes },
		help: fmt.Sprintf("most bytes of requests being received or served, and as many of writes under way and of answers being made; what is more is refused as busy; at least %d; 0: %d", cluster.MinRequestBytes, cluster.DefaultRequestBytes)},
	{name: "http", field: func(c *serverConfig) any { return &c.HTTP },
		help: "TCP address of /metrics, /healthz and /readyz, `host:port` (default: they are not served); whoever reaches it may read them"},
	{name: "pprof", field: func(c *serverConfig) any { return &c.PProf },
		help: "serve Go's profiles there too, under /debug/pprof/"},
	{name: "slow_call", field: func(c *serverConfig) any { return &c.SlowCall },
		help: fmt.Sprintf("how long a request takes that is logged, with where its time went, as 250ms; off: none is (default %v)", cluster.DefaultSlowCall)},
	{name: "otlp", field: func(c *serverConfig) any { return &c.OTLP },
		help: "`URL` of an OpenTelemetry collector that gets spans by OTLP over HTTP, as http://127.0.0.1:4318 (default: no spans are made)"},
	{name: "max_key_bytes", field: func(c *serverConfig) any { return &c.MaxKeyBytes },
		help: fmt.Sprintf("longest key; 0: %d", kv.Limits{}.WithDefaults().KeyBytes)},
	{name: "max_value_bytes", field: func(c *serverConfig) any { return &c.MaxValueBytes },
		help: fmt.Sprintf("longest value; 0: the most there can be, %d", kv.MaxValueBytes)},
	{name: "max_batch_keys", field: func(c *serverConfig) any { return &c.MaxBatchKeys },
		help: fmt.Sprintf("most keys in a batch; 0: %d", kv.Limits{}.WithDefaults().BatchKeys)},
	{name: "max_batch_bytes", field: func(c *serverConfig) any { return &c.MaxBatchBytes },
		help: fmt.Sprintf("most bytes of keys and values in a batch; 0: %d", kv.Limits{}.WithDefaults().BatchBytes)},
}

func (s *setting) flag() string     { return strings.ReplaceAll(s.name, "_", "-") }
func (s *setting) variable() string { return "MANYKV_" + strings.ToUpper(s.name) }

// addSettings makes a flag of every setting.
func addSettings(flags *pflag.FlagSet, into *serverConfig) {
	for _, s := range settings {
		switch field := s.field(into).(type) {
		case *string:
			flags.StringVar(field, s.flag(), "", s.help)
		case *bool:
			flags.BoolVar(field, s.flag(), false, s.help)
		case *int:
			flags.IntVar(field, s.flag(), 0, s.help)
		case *int64:
			flags.Int64Var(field, s.flag(), 0, s.help)
		case *[]string:
			flags.StringSliceVar(field, s.flag(), nil, s.help)
		}
	}
}

// mergeSettings returns what flags, environment and file say, in this order of
// precedence. file may be empty.
func mergeSettings(flags *pflag.FlagSet, flagged *serverConfig, lookupEnv func(string) (string, bool), file string) (serverConfig, error) {
	var cfg serverConfig
	if file != "" {
		var err error
		if cfg, err = loadServerConfig(file); err != nil {
			return cfg, err
		}
	}
	for _, s := range settings {
		if flags.Changed(s.flag()) {
			assign(s.field(&cfg), s.field(flagged))
			continue
		}
		if text, ok := lookupEnv(s.variable()); ok {
			if err := parseInto(s.field(&cfg), text); err != nil {
				return cfg, usagef("%s=%q: %w", s.variable(), text, err)
			}
		}
	}
	if err := cfg.complete(); err != nil {
		return cfg, err
	}
	return cfg, cfg.check()
}

// complete says which of the required settings are missing.
func (c *serverConfig) complete() error {
	var missing []string
	for _, s := range settings {
		if s.required && *s.field(c).(*string) == "" {
			missing = append(missing, s.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	first := setting{name: missing[0]}
	makers := ""
	if slices.ContainsFunc(missing, func(name string) bool { return strings.HasSuffix(name, "_file") }) {
		makers = "; " + filesHint
	}
	return usagef("missing: %s; give each as a flag (--%s), in the environment (%s) or in the --config file (%s)%s",
		strings.Join(missing, ", "), first.flag(), first.variable(), first.name, makers)
}

// filesHint says where the files come from.
const filesHint = "'manykv cert ca' makes a cluster's CA and gossip key, 'manykv cert node' a node's certificate and key"

// check says which setting cannot have its value, before anything is opened.
func (c *serverConfig) check() error {
	for _, n := range []struct {
		name      string
		got, most int
	}{
		{"bootstrap_expect", c.BootstrapExpect, sharding.MaxNodes},
		{"shards", c.Shards, sharding.MaxShards},
		{"replicas", c.Replicas, sharding.MaxNodes},
	} {
		if n.got < 0 || n.got > n.most {
			return usagef("%s %d, want 0 to %d", n.name, n.got, n.most)
		}
	}
	for _, n := range []struct {
		name       string
		got, least int64
	}{
		{"journal_bytes", c.JournalBytes, cluster.MinJournalBytes},
		{"cache_bytes", c.CacheBytes, cluster.MinCacheBytes},
		{"value_cache_bytes", c.ValueCacheBytes, cluster.MinCacheBytes},
		{"write_buffer_bytes", c.WriteBufferBytes, cluster.MinCacheBytes},
		{"request_bytes", c.RequestBytes, cluster.MinRequestBytes},
	} {
		if n.got != 0 && n.got < n.least {
			return usagef("%s %d, want 0 or at least %d", n.name, n.got, n.least)
		}
	}
	if c.LogStore != "" && c.LogStore != "wal" && c.LogStore != "boltdb" {
		return usagef("log_store %q, want wal or boltdb", c.LogStore)
	}
	if _, err := c.level(); err != nil {
		return err
	}
	if _, err := c.slowCall(); err != nil {
		return err
	}
	if err := c.checkLimits(); err != nil {
		return err
	}
	return c.checkAddrs()
}

// slowCall is as cluster.Config has it: 0 is the default, below 0 is off.
func (c *serverConfig) slowCall() (time.Duration, error) {
	switch c.SlowCall {
	case "":
		return 0, nil
	case "off":
		return -1, nil
	}
	d, err := time.ParseDuration(c.SlowCall)
	if err != nil || d <= 0 {
		return 0, usagef("slow_call %q, want a time more than 0, like 250ms, or off", c.SlowCall)
	}
	return d, nil
}

func (c *serverConfig) checkAddrs() error {
	host := "" // that others could use
	if c.Listen != "" {
		var err error
		if host, _, err = splitAddr(c.Listen); err != nil {
			return usagef("listen %q, want host:port: %w", c.Listen, err)
		}
	}
	switch {
	case c.Advertise != "":
		if err := checkAddr(c.Advertise); err != nil {
			return usagef("advertise %w", err)
		}
	case host == "" || net.ParseIP(host).IsUnspecified():
		return usagef("missing: advertise (host:port); listen names no host that others could use")
	}
	for _, addr := range c.Join {
		if err := checkAddr(addr); err != nil {
			return usagef("join %w", err)
		}
	}
	if c.HTTP != "" {
		if _, _, err := splitAddr(c.HTTP); err != nil {
			return usagef("http %q, want host:port: %w", c.HTTP, err)
		}
	}
	if c.OTLP != "" {
		if u, err := url.Parse(c.OTLP); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return usagef("otlp %q, want a URL like http://127.0.0.1:4318", c.OTLP)
		}
	}
	if c.PProf && c.HTTP == "" {
		return usagef("pprof without http: there is no address to serve it on")
	}
	if c.BootstrapExpect > 1 && len(c.Join) == 0 {
		return usagef("bootstrap_expect %d, but join is missing: the nodes must be able to find each other", c.BootstrapExpect)
	}
	return nil
}

// checkLimits adds one limit after the other, to name the one that is wrong.
func (c *serverConfig) checkLimits() error {
	var l kv.Limits
	for _, limit := range []struct {
		name string
		got  int
		into *int
	}{
		{"max_key_bytes", c.MaxKeyBytes, &l.KeyBytes},
		{"max_value_bytes", c.MaxValueBytes, &l.ValueBytes},
		{"max_batch_keys", c.MaxBatchKeys, &l.BatchKeys},
		{"max_batch_bytes", c.MaxBatchBytes, &l.BatchBytes},
	} {
		*limit.into = limit.got
		if err := l.WithDefaults().Validate(); err != nil {
			return usagef("%s %d: %w", limit.name, limit.got, err)
		}
	}
	return nil
}

// level is info if nothing else is said.
func (c *serverConfig) level() (level slog.Level, err error) {
	if c.LogLevel != "" && level.UnmarshalText([]byte(c.LogLevel)) != nil {
		return 0, usagef("log_level %q, want debug, info, warn or error", c.LogLevel)
	}
	return level, nil
}

// checkFiles says which of the files is not there, and what makes it.
func (c *serverConfig) checkFiles() error {
	for _, f := range []struct{ name, path string }{
		{"ca_file", c.CAFile}, {"cert_file", c.CertFile}, {"key_file", c.KeyFile}, {"gossip_key_file", c.GossipKeyFile},
	} {
		if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
			return hinted{fmt.Errorf("%s: %w", f.name, err), filesHint}
		}
	}
	return nil
}

// loadServerConfig reads a server's TOML file.
func loadServerConfig(file string) (serverConfig, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return serverConfig{}, fmt.Errorf("server configuration: %w", err)
	}
	cfg, err := parseServerConfig(b)
	if err != nil {
		return serverConfig{}, fmt.Errorf("server configuration %s: %w", file, err)
	}
	for _, s := range settings {
		if !s.path {
			continue
		}
		if path := s.field(&cfg).(*string); *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(file), *path)
		}
	}
	return cfg, nil
}

// parseServerConfig is strict: a misspelt setting is an error.
func parseServerConfig(b []byte) (serverConfig, error) {
	var cfg serverConfig
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&cfg)
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		first := &unknown.Errors[0]
		row, _ := first.Position()
		return cfg, fmt.Errorf("line %d: there is no setting %q", row, strings.Join(first.Key(), "."))
	}
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, _ := wrong.Position()
		return cfg, fmt.Errorf("line %d: %w", row, err)
	}
	return cfg, err
}

func assign(to, from any) {
	switch to := to.(type) {
	case *string:
		*to = *from.(*string)
	case *bool:
		*to = *from.(*bool)
	case *int:
		*to = *from.(*int)
	case *int64:
		*to = *from.(*int64)
	case *[]string:
		*to = *from.(*[]string)
	}
}

func parseInto(to any, text string) (err error) {
	switch to := to.(type) {
	case *string:
		*to = text
	case *bool:
		*to, err = strconv.ParseBool(text)
	case *int:
		*to, err = strconv.Atoi(text)
	case *int64:
		*to, err = strconv.ParseInt(text, 10, 64)
	case *[]string:
		*to = nil
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*to = append(*to, item)
			}
		}
	}
	return err
}

func (c *serverConfig) limits() kv.Limits {
	return kv.Limits{KeyBytes: c.MaxKeyBytes, ValueBytes: c.MaxValueBytes, BatchKeys: c.MaxBatchKeys, BatchBytes: c.MaxBatchBytes}
}
