package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// brokenMachine applies nothing, as one whose disk failed.
type brokenMachine struct{ asked chan struct{} }

func (m brokenMachine) Apply(entries []fsm.Entry) []fsm.Result {
	results := make([]fsm.Result, len(entries))
	for i, e := range entries {
		results[i].Err = fsm.ErrClosed
		if kind, _, err := kv.Header(e.Command); err == nil && kind == kv.KindLead {
			select {
			case m.asked <- struct{}{}:
			default:
			}
		}
	}
	return results
}

func (brokenMachine) Position() fsm.Position             { return fsm.Position{} }
func (brokenMachine) Time() uint64                       { return 0 }
func (brokenMachine) Stream() (*fsm.Stream, error)       { return nil, fsm.ErrClosed }
func (brokenMachine) Wait(context.Context, uint64) error { return nil }
func (brokenMachine) Hash(context.Context) (fsm.StateHash, error) {
	return fsm.StateHash{}, fsm.ErrClosed
}

// A leader whose machine fails must neither fill the log with announcements nor
// keep the replica from being closed.
func TestLeaderWithABrokenMachine(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	bucket(t, c.client(c.clientConfig()), "files")
	n := c.nodes[0]
	m := brokenMachine{make(chan struct{})}
	g := sharding.Group{Shard: 80, Generation: 1, Replicas: []sharding.NodeID{"n1"}}
	r := n.lone(&g, m)
	must(t, r.open())
	<-m.asked
	start := time.Now()
	const times = 5
	for range times {
		<-m.asked
	}
	if took := time.Since(start); took < (times-1)*announceRetry {
		t.Errorf("%d announcements in %v, want %v between two", times, took, announceRetry)
	}
	must(t, r.close())
}

// After a failed write Close must not wait for anything that may hang in one.
func TestCloseAfterAFailedWrite(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	bucket(t, c.client(c.clientConfig()), "files")
	n := c.nodes[0]
	c.nodes[0] = nil
	hung := make(chan struct{})
	n.control.Go(func() { <-hung }) // what waits for the disk
	broken := errors.New("the disk is gone")
	n.failDisk(broken)
	select {
	case <-n.Done():
	default:
		t.Error("a failed write does not stop the node")
	}
	if err := n.Err(); !errors.Is(err, broken) {
		t.Errorf("the node stopped because of %v, want %v", err, broken)
	}
	must(t, n.Close(t.Context()))
	close(hung) // the process would have ended; the test cleans up after it
	n.control.Wait()
	must(t, n.closeAll())
}
