package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sharding"
)

// fakeShard is a replica as the confirmer sees it.
type fakeShard struct {
	shard sharding.Shard
	nodes []raft.ServerID
	mu    sync.Mutex
	at    standing
}

func (f *fakeShard) number() sharding.Shard  { return f.shard }
func (f *fakeShard) voters() []raft.ServerID { f.mu.Lock(); defer f.mu.Unlock(); return f.nodes }
func (f *fakeShard) standing() standing      { f.mu.Lock(); defer f.mu.Unlock(); return f.at }
func (f *fakeShard) set(at standing)         { f.mu.Lock(); defer f.mu.Unlock(); f.at = at }
func (f *fakeShard) reconfigure(voters ...raft.ServerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = voters
}

// message is one message to a peer that waits for the test's answer.
type message struct {
	peer   raft.ServerID
	asks   []ask
	answer chan []bool // closed: the peer does not answer
}

// post is a network whose messages the test answers by hand.
type post chan message

func (p post) call(ctx context.Context, peer raft.ServerID, asks []ask) ([]bool, error) {
	m := message{peer, asks, make(chan []bool, 1)}
	select {
	case p <- m:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a, ok := <-m.answer:
		if !ok {
			return nil, errors.New("no answer")
		}
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// from takes the next message of each of the given peers, in any order.
func (p post) from(t *testing.T, peers ...raft.ServerID) map[raft.ServerID]message {
	t.Helper()
	got := make(map[raft.ServerID]message)
	for range peers {
		m := <-p
		got[m.peer] = m
	}
	for _, id := range peers {
		if _, ok := got[id]; !ok {
			t.Fatalf("no message to %s", id)
		}
	}
	return got
}

func three(term, commit uint64) *fakeShard {
	return &fakeShard{shard: 1, nodes: []raft.ServerID{"a", "b", "c"}, at: standing{leading: true, term: term, leadTerm: term, commit: commit}}
}

// confirmerTest runs a story in a bubble of synthetic time.
func confirmerTest(t *testing.T, story func(t *testing.T, c *confirmer, p post)) {
	synctest.Test(t, func(t *testing.T) {
		p := make(post)
		c := newConfirmer("a", p.call)
		defer c.close()
		story(t, c, p)
	})
}

func ended(k *confirmation) bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

func TestOneVoterMakesAMajority(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		k := c.begin(three(4, 17))
		m := p.from(t, "b", "c")
		m["b"].answer <- []bool{true}
		index, err := k.wait(t.Context())
		if err != nil || index != 17 {
			t.Errorf("index %d, %v; want 17", index, err)
		}
		m["c"].answer <- []bool{false}
	})
}

// An answer to a message that was made before the read began must not confirm
// it: that is how a paused leader serves stale reads with raft.VerifyLeader.
func TestEarlierMessageDoesNotConfirm(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		shard := three(4, 17)
		first := c.begin(shard)
		early := p.from(t, "b", "c")
		shard.set(standing{leading: true, term: 4, leadTerm: 4, commit: 18})
		second := c.begin(shard)
		early["b"].answer <- []bool{true}
		early["c"].answer <- []bool{true}
		if index, err := first.wait(t.Context()); err != nil || index != 17 {
			t.Fatalf("first: %d, %v; want 17", index, err)
		}
		late := p.from(t, "b", "c")
		synctest.Wait()
		if ended(second) {
			t.Fatal("the second read was confirmed by answers to earlier messages")
		}
		late["b"].answer <- []bool{false}
		late["c"].answer <- []bool{false}
		if _, err := second.wait(t.Context()); !errors.Is(err, errUnconfirmed) {
			t.Errorf("second: %v, want %v", err, errUnconfirmed)
		}
	})
}

// A read that arrives before the first message is made shares it, and the index
// is taken after it arrived.
func TestReadsShareAConfirmation(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		shard := three(4, 17)
		busy := c.begin(&fakeShard{shard: 2, nodes: shard.nodes, at: standing{leading: true, term: 9, leadTerm: 9}})
		blocked := p.from(t, "b", "c") // both peers are busy: nothing further is sent
		first := c.begin(shard)
		shard.set(standing{leading: true, term: 4, leadTerm: 4, commit: 30})
		if second := c.begin(shard); second != first {
			t.Fatal("two confirmations for reads that no message separates")
		}
		for _, m := range blocked {
			m.answer <- []bool{true}
		}
		for _, m := range p.from(t, "b", "c") {
			m.answer <- []bool{true}
		}
		if index, err := first.wait(t.Context()); err != nil || index != 30 {
			t.Errorf("index %d, %v; want 30", index, err)
		}
		if _, err := busy.wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestOneMessageCarriesAllShards(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		c.begin(three(1, 1))
		blocked := p.from(t, "b", "c")
		var waiting []*confirmation
		for s := sharding.Shard(2); s < 8; s++ {
			shard := three(uint64(s), uint64(100*s))
			shard.shard = s
			waiting = append(waiting, c.begin(shard))
		}
		for _, m := range blocked {
			m.answer <- []bool{true}
		}
		m := p.from(t, "b", "c")
		if n := len(m["b"].asks); n != len(waiting) {
			t.Fatalf("the message asks for %d shards, want %d", n, len(waiting))
		}
		m["b"].answer <- []bool{true, true, true, false, true, true}
		close(m["c"].answer)
		for i, k := range waiting {
			_, err := k.wait(t.Context())
			if (i == 3) != errors.Is(err, errUnconfirmed) {
				t.Errorf("shard %d: %v", i+2, err)
			}
		}
	})
}

func TestNobodyAnswers(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		start := time.Now()
		k := c.begin(three(4, 17))
		p.from(t, "b", "c")
		if _, err := k.wait(t.Context()); !errors.Is(err, errUnconfirmed) {
			t.Errorf("%v, want %v", err, errUnconfirmed)
		}
		if waited := time.Since(start); waited != confirmTimeout {
			t.Errorf("waited %v, want %v", waited, confirmTimeout)
		}
	})
}

func TestWhoMayNotConfirm(t *testing.T) {
	for _, c := range []struct {
		name string
		at   standing
		want error
	}{
		{"a follower", standing{term: 4, leadTerm: 4}, errNotLeader},
		{"a leader without an entry of its term", standing{leading: true, term: 4, leadTerm: 3}, errNotReady},
	} {
		t.Run(c.name, func(t *testing.T) {
			confirmerTest(t, func(t *testing.T, cf *confirmer, _ post) {
				shard := three(4, 17)
				shard.nodes = []raft.ServerID{"a"}
				shard.at = c.at
				if _, err := cf.begin(shard).wait(t.Context()); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			})
		})
	}
}

// A leader deposed between the arrival of a read and its message must notice.
func TestDeposedBeforeTheMessage(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		other := three(9, 1)
		other.shard = 2
		c.begin(other)
		blocked := p.from(t, "b", "c")
		shard := three(4, 17)
		k := c.begin(shard)
		shard.set(standing{term: 5, leadTerm: 4})
		for _, m := range blocked {
			m.answer <- []bool{true}
		}
		if _, err := k.wait(t.Context()); !errors.Is(err, errNotLeader) {
			t.Errorf("%v, want %v", err, errNotLeader)
		}
	})
}

// The voters of a configuration that is not the newest any more say nothing about
// elections under a later one.
func TestReconfiguredBeforeTheMessage(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		other := three(9, 1)
		other.shard = 2
		c.begin(other)
		blocked := p.from(t, "b", "c")
		shard := three(4, 17)
		k := c.begin(shard)
		shard.reconfigure("a", "c", "d")
		for _, m := range blocked {
			m.answer <- []bool{true}
		}
		if _, err := k.wait(t.Context()); !errors.Is(err, errUnconfirmed) {
			t.Errorf("%v, want %v", err, errUnconfirmed)
		}
	})
}

// A leader that is no voter itself, because it is about to leave, needs a
// majority of the others.
func TestLeaderWithoutAVote(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		shard := three(4, 17)
		shard.reconfigure("b", "c")
		k := c.begin(shard)
		m := p.from(t, "b", "c")
		m["b"].answer <- []bool{true}
		synctest.Wait()
		if ended(k) {
			t.Fatal("one of two voters is no majority")
		}
		m["c"].answer <- []bool{true}
		if _, err := k.wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestFiveVotersNeedTwoAnswers(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, p post) {
		shard := three(4, 17)
		shard.nodes = []raft.ServerID{"a", "b", "c", "d", "e"}
		k := c.begin(shard)
		m := p.from(t, "b", "c", "d", "e")
		m["b"].answer <- []bool{true}
		synctest.Wait()
		if ended(k) {
			t.Fatal("two of five are no majority")
		}
		m["c"].answer <- []bool{false}
		m["d"].answer <- []bool{true}
		if _, err := k.wait(t.Context()); err != nil {
			t.Error(err)
		}
		close(m["e"].answer)
	})
}

func TestSingleVoter(t *testing.T) {
	confirmerTest(t, func(t *testing.T, c *confirmer, _ post) {
		shard := three(4, 17)
		shard.nodes = []raft.ServerID{"a"}
		if index, err := c.begin(shard).wait(t.Context()); err != nil || index != 17 {
			t.Errorf("%d, %v", index, err)
		}
	})
}
