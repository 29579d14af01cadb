package cluster

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/sharding"
)

// tenureOf wants a shard's tenure to be recorded.
func tenureOf(t *testing.T, n *Node, s sharding.Shard, want tenure) {
	t.Helper()
	got, err := readTenure(n.votes.Shard(uint32(s)))
	must(t, err)
	if got != want {
		t.Errorf("shard %d: tenure %d, want %d", s, got, want)
	}
}

// A replica that was dropped keeps what it has promised, and begins as a newcomer
// when it comes back, also if the drop was interrupted.
func TestDroppedReplicaComesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	bucket(t, c.client(c.clientConfig()), "files")
	n := c.nodes[0]
	const s = sharding.Shard(77)
	g := sharding.Group{Shard: s, Generation: 1, Replicas: []sharding.NodeID{"n1"}}
	data, err := n.store.Data(s)
	must(t, err)
	r := n.lone(&g, data)
	must(t, r.open())
	eventually(t, 10*time.Second, func() string {
		if r.machine.Position().LeadTerm == 0 {
			return "no leader"
		}
		return ""
	})
	tenureOf(t, n, s, tenureFull)
	must(t, r.close())
	term, err := r.votes.GetUint64(currentTerm)
	must(t, err)
	must(t, n.drop(s))
	tenureOf(t, n, s, tenureNewcomer)

	comeBack := func() *replica {
		data, err := n.store.Data(s)
		must(t, err)
		if at := data.Position().Index; at != 0 {
			t.Errorf("the state is at entry %d", at)
		}
		r := n.lone(&g, data) // it founded the group once
		must(t, r.open())
		if last, err := r.logs.LastIndex(); err != nil || last != 0 {
			t.Errorf("the log ends at %d, %v: want none", last, err)
		}
		if got, err := r.votes.GetUint64(currentTerm); err != nil || got < term {
			t.Errorf("term %d, %v: it has promised %d", got, err, term)
		}
		if !r.newcomer.Load() || r.raft.Load().ReloadableConfig().ElectionTimeout != neverStands {
			t.Error("it is no newcomer")
		}
		must(t, r.close())
		return r
	}
	comeBack()

	// A crash after the log was dropped: the next opening finishes it.
	must(t, tenureLeaving.record(r.votes))
	must(t, n.logs.Shard(uint32(s)).StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogNoop}))
	must(t, n.openReplica(&g))
	tenureOf(t, n, s, tenureNewcomer)
	must(t, n.closeReplica(s))
	comeBack()
}

// Only one that never wrote anything is a newcomer: a log that was lost is not the
// log of a newcomer.
func TestWhoIsANewcomer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	bucket(t, c.client(c.clientConfig()), "files")
	n := c.nodes[0]
	s := sharding.Shard(80)
	fresh := func() *replica {
		s++
		data, err := n.store.Data(s)
		must(t, err)
		return n.newReplica(&sharding.Group{Shard: s, Generation: 5}, data) // no founder of it
	}
	r := fresh()
	must(t, errors.Join(r.prepareTenure(), r.prepareLog()))
	if !r.newcomer.Load() {
		t.Error("one without anything is no newcomer")
	}
	must(t, errors.Join(r.prepareTenure(), r.prepareLog())) // and again after a restart
	if !r.newcomer.Load() {
		t.Error("a newcomer is none after a restart")
	}
	r = fresh()
	must(t, r.votes.SetUint64(currentTerm, 4))
	if err := errors.Join(r.prepareTenure(), r.prepareLog()); r.newcomer.Load() || !errors.Is(err, errQuarantined) {
		t.Errorf("one that has a term and no log: newcomer %v, %v", r.newcomer.Load(), err)
	}
	r = fresh()
	must(t, errors.Join(r.prepareTenure(), tenureFull.record(r.votes), r.votes.SetUint64(currentTerm, 4)))
	if err := errors.Join(r.prepareTenure(), r.prepareLog()); r.newcomer.Load() || !errors.Is(err, errQuarantined) {
		t.Errorf("one that was full and has lost its log: newcomer %v, %v", r.newcomer.Load(), err)
	}
}

// What was to be dropped stays, and goes on as it was, if the map that is confirmed
// after its replica was closed places it here.
func TestShedLooksAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	b := bucket(t, c.client(c.clientConfig()), "files")
	pairs := somePairs(100, "before")
	must(t, b.SetMany(t.Context(), pairs))
	n := c.nodes[0]
	const s = sharding.Shard(1)
	before := n.replica(s)
	if done, err := n.shedShard(s); !done || err != nil {
		t.Errorf("shed: %v, %v, want true", done, err)
	}
	if r := n.replica(s); r == nil || r == before || before.raft.Load() != nil {
		t.Errorf("the replica was not closed and opened again: %p, %p before", r, before)
	}
	tenureOf(t, n, s, tenureFull)
	expect(t, "afterwards", b, pairs)
}

// A state whose log is gone is found, too.
func TestHeldWithoutALog(t *testing.T) {
	t.Parallel()
	n, r := alone(t, 77)
	r.data.Apply([]fsm.Entry{{Index: 3, Term: 1}})
	if here, err := n.held(); err != nil || !slices.Contains(here, 77) || !slices.Contains(here, 1) {
		t.Errorf("here are %v, %v: want 1 and 77 among them", here, err)
	}
}

// A catalogue that is dropped in the middle of a read has no bucket, and says
// nothing about the cluster's.
func TestCatalogueIsDroppedWhileItIsRead(t *testing.T) {
	t.Parallel()
	n, _ := alone(t, 77)
	meta := n.replica(sharding.Meta)
	for _, q := range []coordinator.BucketRequest{{Op: coordinator.BucketList}, {Op: coordinator.BucketOpen, Name: "files"}} {
		if a, err := n.lookUp(meta, q); err != nil || a.ID == 0 && len(a.Names) == 0 {
			t.Errorf("%+v: %+v, %v", q, a, err)
		}
	}
	must(t, n.drop(sharding.Meta))
	for _, q := range []coordinator.BucketRequest{{Op: coordinator.BucketList}, {Op: coordinator.BucketOpen, Name: "files"}} {
		if a, err := n.lookUp(meta, q); !errors.Is(err, errNotLeader) {
			t.Errorf("%+v after a drop: %+v, %v, want errNotLeader", q, a, err)
		}
	}
}
