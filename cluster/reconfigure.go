package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/raftnet"
)

// Changing the servers of one raft group, on its leader. Every call takes one step
// from the servers there are to those the map wants, and waits until it is
// committed: raft's rule of one change at a time holds, whoever asks and however
// often. What a step did is never remembered, it is looked up again.
//
//   - a server that is missing is added without a vote, so that a majority never
//     depends on one that has nothing yet;
//   - it gets its vote when it has caught up (tenure.go);
//   - only then an unwanted one goes. One that leads hands over first.
//
// A server is a node with its data directory: one whose directory was replaced is
// unwanted, and the same node with the new one is wanted.

const (
	// promoteLag is how many entries a server may be behind when it gets its vote:
	// it makes up for them while the change is being committed.
	promoteLag = 1000
	// stepTimeout bounds a step: a change is committed in a round trip, or there is
	// no majority.
	stepTimeout = 2 * electionTimeout
)

// errWaiting: the next step has to wait, and the error says for what.
var errWaiting = errors.New("waiting")

// provenServers are servers of which it is known that they are committed.
type provenServers struct {
	term    uint64
	servers []raft.Server
}

// change is one step of a configuration.
type change struct {
	op     raft.ConfigurationChangeCommand
	server raft.ServerID
}

func (c change) String() string {
	switch c.op {
	case raft.AddNonvoter:
		return fmt.Sprintf("adding %s", c.server)
	case raft.AddVoter:
		return fmt.Sprintf("giving %s its vote", c.server)
	default:
		return fmt.Sprintf("removing %s", c.server)
	}
}

// nextChange returns the step from the servers there are towards those wanted;
// false when there is none. last is removed after all others: the leader.
//
// There is never more than one voter above the number wanted, so that a group with
// several servers to replace does not grow in between.
func nextChange(have []raft.Server, want []raft.ServerID, last raft.ServerID) (change, bool) {
	var unwanted, waiting raft.ServerID
	voters := 0
	for _, s := range have {
		wanted, votes := slices.Contains(want, s.ID), s.Suffrage == raft.Voter
		switch {
		case !wanted && !votes:
			return change{raft.RemoveServer, s.ID}, true
		case !wanted && (unwanted == "" || unwanted == last):
			unwanted = s.ID
		case wanted && !votes && waiting == "":
			waiting = s.ID
		}
		if votes {
			voters++
		}
	}
	for _, id := range want {
		if !slices.ContainsFunc(have, func(s raft.Server) bool { return s.ID == id }) {
			return change{raft.AddNonvoter, id}, true
		}
	}
	switch {
	case unwanted != "" && (waiting == "" || voters > len(want)):
		return change{raft.RemoveServer, unwanted}, true
	case waiting != "":
		return change{raft.AddVoter, waiting}, true
	}
	return change{}, false
}

// wantedServers returns the servers a group shall have: when its move is over, if
// it is moving.
func wantedServers(m *sharding.Map, g *sharding.Group) []raft.ServerID {
	var want []raft.ServerID
	for _, id := range g.Nodes() {
		if node, ok := m.Node(id); ok && id != g.Removing {
			want = append(want, serverOf(node))
		}
	}
	return want
}

// serverOf returns the raft server that a node of the map is.
func serverOf(n sharding.Node) raft.ServerID {
	return raft.ServerID(raftnet.Address(string(n.ID), n.Storage))
}

// nodeOf returns the node of a raft server; "" if id names none.
func nodeOf(id raft.ServerID) sharding.NodeID {
	node, _ := raftnet.Node(raft.ServerAddress(id))
	return sharding.NodeID(node)
}

// nodesOf returns the nodes of raft servers, sorted.
func nodesOf(ids []raft.ServerID) []sharding.NodeID {
	var nodes []sharding.NodeID
	for _, id := range ids {
		nodes = append(nodes, nodeOf(id))
	}
	slices.Sort(nodes)
	return nodes
}

// configuration returns the servers of the newest configuration, committed or
// not, sorted.
func (r *replica) configuration() []raft.Server {
	group := r.raft.Load()
	if group == nil {
		return nil
	}
	future := group.GetConfiguration() // answers at once, from memory
	if future.Error() != nil {
		return nil
	}
	servers := slices.Clone(future.Configuration().Servers)
	slices.SortFunc(servers, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return servers
}

// serversThat returns the servers of the newest configuration with a suffrage,
// sorted.
func (r *replica) serversThat(suffrage raft.ServerSuffrage) []raft.ServerID {
	var ids []raft.ServerID
	for _, s := range r.configuration() {
		if s.Suffrage == suffrage {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// serveReconfigure takes a step of a shard that this node leads. What is wanted
// comes from this node's own map, which is of the epoch asked for or newer: who asks
// may have been deposed since it looked.
func (n *Node) serveReconfigure(ctx context.Context, request []byte) (verdict, error) {
	shard, epoch, err := decodeOrder(request)
	if err != nil {
		return verdict{}, err
	}
	m := n.current.Load()
	if m == nil || m.Epoch < epoch {
		if m = n.catchUp(ctx, epoch); m == nil {
			return verdict{what: verdictWait, text: fmt.Sprintf("node %s has no map of epoch %d yet", n.name, epoch)}, nil
		}
	}
	r := n.replica(shard)
	if r == nil || !r.leads() {
		return n.elsewhere(shard), nil
	}
	if !r.changing.TryLock() {
		return verdict{what: verdictWait, text: "another step is being taken"}, nil
	}
	defer r.changing.Unlock()
	ctx, done := context.WithTimeout(ctx, stepTimeout)
	defer done()
	did, err := n.step(ctx, r, m)
	switch {
	case errors.Is(err, errNotLeader):
		return n.elsewhere(shard), nil
	case err != nil:
		return verdict{what: verdictWait, text: err.Error()}, nil
	case did == "":
		return verdict{what: verdictDone}, nil
	}
	n.cfg.Logger.Info("reconfigured", "shard", shard, "step", did)
	return verdict{what: verdictStep, text: did}, nil
}

// step takes one step and says which; "" when the group is as the map wants and
// that is committed. The caller holds r.changing.
func (n *Node) step(ctx context.Context, r *replica, m *sharding.Map) (did string, err error) {
	group := r.raft.Load()
	if group == nil || !r.announced(group) {
		return "", errNotReady
	}
	have, want := r.configuration(), wantedServers(m, m.Group(r.shard))
	c, ok := nextChange(have, want, n.self)
	switch {
	case !ok:
		return "", r.prove(ctx, group, have)
	case c.op == raft.RemoveServer && c.server == n.self:
		return n.stepAside(ctx, r, have, want)
	case c.op != raft.RemoveServer:
		if err := n.mayGet(ctx, r, c); err != nil {
			return "", err
		}
	}
	if err := n.affords(ctx, r, have, c); err != nil {
		return "", err
	}
	return c.String(), r.change(ctx, group, c)
}

// prove makes sure that the servers of the newest configuration are committed:
// an entry that was proposed after them is. The caller holds r.changing, so that
// nobody changes them while this replica leads.
func (r *replica) prove(ctx context.Context, group *raft.Raft, have []raft.Server) error {
	term := group.CurrentTerm()
	if p := r.proven; p != nil && p.term == term && slices.Equal(p.servers, have) {
		return nil
	}
	if err := r.announce(ctx, group); err != nil {
		return fmt.Errorf("is the configuration committed: %w", err)
	}
	if !r.leads() || group.CurrentTerm() != term || !slices.Equal(r.configuration(), have) {
		return errNotLeader
	}
	r.proven = &provenServers{term: term, servers: have}
	return nil
}

// mayGet says why a server cannot be added, or get its vote, yet. One whose
// replica is not there would make raft back off for seconds.
func (n *Node) mayGet(ctx context.Context, r *replica, c change) error {
	var err error
	if c.op == raft.AddNonvoter {
		_, err = n.callProgress(ctx, c.server, r.shard)
	} else {
		err = n.countsOn(ctx, r, c.server)
	}
	if err != nil {
		return fmt.Errorf("%w with %s: %w", errWaiting, c, err)
	}
	return nil
}

// countsOn says why a majority cannot be made with a server now: its replica does
// not run, or would have to catch up first. That its node is alive says neither.
func (n *Node) countsOn(ctx context.Context, r *replica, server raft.ServerID) error {
	if server == n.self {
		return nil
	}
	commit := r.standing().commit
	p, err := n.callProgress(ctx, server, r.shard)
	switch {
	case err != nil:
		return err
	case p.newcomer || p.commit+promoteLag < commit:
		return fmt.Errorf("%s has not caught up", server)
	}
	return nil
}

// affords says why a change must wait: a majority of the voters that it leaves
// could not commit it, nor elect anybody afterwards. They are asked, all at once.
func (n *Node) affords(ctx context.Context, r *replica, have []raft.Server, c change) error {
	voters := votersAfter(have, c)
	missing := make([]error, len(voters))
	var all sync.WaitGroup
	for i, id := range voters {
		all.Go(func() { missing[i] = n.countsOn(ctx, r, id) })
	}
	all.Wait()
	ready, why := 0, ""
	for _, err := range missing {
		if err == nil {
			ready++
		} else if why == "" {
			why = err.Error()
		}
	}
	if ready <= len(voters)/2 {
		return fmt.Errorf("%w with %s: only %d of %d voters would be there: %s", errWaiting, c, ready, len(voters), why)
	}
	return nil
}

// votersAfter returns the servers that vote once a change is made.
func votersAfter(have []raft.Server, c change) (voters []raft.ServerID) {
	for _, s := range have {
		votes := s.Suffrage == raft.Voter || c.op == raft.AddVoter && s.ID == c.server
		if votes && (c.op != raft.RemoveServer || s.ID != c.server) {
			voters = append(voters, s.ID)
		}
	}
	return voters
}

// isHere says whether a server is thought to be there: its node is, with the data
// directory that the map knows.
func (n *Node) isHere(m *sharding.Map, server raft.ServerID) bool {
	node, ok := m.Node(nodeOf(server))
	return ok && serverOf(node) == server && (server == n.self || n.gossip.alive(node.ID))
}

// stepAside hands a group's leadership to a voter that stays, which will take the
// next step.
func (n *Node) stepAside(ctx context.Context, r *replica, have []raft.Server, want []raft.ServerID) (did string, err error) {
	err = fmt.Errorf("%w for a voter to hand over to", errWaiting)
	for _, id := range want {
		if !slices.ContainsFunc(have, func(s raft.Server) bool { return s.ID == id && s.Suffrage == raft.Voter }) {
			continue
		}
		if err = n.caughtUp(ctx, r, id); err != nil {
			continue
		}
		return fmt.Sprintf("handing over to %s", id), r.handOver(ctx, id)
	}
	return "", err
}

// change makes one change and waits until it is committed. After any error it may
// have been made or not: the next step looks. The caller holds r.changing.
//
// raft would compare an index, so that a change is only made to the configuration
// it was meant for, but GetConfiguration does not tell the index (v1.7.3). While
// this replica leads nobody else changes it; and whatever is changed twice is only
// a server that the next step removes again.
func (r *replica) change(ctx context.Context, group *raft.Raft, c change) error {
	const anyIndex = 0
	r.proven = nil // the same servers may come back later, uncommitted
	r.pending.Add(1)
	done := make(chan error, 1)
	go func() {
		defer r.pending.Add(-1)
		var future raft.IndexFuture
		switch c.op {
		case raft.AddNonvoter:
			future = group.AddNonvoter(c.server, raft.ServerAddress(c.server), anyIndex, enqueueTimeout)
		case raft.AddVoter:
			future = group.AddVoter(c.server, raft.ServerAddress(c.server), anyIndex, enqueueTimeout)
		default:
			future = group.RemoveServer(c.server, anyIndex, enqueueTimeout)
		}
		err := future.Error() // may take as long as the group has no majority
		r.noteTransfer(err)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", c, context.Cause(ctx))
	}
}
