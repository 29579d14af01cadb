package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const (
	// clientFile is what `up` and `cert client` write and data commands read.
	clientFile = "client.toml"
	// defaultDir is where `up` keeps a cluster and data commands look for one.
	defaultDir = ".manykv"
	// defaultTimeout of a call is long enough for an election and the retries
	// after it.
	defaultTimeout = 10 * time.Second
)

// connection is the flags that say which cluster is meant and how to reach it.
type connection struct {
	config  string
	addrs   []string
	through bool
	ca      string
	cert    string
	key     string
	timeout time.Duration
}

// exitsHelp ends the help of data commands.
const exitsHelp = `

Exit codes: 0 done; 1 failed, also because of a bucket's name, a key or a value
that is not allowed; 2 used wrongly.`

// calls gives cmd the connection flags and the choice of who splits batches.
func (p *program) calls(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&p.conn.through, "through", false, "let the nodes of --addr split batches and ask the others, instead of doing so here")
	return p.connects(cmd)
}

// connects gives cmd the connection flags.
func (p *program) connects(cmd *cobra.Command) *cobra.Command {
	f, c := cmd.Flags(), &p.conn
	f.StringVar(&c.config, "config", "", "the cluster's client.toml (default "+filepath.Join(defaultDir, clientFile)+")")
	f.StringArrayVar(&c.addrs, "addr", nil, "`host:port` of a node, instead of the configured ones; repeatable")
	f.StringVar(&c.ca, "ca-file", "", "the cluster's CA certificate, instead of the configured one")
	f.StringVar(&c.cert, "cert-file", "", "the client's certificate, instead of the configured one")
	f.StringVar(&c.key, "key-file", "", "the client's key, instead of the configured one")
	f.DurationVar(&c.timeout, "timeout", defaultTimeout, "the most a call may take")
	return cmd
}

// load returns the client configuration that the flags and files make.
func (c *connection) load() (client.Config, error) {
	if c.timeout <= 0 {
		return client.Config{}, usagef("--timeout %v, want more than 0", c.timeout)
	}
	for _, addr := range c.addrs {
		if err := checkAddr(addr); err != nil {
			return client.Config{}, usagef("--addr %w", err)
		}
	}
	cfg, err := c.loadFile()
	if err != nil {
		return client.Config{}, err
	}
	if len(c.addrs) > 0 {
		cfg.Addrs = c.addrs
	}
	for _, f := range []struct{ flag, into *string }{{&c.ca, &cfg.CAFile}, {&c.cert, &cfg.CertFile}, {&c.key, &cfg.KeyFile}} {
		if *f.flag != "" {
			*f.into = *f.flag
		}
	}
	cfg.Through = cfg.Through || c.through
	cfg.Timeout = c.timeout
	return cfg, nil
}

func (c *connection) loadFile() (client.Config, error) {
	if c.config != "" {
		return client.LoadConfig(c.config)
	}
	file := filepath.Join(defaultDir, clientFile)
	_, err := os.Stat(file)
	switch {
	case err == nil:
		return client.LoadConfig(file)
	case !errors.Is(err, fs.ErrNotExist):
		return client.Config{}, err
	case len(c.addrs) == 0:
		return client.Config{}, usagef("which cluster? There is no %s here, and neither --config nor --addr was given; 'manykv up' starts a cluster", file)
	case c.ca == "" || c.cert == "" || c.key == "":
		return client.Config{}, usagef("--addr needs --ca-file, --cert-file and --key-file, because there is no %s here to take them from", file)
	default:
		return client.Config{}, nil
	}
}

// dial connects to the cluster that the flags name.
func (p *program) dial(ctx context.Context) (*client.Client, error) {
	cfg, err := p.conn.load()
	if err != nil {
		return nil, err
	}
	cl, err := client.Open(ctx, cfg)
	p.reached = err == nil
	return cl, err
}

// checkAddr says whether text can be the address of a node.
func checkAddr(text string) error {
	host, port, err := splitAddr(text)
	if err == nil && (host == "" || port == 0) {
		err = errors.New("both are needed")
	}
	if err != nil {
		return fmt.Errorf("%q, want host:port: %w", text, err)
	}
	return nil
}

// splitAddr splits host:port; either may be nothing, as in an address to
// listen on.
func splitAddr(text string) (host string, port uint64, err error) {
	host, digits, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.ParseUint(digits, 10, 16); err != nil {
		return "", 0, fmt.Errorf("port %q is not a number up to %d", digits, lastPort)
	}
	return host, port, nil
}

// withBucket connects, opens a bucket, made first if create and there is none,
// and hands it to use.
func (p *program) withBucket(ctx context.Context, name string, create bool, use func(*client.Client, *client.Bucket) error) (err error) {
	c, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	b, err := openBucket(ctx, c, name, create)
	if err != nil {
		return err
	}
	return use(c, b)
}

func openBucket(ctx context.Context, c *client.Client, name string, create bool) (*client.Bucket, error) {
	b, err := c.Bucket(ctx, name)
	if !create || !errors.Is(err, kv.ErrNoSuchStore) {
		return b, err
	}
	if err := c.CreateBucket(ctx, name); err != nil && !errors.Is(err, kv.ErrExists) {
		return nil, fmt.Errorf("create bucket %q: %w", name, err)
	}
	return c.Bucket(ctx, name)
}
