package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/sharding"
)

func (p *program) nodeCommand() *cobra.Command {
	return group("node", "List nodes, add, remove and replace them",
		p.nodeAddCommand(), p.nodeListCommand(), p.nodeRemoveCommand(), p.nodeReplaceCommand())
}

// waitsHelp ends the help of the commands that change the nodes.
const waitsHelp = `

The command waits, showing how far it is, until that is done; --wait=false returns
as soon as the cluster has taken it on, and --within ends the waiting, which is a
failure then. Ctrl-C ends it, too: the cluster goes on by itself, and 'manykv
status --watch' shows how.` + exitsHelp

// waiting is the flags of the commands that change the nodes.
type waiting struct {
	wait   bool
	within time.Duration
}

func (w *waiting) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", true, "wait until it is done")
	cmd.Flags().DurationVar(&w.within, "within", 0, "how long to wait at most; 0: as long as it takes")
}

func (w *waiting) check() error {
	switch {
	case w.within < 0:
		return usagef("--within %v, want 0 or more", w.within)
	case w.within > 0 && !w.wait:
		return usagef("--within with --wait=false")
	default:
		return nil
	}
}

func (p *program) nodeListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the nodes of the cluster",
		Long: `List the nodes of the cluster: name, address, the identity of the data directory,
state, and how many replicas it holds and leads. The states are active; leaving,
for a node that was removed and still has replicas; and waiting, for one that has
started and is no node of the cluster: 'manykv node add' makes it one, 'manykv
node replace' gives it the place of another. "unreachable" is said of nodes that
do not answer.` + exitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := p.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			nodes, err := listNodes(cmd.Context(), c)
			switch {
			case err != nil:
				return err
			case asJSON:
				return p.stdout.json(nodes)
			}
			printNodes(p.stdout, nodes)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array")
	return p.connects(cmd)
}

// listedNode is a node as list shows it.
type listedNode struct {
	Node        sharding.NodeID `json:"node"`
	Addr        string          `json:"addr"`
	Storage     string          `json:"storage"` // empty: not known
	State       string          `json:"state"`   // "active", "leaving" or "waiting"
	Unreachable bool            `json:"unreachable"`
	Replicas    int             `json:"replicas"` // by the map
	Leads       int             `json:"leads"`
}

func listNodes(ctx context.Context, c statuser) ([]listedNode, error) {
	statuses, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	m, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	return nodesOf(m, statuses), nil
}

// nodesOf are the nodes of the map, and those that others see beside them.
func nodesOf(m *sharding.Map, statuses []client.Status) []listedNode {
	v := newView(statuses, m)
	nodes := []listedNode{}
	for _, n := range m.Nodes {
		listed := listedNode{Node: n.ID, Addr: n.Addr, Storage: storageName(n.Storage), State: "active", Unreachable: true, Replicas: held(m, n.ID)}
		if n.Leaving {
			listed.State = "leaving"
		}
		for i := range v.Nodes {
			if v.Nodes[i].Node == n.ID {
				listed.Unreachable, listed.Leads = v.Nodes[i].State == stateUnreachable, v.Nodes[i].Leads
			}
		}
		nodes = append(nodes, listed)
	}
	for _, s := range statuses {
		if s.Status == nil {
			continue
		}
		for _, member := range s.Status.Members {
			known := slices.ContainsFunc(nodes, func(n listedNode) bool { return n.Node == member.Node })
			if member.Alive && !known {
				nodes = append(nodes, listedNode{Node: member.Node, Addr: member.Addr, State: "waiting"})
			}
		}
	}
	slices.SortFunc(nodes, func(a, b listedNode) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return nodes
}

func storageName(storage uint64) string { return fmt.Sprintf("%016x", storage) }

// held counts the replicas of a node in the map, that of the meta group too.
func held(m *sharding.Map, id sharding.NodeID) (n int) {
	for s := range sharding.Shard(len(m.Groups) + 1) {
		if m.Group(s).Holds(id) {
			n++
		}
	}
	return n
}

func printNodes(w *printer, nodes []listedNode) {
	rows := [][]string{{"NODE", "ADDRESS", "STORAGE", "STATE", "REPLICAS", "LEADS"}}
	for _, n := range nodes {
		state, storage := n.State, n.Storage
		if n.Unreachable {
			state += ", unreachable"
		}
		if storage == "" {
			storage = "-"
		}
		rows = append(rows, []string{string(n.Node), n.Addr, storage, state, strconv.Itoa(n.Replicas), strconv.Itoa(n.Leads)})
	}
	w.table(false, rows)
}

func (p *program) nodeAddCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:   "add ADDR",
		Short: "Add a node that has started",
		Long: `Add the node that answers at ADDR, host:port, to the cluster, and give it replicas
of shards until all nodes hold about as many. Start it first, with a certificate
of the cluster under a new name, an empty data directory, and join naming nodes
of the cluster; bootstrap_expect is 0 or not set:

  manykv server --config n4.toml
  manykv node add 10.0.0.4:7400` + waitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			addr := args[0]
			if err := checkAddr(addr); err != nil {
				return usagef("ADDR %w", err)
			}
			return p.changeNodes(cmd.Context(), &w, adding(addr))
		},
	}
	w.flags(cmd)
	return p.connects(cmd)
}

func (p *program) nodeRemoveCommand() *cobra.Command {
	var w waiting
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Move the replicas of a node to others, and let it leave",
		Long: `Move the replicas of a node to the others, one after the other, and then take it
off the cluster. No shard has fewer copies meanwhile than before. The node may be
dead: its copies are made from the others' then. When it has left stop it: 'manykv
node list' shows it as waiting as long as it runs. Its certificate stays good for
an empty data directory only.

Where too few nodes are left for all the copies that the cluster keeps, --yes is
needed: each shard has one copy less afterwards.` + waitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			id := sharding.NodeID(args[0])
			ch := removing(id)
			ch.agreed = func(ctx context.Context, m *sharding.Map) error {
				warning := fewerCopies(m, id)
				if warning == "" || yes {
					return nil
				}
				return p.confirm(ctx, warning, args[0])
			}
			return p.changeNodes(cmd.Context(), &w, ch)
		},
	}
	w.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return p.connects(cmd)
}

func (p *program) nodeReplaceCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:   "replace NAME ADDR",
		Short: "Give a node that lost its disk, or is gone, another data directory",
		Long: `Give the place of a node whose data is lost to the node that answers at ADDR,
host:port: one started with an empty data directory, either under the same name or
as a node of its own, under another. It gets the replicas that the old one held
from their other copies. One of the same name is NAME from then on; one of another
name joins the cluster, and NAME leaves it. What the old data directory holds is
worth nothing afterwards: it must never be started again.

  rm -rf /var/lib/manykv && manykv server --config n3.toml
  manykv node replace n3 10.0.0.3:7400

  manykv server --config n4.toml
  manykv node replace n3 10.0.0.4:7400` + waitsHelp,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, addr := sharding.NodeID(args[0]), args[1]
			if err := checkAddr(addr); err != nil {
				return usagef("ADDR %w", err)
			}
			return p.changeNodes(cmd.Context(), &w, replacing(id, addr))
		},
	}
	w.flags(cmd)
	return p.connects(cmd)
}

// follows says whether all replicas of a node get what their leaders commit.
func (v *view) follows(m *sharding.Map, id sharding.NodeID) bool {
	following := 0
	for _, s := range v.Shards {
		for _, r := range s.Replicas {
			if r.Node == id && r.Lag != nil && !r.Nonvoter {
				following++
			}
		}
	}
	return following == held(m, id)
}

// fewerCopies says what is lost with a node; "" if nothing is.
func fewerCopies(m *sharding.Map, id sharding.NodeID) string {
	staying := 0
	for _, n := range m.Nodes {
		if !n.Leaving && n.ID != id {
			staying++
		}
	}
	if n, ok := m.Node(id); !ok || n.Leaving || staying == 0 || staying >= m.Replicas {
		return "" // the cluster refuses it, or has enough nodes
	}
	return fmt.Sprintf("Without %s only %s would be left: each shard would have %s, not %d.",
		id, count(staying, "node", "nodes"), count(staying, "copy", "copies"), m.Replicas)
}
