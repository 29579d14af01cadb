package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// A node that hangs does not use up a read's time: each time it is given up for
// another replica. Quick rounds before do not make it wait longer.
func TestReadsMoveOnFromANodeThatHangs(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		f.data["a"] = "1"
		replicas := f.m.Groups[0].Replicas
		f.leads = 2
		f.will(replicas[0], pointsNowhere, hungBefore)
		f.will(replicas[1], pointsNowhere, hungBefore)
		f.will(replicas[2], pointsNowhere)
		began := time.Now()
		pairs, err := f.coordinator(kv.Limits{}).GetMany(ctx, testBucket, []string{"a"})
		if err != nil || string(pairs[0].Value) != "1" {
			t.Fatalf("read %v, %v", pairs, err)
		}
		// 2 s for the first that hangs, 4 s for the second, a few pauses.
		if took := time.Since(began); took < 6*time.Second || took > 7*time.Second {
			t.Errorf("took %v, want 6 to 7 s", took)
		}
	})
}

// When the caller's own end is closed, nothing will ever be sent again.
func TestACoordinatorWhoseTransportIsClosed(t *testing.T) {
	for fate, want := range map[fate]error{closed: kv.ErrUnavailable, lostClosed: kv.ErrUnknown} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(3, 1, 3)
			f.always = fate
			c := f.coordinator(kv.Limits{})
			session := c.NewSession()
			began := time.Now()
			_, err := c.GetMany(ctx, testBucket, []string{"a"})
			checkClass(t, "read", err, kv.ErrUnavailable)
			checkClass(t, "write", session.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")), want)
			_, err = c.ListBuckets(ctx)
			checkClass(t, "list", err, kv.ErrUnavailable)
			checkClass(t, "create", c.CreateBucket(ctx, "one"), want)
			if took := time.Since(began); took != 0 || !errors.Is(err, transport.ErrClosed) {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}

// A write moves on from a node that cannot be reached: another may lead by now.
func TestWritesMoveOnFromADeadNode(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		replicas := f.m.Groups[0].Replicas
		f.leads = 1
		f.will(replicas[0], notConnected)
		began := time.Now()
		must(t, f.client(kv.Limits{}).SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")))
		if took := time.Since(began); len(f.seenBy("")) != 2 || took > 2*connectWait {
			t.Errorf("%d requests in %v, want 2 in at most %v", len(f.seenBy("")), took, 2*connectWait)
		}
	})
}

// A write that is merely slow is asked for again, twice as late as a read and each
// time later, and applied once.
func TestSlowWritesAreAskedForAgain(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		f.slowly = 11 * time.Second
		must(t, f.client(kv.Limits{}).SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")))
		requests := f.seenBy("")
		if got := pauses(requests); len(got) != 2 || got[0] < 4*time.Second || got[0] > 5*time.Second || got[1] < 8*time.Second || got[1] > 9*time.Second {
			t.Errorf("asked again after %v, want 4 s and 8 s", got)
		}
		if n := f.count(write{"a", "1"}); n != 1 {
			t.Errorf("it was applied %d times", n)
		}
	})
}

// A leader that says in time that it does not know yet is given more time.
func TestUnfinishedWritesGetMoreTime(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		f.will("n1", restLost, restLost)
		f.enter = func(ctx context.Context, _ sharding.NodeID) {
			at, _ := ctx.Deadline()
			sleep(ctx, time.Until(at)*9/10)
		}
		u := f.client(kv.Limits{EntryBytes: kv.CommandOverhead + 1}) // every pair alone
		must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a", "b", "c"}, "1")))
		if got := pauses(f.seenBy("")); len(got) != 2 || got[0] > 4*time.Second || got[1] < 7*time.Second || got[1] > 8*time.Second {
			t.Errorf("asked again after %v, want about 3.6 s and 7.2 s", got)
		}
	})
}

// A leader that hangs after it took a write, and one that dies, do not use up the
// time: another applies it, once, whatever the first one still does.
func TestWritesMoveOnFromALeaderThatHangs(t *testing.T) {
	for _, fate := range []fate{hungBefore, hungAfter, diesProposing, lostLater} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(3, 1, 3)
			f.will(f.leader(1), fate)
			f.leads = 1
			c := f.client(kv.Limits{})
			began := time.Now()
			n, err := c.Increment(ctx, testBucket, "n", 3)
			f.arrive()
			if took := time.Since(began); err != nil || n != 3 || f.data["n"] != "3" || took > 5*time.Second {
				t.Errorf("fate %d: the sum is %d, %v after %v; the data is %q", fate, n, err, took, f.data)
			}
		})
	}
}

// A node's own replica that does not answer is not asked again.
func TestANodeWhoseReplicaHangsReadsElsewhere(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		f.data["a"] = "1"
		f.leads = 1
		self := f.m.Groups[0].Replicas[0]
		f.will(self, slices.Repeat([]fate{hungBefore}, 100)...)
		_, err := f.node(self, kv.Limits{}).GetMany(ctx, testBucket, []string{"a"})
		must(t, err)
		if n := len(f.seenBy(self)); n > 2 { // once for itself, perhaps once as the leader it was thought to be
			t.Errorf("the own replica was asked %d times", n)
		}
	})
}

// A node whose own replica is too far behind asks the leader; when that turns
// out to be the node itself, it is asked as such.
func TestANodeWhoseReplicaIsBehindAsksTheLeader(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		self, other := f.m.Groups[0].Replicas[0], f.m.Groups[0].Replicas[1]
		f.will(self, pointsWrong) // at the other one
		f.leads = 2
		f.will(other, pointsRight)
		_, err := f.node(self, kv.Limits{}).GetMany(ctx, testBucket, []string{"a"})
		must(t, err)
		f.leads = 0
		f.will(self, pointsWrong)
		_, err = f.node(self, kv.Limits{}).GetMany(ctx, testBucket, []string{"a"})
		must(t, err)
		var got []string
		for _, s := range f.seenBy("") {
			got = append(got, fmt.Sprint(s.node, s.q.AnyReplica))
		}
		third := f.m.Groups[0].Replicas[2]
		want := []string{
			fmt.Sprint(self, true), fmt.Sprint(other, false), fmt.Sprint(third, false),
			fmt.Sprint(self, true), fmt.Sprint(other, false), fmt.Sprint(self, false),
		}
		if !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
	})
}

// A node reads its own replicas, and says that it may follow; what it has no
// replica of it asks the leader, as a client does everything.
func TestWhereReadsGo(t *testing.T) {
	f := newFake(4, 8, 2)
	keys := someKeys(80)
	for _, self := range []sharding.NodeID{"", "n2"} {
		f.requests = nil
		_, err := f.node(self, kv.Limits{}).GetMany(t.Context(), testBucket, keys)
		must(t, err)
		for _, s := range f.seenBy("") {
			if s.q.AnyReplica != (s.node == self) {
				t.Errorf("self %q, node %s: any replica is %v", self, s.node, s.q.AnyReplica)
			}
			for i := range s.q.Parts {
				shard := s.q.Parts[i].Shard
				want := f.leader(shard)
				if self != "" && slices.Contains(f.m.Group(shard).Replicas, self) {
					want = self
				}
				if s.node != want {
					t.Errorf("self %q: shard %d was read from %s, want %s", self, shard, s.node, want)
				}
			}
		}
	}
}
