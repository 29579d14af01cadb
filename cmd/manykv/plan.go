package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/pelletier/go-toml/v2"

	"github.com/manykv/manykv/transport/pki"
)

const (
	planFile  = "up.toml"
	certsDir  = "certs"
	loopback  = "127.0.0.1" // `up` is for one machine, and not for its neighbours
	clientRef = "client"    // name of the client's certificate
	// mostLocalNodes is more than one machine has a use for.
	mostLocalNodes = 16
	lastPort       = 1<<16 - 1
)

// plan is what `up` chose when it first made a cluster; a later start does the
// same again.
type plan struct {
	Nodes  int   `toml:"nodes"`
	Shards int   `toml:"shards"`
	Ports  []int `toml:"ports"` // one for each node
	HTTP   int   `toml:"http"`  // of the first node; 0: none
}

func nodeName(i int) string { return "n" + strconv.Itoa(i+1) }

func (pl *plan) addr(i int) string { return net.JoinHostPort(loopback, strconv.Itoa(pl.Ports[i])) }

func (pl *plan) addrs() []string {
	out := make([]string, pl.Nodes)
	for i := range out {
		out[i] = pl.addr(i)
	}
	return out
}

// loadPlan returns the plan of a cluster that was made before; nil if there is
// none.
func loadPlan(dir string) (*plan, error) {
	file := filepath.Join(dir, planFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pl plan
	if err := toml.Unmarshal(b, &pl); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if pl.Nodes < 1 || pl.Nodes > mostLocalNodes || len(pl.Ports) != pl.Nodes {
		return nil, fmt.Errorf("%s: %s and %s, want 1 to %d nodes and a port for each", file,
			count(pl.Nodes, "node", "nodes"), count(len(pl.Ports), "port", "ports"), mostLocalNodes)
	}
	return &pl, nil
}

// checkSame says whether the flags that were given ask for what there is.
func (pl *plan) checkSame(dir string, o *upOptions, given func(flag string) bool) error {
	for _, f := range []struct {
		flag      string
		got, want int
	}{
		{"nodes", o.nodes, pl.Nodes}, {"shards", o.shards, pl.Shards}, {"port", o.port, pl.Ports[0]}, {"http", o.http, pl.HTTP},
	} {
		if given(f.flag) && f.got != f.want {
			want := strconv.Itoa(f.want)
			if f.flag == "shards" && f.want == 0 {
				want = "two shards for each node"
			}
			return usagef("--%s %d, but the cluster in %s was made with %s, which cannot be changed; --dir names another directory",
				f.flag, f.got, dir, want)
		}
	}
	return nil
}

// makePlan makes certificates and configurations of a new cluster. The plan is
// written last: without it, all of this is done again.
func makePlan(dir string, o *upOptions) (*plan, error) {
	ports, err := freePorts(o.port, o.nodes)
	if err != nil {
		return nil, err
	}
	pl := &plan{Nodes: o.nodes, Shards: o.shards, Ports: ports, HTTP: o.http}
	if err := pl.makeCerts(dir); err != nil {
		return nil, err
	}
	for i := range pl.Nodes {
		if err := writeTOML(filepath.Join(dir, nodeName(i)+".toml"), pl.serverConfig(i)); err != nil {
			return nil, err
		}
	}
	if err := writeClientConfig(filepath.Join(dir, clientFile), filepath.Join(dir, certsDir), clientRef, pl.addrs()); err != nil {
		return nil, err
	}
	return pl, writeTOML(filepath.Join(dir, planFile), pl)
}

// serverConfig is a node's configuration, with paths that start at its folder.
func (pl *plan) serverConfig(i int) *serverConfig {
	name, monitor := nodeName(i), ""
	if pl.HTTP != 0 {
		monitor = net.JoinHostPort(loopback, strconv.Itoa(pl.HTTP+i))
	}
	return &serverConfig{
		Name:            name,
		DataDir:         name,
		Listen:          pl.addr(i),
		CAFile:          filepath.Join(certsDir, "ca.crt"),
		CertFile:        filepath.Join(certsDir, name+".crt"),
		KeyFile:         filepath.Join(certsDir, name+".key"),
		GossipKeyFile:   filepath.Join(certsDir, "gossip.key"),
		Join:            pl.addrs(),
		BootstrapExpect: pl.Nodes,
		Shards:          pl.Shards,
		HTTP:            monitor,
	}
}

// makeCerts makes all certificates, or none: they are made beside their place
// and moved there.
func (pl *plan) makeCerts(dir string) error {
	place := filepath.Join(dir, certsDir)
	made := place + ".new"
	if err := errors.Join(os.RemoveAll(place), os.RemoveAll(made)); err != nil {
		return err
	}
	if err := pki.NewCA(made, clusterName(dir)); err != nil {
		return err
	}
	for i := range pl.Nodes {
		if err := pki.IssueNode(made, nodeName(i), []string{loopback}); err != nil {
			return err
		}
	}
	if err := pki.IssueClient(made, clientRef); err != nil {
		return err
	}
	return os.Rename(made, place)
}

var validName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// clusterName is the directory's, if that can be a cluster's.
func clusterName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil && validName.MatchString(filepath.Base(abs)) {
		return filepath.Base(abs)
	}
	return "local"
}

// freePorts finds n UDP ports that nobody uses now, from base upwards.
func freePorts(base, n int) ([]int, error) {
	var ports []int
	for port := base; port <= lastPort && len(ports) < n; port++ {
		c, err := net.ListenPacket("udp", net.JoinHostPort(loopback, strconv.Itoa(port)))
		if err != nil {
			continue // in use
		}
		if err := c.Close(); err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, fmt.Errorf("%d of the UDP ports %d to %d are free, want %d", len(ports), base, lastPort, n)
	}
	return ports, nil
}

func writeTOML(file string, v any) error {
	b, err := toml.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
