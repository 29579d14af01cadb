package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/cluster"
)

// stopTimeout is how long a node that shall stop may take to hand its
// leaderships over: several elections. What is left then is elected anew.
const stopTimeout = 10 * time.Second

const serverHelp = `Run one node until SIGINT or SIGTERM.

Every setting is a flag (--data-dir), a variable of the environment
(MANYKV_DATA_DIR) or a line of the TOML file that --config or MANYKV_CONFIG
names (data_dir); a flag wins over the environment, the environment over the
file. Paths in the file start at its folder.

To found a cluster of three machines, make certificates once:

  manykv cert ca --dir certs --cluster prod
  manykv cert node --dir certs n1        (and n2, n3)
  manykv cert client --dir certs app --addr 10.0.0.1:7400 --addr 10.0.0.2:7400

copy to each machine certs/ca.crt, certs/gossip.key and its own certs/nX.crt and
certs/nX.key (never ca.key), and start on each, with its own certificate, whose
name is the node's, and its own address:

  manykv server --config manykv.toml

  # manykv.toml
  data_dir = "/var/lib/manykv"
  listen = "0.0.0.0:7400"
  advertise = "10.0.0.1:7400"
  ca_file = "certs/ca.crt"
  cert_file = "certs/n1.crt"
  key_file = "certs/n1.key"
  gossip_key_file = "certs/gossip.key"
  join = ["10.0.0.1:7400", "10.0.0.2:7400", "10.0.0.3:7400"]
  bootstrap_expect = 3

A node that has data, or sees a cluster, never founds another: the same file
serves for every later start. One UDP port carries everything.

Exit codes: 0 stopped by a signal; 1 could not start, or stopped by itself; 2
used wrongly, also by a setting that cannot have its value.`

func (p *program) serverCommand() *cobra.Command {
	var flagged serverConfig
	var file string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run one node",
		Long:  serverHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("config") {
				file, _ = p.lookupEnv("MANYKV_CONFIG")
			}
			cfg, err := mergeSettings(cmd.Flags(), &flagged, p.lookupEnv, file)
			if err != nil {
				return err
			}
			return p.serve(cmd.Context(), &cfg)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "TOML `file` with the settings")
	addSettings(cmd.Flags(), &flagged)
	return cmd
}

// title is what the node is called before its certificate is read.
func (c *serverConfig) title() string {
	if c.Name == "" {
		return "node"
	}
	return "node " + c.Name
}

// serve runs a node until ctx ends or the node stops by itself.
func (p *program) serve(ctx context.Context, cfg *serverConfig) (err error) {
	level, err := cfg.level()
	if err != nil {
		return err
	}
	if err := cfg.checkFiles(); err != nil {
		return fmt.Errorf("start %s: %w", cfg.title(), err)
	}
	slow, err := cfg.slowCall()
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	monitor, err := listenHTTP(ctx, cfg.HTTP, cfg.PProf, logger)
	if err != nil {
		return fmt.Errorf("start %s: %w", cfg.title(), err)
	}
	defer func() { err = errors.Join(err, monitor.Close()) }()
	tracer, stopTraces, err := startTraces(ctx, cfg.OTLP, cfg.Name, logger)
	if err != nil {
		return fmt.Errorf("start %s: %w", cfg.title(), err)
	}
	node, err := cluster.Open(cluster.Config{
		Name: cfg.Name, DataDir: cfg.DataDir, Listen: cfg.Listen, Advertise: cfg.Advertise,
		CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, GossipKeyFile: cfg.GossipKeyFile,
		Join: cfg.Join, BootstrapExpect: cfg.BootstrapExpect, Shards: cfg.Shards, Replicas: cfg.Replicas,
		LogStore: cfg.LogStore, JournalBytes: cfg.JournalBytes, CacheBytes: cfg.CacheBytes, ValueCacheBytes: cfg.ValueCacheBytes, WriteBufferBytes: cfg.WriteBufferBytes, RequestBytes: cfg.RequestBytes, SlowCall: slow, Tracer: tracer,
		Limits: cfg.limits(), Logger: logger, Version: version(),
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", cfg.title(), err)
	}
	cfg.Name = node.Name() // the certificate's, if none was given
	logger.Info("node started", "node", cfg.Name, "addr", node.Addr(), "data", cfg.DataDir, "version", version())
	monitor.show(node)
	select {
	case <-ctx.Done():
		logger.Info("node stops", "why", context.Cause(ctx))
	case <-node.Done():
	}
	// What ctx says has come true; the handing over has its own time.
	closing, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if err := errors.Join(node.Err(), node.Close(closing), stopTraces(closing)); err != nil {
		return fmt.Errorf("node %s: %w", cfg.Name, err)
	}
	logger.Info("node stopped", "node", cfg.Name)
	return nil
}
