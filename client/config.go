package client

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
)

// Config says how to reach a cluster. The zero value of a field is its
// documented default.
type Config struct {
	// Addrs are "host:port" of one or more nodes; the others are learned.
	// Required.
	Addrs []string `toml:"addrs"`
	// CAFile, CertFile and KeyFile are PEM files: the cluster's CA and the
	// client's own certificate and key. Required.
	CAFile   string `toml:"ca_file"`
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`
	// Through sends every batch whole to a node of Addrs, which splits it:
	// for callers that cannot reach every node. By default the client splits
	// and sends to the shards' leaders itself.
	Through bool `toml:"through"`
	// Timeout bounds a call whose context has no deadline; default 10 s.
	Timeout time.Duration `toml:"-"`
	// Limits bound each call; see kv.Limits for the defaults.
	Limits kv.Limits `toml:"-"`
	// Tracer starts a span for each call and each request of it, and the nodes go on
	// with their own (OpenTelemetry); nil: none are.
	Tracer trace.Tracer `toml:"-"`
	// Logger hears of connections that fail; default: nothing is logged.
	Logger *slog.Logger `toml:"-"`
}

// defaultTimeout is long enough for an election (a second or two) and the
// retries after it.
const defaultTimeout = 10 * time.Second

// LoadConfig reads a client.toml as `manykv up` and `manykv cert client` write
// it. Relative file names in it are relative to its own folder.
func LoadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("client configuration: %w", err)
	}
	var cfg Config
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	var strict *toml.StrictMissingError
	switch err := d.Decode(&cfg); {
	case errors.As(err, &strict):
		return Config{}, fmt.Errorf("client configuration %s: there is no setting %q", path, strings.Join(strict.Errors[0].Key(), "."))
	case err != nil:
		return Config{}, fmt.Errorf("client configuration %s: %w", path, err)
	}
	for _, file := range []*string{&cfg.CAFile, &cfg.CertFile, &cfg.KeyFile} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(path), *file)
		}
	}
	return cfg, nil
}

// withDefaults returns the configuration with defaults, or what is wrong with
// it.
func (c Config) withDefaults() (Config, error) {
	if len(c.Addrs) == 0 {
		return c, fmt.Errorf("%w configuration: no addresses; want host:port of at least one node", kv.ErrInvalid)
	}
	for _, addr := range c.Addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return c, fmt.Errorf("%w configuration: address %q: %w; want host:port", kv.ErrInvalid, addr, err)
		}
	}
	for _, f := range []struct{ name, file string }{{"CA", c.CAFile}, {"certificate", c.CertFile}, {"key", c.KeyFile}} {
		if f.file == "" {
			return c, fmt.Errorf("%w configuration: no %s file; `manykv cert client` makes one", kv.ErrInvalid, f.name)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Timeout < 0 {
		return c, fmt.Errorf("%w configuration: timeout %v, want more than 0", kv.ErrInvalid, c.Timeout)
	}
	c.Limits = c.Limits.WithDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.Limits.Validate()
}
