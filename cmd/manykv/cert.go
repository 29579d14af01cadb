package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/transport/pki"
)

func (p *program) certCommand() *cobra.Command {
	return group("cert", "Make the certificates of a cluster", p.certCACommand(), p.certNodeCommand(), p.certClientCommand())
}

// certDir gives cmd the flag of the directory that holds the CA.
func certDir(cmd *cobra.Command, dir *string) *cobra.Command {
	cmd.Flags().StringVar(dir, "dir", "certs", "directory of the CA and the certificates")
	return cmd
}

func (p *program) certCACommand() *cobra.Command {
	var dir, name string
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make a cluster's CA and its gossip key",
		Long: `Make a cluster's certificate authority, valid for ten years, and its gossip key:
ca.crt, ca.key and gossip.key. Nodes need ca.crt and gossip.key, clients ca.crt.
ca.key makes further certificates and is needed by nobody else: keep it safe.`,
		Args: asUsed,
		RunE: func(*cobra.Command, []string) error {
			if name == "" {
				return usagef("--cluster is missing, want the cluster's name")
			}
			if err := pki.NewCA(dir, name); err != nil {
				return err
			}
			p.made(dir, "ca.crt", "ca.key", "gossip.key")
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "cluster", "", "name of the cluster: 1 to 63 of a-z, 0-9 and -")
	return certDir(cmd, &dir)
}

func (p *program) certNodeCommand() *cobra.Command {
	var dir string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "node NAME",
		Short: "Make the certificate of a node",
		Long: `Make NAME.crt and NAME.key, valid for a year, signed by the CA in the same
directory. NAME is the node's name: 1 to 63 of a-z, 0-9 and -.`,
		Args: asUsed,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkCA(dir); err != nil {
				return err
			}
			if err := pki.IssueNode(dir, args[0], hosts); err != nil {
				return err
			}
			p.made(dir, args[0]+".crt", args[0]+".key")
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "DNS name or IP address to put in, for other tools to check; repeatable")
	return certDir(cmd, &dir)
}

func (p *program) certClientCommand() *cobra.Command {
	var dir, out string
	var addrs []string
	cmd := &cobra.Command{
		Use:   "client NAME",
		Short: "Make the certificate of a client, and its client.toml",
		Long: `Make NAME.crt and NAME.key, valid for a year, signed by the CA in the same
directory, and a client.toml that data commands take with --config.`,
		Args: asUsed,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(addrs) == 0 {
				return usagef("--addr is missing, want host:port of one node at least")
			}
			for _, addr := range addrs {
				if err := checkAddr(addr); err != nil {
					return usagef("--addr %w", err)
				}
			}
			if err := checkCA(dir); err != nil {
				return err
			}
			if out == "" {
				out = filepath.Join(dir, clientFile)
			}
			switch _, err := os.Lstat(out); {
			case err == nil:
				return fmt.Errorf("%s: %w, and is never overwritten; --out names another file", out, fs.ErrExist)
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
			if err := pki.IssueClient(dir, args[0]); err != nil {
				return err
			}
			if err := writeClientConfig(out, dir, args[0], addrs); err != nil {
				return err
			}
			p.made(dir, args[0]+".crt", args[0]+".key")
			p.made(filepath.Dir(out), filepath.Base(out))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&addrs, "addr", nil, "`host:port` of a node; repeatable, and the others are learned")
	cmd.Flags().StringVar(&out, "out", "", "the client.toml to write (default client.toml in --dir)")
	return certDir(cmd, &dir)
}

// checkCA says what to do first where no CA was made.
func checkCA(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "ca.crt")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("no CA in %s: run 'manykv cert ca --dir %s --cluster NAME' first", dir, dir)
}

// made says which files there are now.
func (p *program) made(dir string, files ...string) {
	for _, file := range files {
		p.stdout.printf("%s\n", filepath.Join(dir, file))
	}
}

// writeClientConfig writes a client.toml whose paths start at its own folder,
// so that both can be moved together.
func writeClientConfig(out, certs, name string, addrs []string) error {
	from, err := filepath.Abs(filepath.Dir(out))
	if err != nil {
		return err
	}
	to, err := filepath.Abs(certs)
	if err != nil {
		return err
	}
	below, err := filepath.Rel(from, to)
	if err != nil {
		return err
	}
	b, err := toml.Marshal(client.Config{
		Addrs:    addrs,
		CAFile:   filepath.Join(below, "ca.crt"),
		CertFile: filepath.Join(below, name+".crt"),
		KeyFile:  filepath.Join(below, name+".key"),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(out, b, 0o644)
}
