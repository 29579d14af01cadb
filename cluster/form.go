package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// Founding a cluster. Every node says hello to the addresses it was given. When
// the N empty nodes that expect each other are all there, the one with the
// lowest name proposes a founding: the cluster's random id and the list of nodes
// with their storage ids. Each node makes its promise durable before it answers,
// and promises once. Only when all N have promised is the cluster founded: the
// proposer writes that down, and the others learn it from any node that has. A
// node that is of a cluster never promises, and an empty one that meets a
// cluster it has not promised to found never joins it by itself (join.go).

// firstMap returns the map the meta group starts with; every node of a founding
// computes the same.
func (f *founding) firstMap() (*sharding.Map, error) {
	return sharding.Found(f.Cluster, f.Nodes, f.Shards, f.Replicas)
}

func (f *founding) names() string {
	var names []string
	for _, n := range f.Nodes {
		names = append(names, string(n.ID))
	}
	return strings.Join(names, ", ")
}

func (f *founding) node(id sharding.NodeID) (sharding.Node, bool) {
	for _, n := range f.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return sharding.Node{}, false
}

// form returns when this node is of a cluster.
func (n *Node) form(ctx context.Context) error {
	if f := n.founded.Load(); f != nil {
		n.cfg.Logger.Info("rejoining", "cluster", clusterName(f.Cluster), "nodes", f.names())
		n.control.Go(func() { n.checkWelcome(ctx, f) })
		return nil
	}
	n.cfg.Logger.Info("looking for other nodes", "expect", n.cfg.BootstrapExpect, "join", n.cfg.Join)
	said, saidAt := "", time.Time{}
	for {
		done, why, err := n.formOnce(ctx)
		if done || err != nil {
			n.wait("")
			return err
		}
		if why != said || time.Since(saidAt) > remindEvery {
			n.cfg.Logger.Warn("not of a cluster yet", "because", why)
			said, saidAt = why, time.Now()
		}
		pause := formTick
		if n.waiting.Load() != nil {
			pause = joinTick
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// formOnce looks around once. why says what is missing.
func (n *Node) formOnce(ctx context.Context) (done bool, why string, err error) {
	met, refused := n.hellos(ctx)
	reason := ""
	for _, h := range met {
		if h.Founded == nil {
			continue
		}
		if me, ok := h.Founded.node(n.name); ok && me.Storage == n.storage {
			return true, "", n.found(h.Founded) // it could be founded only after this node's promise
		}
		done, why, err := n.join(ctx, h)
		if done || err != nil {
			return done, "", err
		}
		reason = why
	}
	n.wait(reason)
	if reason != "" {
		return false, reason, nil
	}
	if refused != nil {
		return false, refused.Error(), nil
	}
	if n.cfg.BootstrapExpect == 0 {
		return false, "no cluster found at the addresses to join, and bootstrap-expect is 0", nil
	}
	nodes := []sharding.Node{n.me()}
	for _, h := range met {
		if h.Expect != n.cfg.BootstrapExpect {
			return false, fmt.Sprintf("node %s expects %d nodes, this one %d", h.Node.ID, h.Expect, n.cfg.BootstrapExpect), nil
		}
		nodes = append(nodes, h.Node)
	}
	slices.SortFunc(nodes, func(a, b sharding.Node) int { return strings.Compare(string(a.ID), string(b.ID)) })
	switch {
	case len(nodes) != n.cfg.BootstrapExpect:
		return false, fmt.Sprintf("%d nodes are here, bootstrap-expect is %d", len(nodes), n.cfg.BootstrapExpect), nil
	case nodes[0].ID != n.name:
		return false, fmt.Sprintf("waiting for %s to found the cluster", nodes[0].ID), nil
	}
	return n.propose(ctx, nodes)
}

// hellos says hello to every address to join and returns the answers of other
// nodes, one for each, by name. refused is the error of a peer that did not take
// our certificate, or whose own was not taken: waiting does not heal that.
func (n *Node) hellos(ctx context.Context) (met []hello, refused error) {
	var mu sync.Mutex
	byName := make(map[sharding.NodeID]hello)
	var all sync.WaitGroup
	for _, addr := range n.cfg.Join {
		if addr == n.addr {
			continue
		}
		all.Go(func() {
			h, err := n.sayHello(ctx, addr)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, transport.ErrIdentity):
				refused = err
			case err != nil:
				n.cfg.Logger.Debug("no hello", "addr", addr, "error", err)
			case h.Node.ID != n.name:
				byName[h.Node.ID] = h
			}
		})
	}
	all.Wait()
	for _, id := range slices.Sorted(maps.Keys(byName)) {
		met = append(met, byName[id])
	}
	return met, refused
}

// helloTimeout bounds one hello; the next tick says it again.
const helloTimeout = time.Second

func (n *Node) sayHello(ctx context.Context, addr string) (hello, error) {
	ctx, done := context.WithTimeout(ctx, helloTimeout)
	defer done()
	b, from, err := n.trans.CallAddr(ctx, addr, methodHello, nil)
	if err != nil {
		return hello{}, err
	}
	h, err := decodeHello(b)
	if err == nil && string(h.Node.ID) != from.Name {
		err = fmt.Errorf("node %s says it is %s", from.Name, h.Node.ID)
	}
	return h, err
}

// propose asks all nodes to found a cluster. The proposal is this node's own
// promise first; it is kept over restarts and replaced only if a node of it is
// not the same any more, which is safe because nobody but this node can declare
// it founded.
func (n *Node) propose(ctx context.Context, nodes []sharding.Node) (done bool, why string, err error) {
	f := n.promise.Load()
	if f != nil && (f.Nodes[0].ID != n.name || f.Nodes[0].Storage != n.storage) {
		// Promised to another proposer, who may have founded that cluster already.
		return false, n.promisedElsewhere(f).Error(), nil
	}
	if f == nil || !slices.Equal(f.Nodes, nodes) {
		f = &founding{Cluster: randomID(), Nodes: nodes, Shards: n.cfg.Shards, Replicas: n.cfg.Replicas}
		if _, err := f.firstMap(); err != nil {
			return false, "", fmt.Errorf("found a cluster: %w", err)
		}
		if err := n.keepPromise(f); err != nil {
			return false, "", err
		}
	}
	request := f.append(nil)
	var all sync.WaitGroup
	refusals := make([]error, len(nodes))
	for i, node := range nodes[1:] {
		all.Go(func() {
			ctx, done := context.WithTimeout(ctx, helloTimeout)
			defer done()
			_, from, err := n.trans.CallAddr(ctx, node.Addr, methodPromise, request)
			if err == nil && from.Name != string(node.ID) {
				err = fmt.Errorf("%s answered", from.Name)
			}
			if err != nil {
				refusals[i] = fmt.Errorf("node %s did not promise: %w", node.ID, err)
			}
		})
	}
	all.Wait()
	if refusal := errors.Join(refusals...); refusal != nil {
		return false, refusal.Error(), nil
	}
	return true, "", n.found(f)
}

// servePromise answers a proposal: nil means promised, durably.
func (n *Node) servePromise(from sharding.NodeID, request []byte) error {
	f, err := decodeFounding(request)
	if err != nil {
		return err
	}
	n.promising.Lock()
	defer n.promising.Unlock()
	me, ok := f.node(n.name)
	switch own := n.promise.Load(); {
	case n.founded.Load() != nil:
		if n.founded.Load().Cluster == f.Cluster {
			return nil
		}
		return fmt.Errorf("node %s is of cluster %s already", n.name, clusterName(n.founded.Load().Cluster))
	case from != f.Nodes[0].ID:
		return fmt.Errorf("node %s proposes a cluster that %s should", from, f.Nodes[0].ID)
	case !ok || me.Storage != n.storage:
		return fmt.Errorf("the proposal does not name node %s with storage %016x", n.name, n.storage)
	case len(f.Nodes) != n.cfg.BootstrapExpect:
		return fmt.Errorf("the proposal has %d nodes, bootstrap-expect of node %s is %d", len(f.Nodes), n.name, n.cfg.BootstrapExpect)
	case own != nil && own.Cluster == f.Cluster:
		return nil
	case own != nil && (own.Nodes[0].ID != f.Nodes[0].ID || own.Nodes[0].Storage != f.Nodes[0].Storage):
		return n.promisedElsewhere(own)
	}
	return n.keepPromiseLocked(f)
}

func (n *Node) promisedElsewhere(f *founding) error {
	return fmt.Errorf("node %s has promised to found cluster %s with %s (storage %016x); if that can never happen, empty its data directory",
		n.name, clusterName(f.Cluster), f.Nodes[0].ID, f.Nodes[0].Storage)
}

func (n *Node) keepPromise(f *founding) error {
	n.promising.Lock()
	defer n.promising.Unlock()
	return n.keepPromiseLocked(f)
}

func (n *Node) keepPromiseLocked(f *founding) error {
	id := n.dir.id
	id.Promise = f
	if err := n.dir.save(id); err != nil {
		return err
	}
	n.promise.Store(f)
	return nil
}

// found writes down that the cluster is founded.
func (n *Node) found(f *founding) error {
	n.promising.Lock()
	defer n.promising.Unlock()
	if err := n.foundLocked(f); err != nil {
		return err
	}
	n.cfg.Logger.Info("cluster founded", "cluster", clusterName(f.Cluster), "nodes", f.names())
	return nil
}

func (n *Node) foundLocked(f *founding) error {
	id := n.dir.id
	id.Promise, id.Founded = f, true
	if err := n.dir.save(id); err != nil {
		return err
	}
	n.promise.Store(f)
	n.founded.Store(f)
	return nil
}

// checkWelcome asks the other nodes whether they are of the same cluster, so
// that a directory in the wrong place is reported instead of waiting for a
// majority that never comes.
func (n *Node) checkWelcome(ctx context.Context, f *founding) {
	met, refused := n.hellos(ctx)
	if refused != nil {
		n.cfg.Logger.Warn("a node refuses this one", "error", refused)
	}
	for _, h := range met {
		if h.Founded != nil && h.Founded.Cluster != f.Cluster {
			n.fail(fmt.Errorf("the data directory is of cluster %s, node %s is of cluster %s",
				clusterName(f.Cluster), h.Node.ID, clusterName(h.Founded.Cluster)))
		}
	}
}

// me is this node as it shows itself to others.
func (n *Node) me() sharding.Node {
	return sharding.Node{ID: n.name, Storage: n.storage, Addr: n.addr}
}

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	return binary.BigEndian.Uint64(b[:])
}

func clusterName(id uint64) string { return fmt.Sprintf("%016x", id) }
