//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/kv"
)

const (
	soakJournal = 8 << 20
	// soakKeys is how many keys are written over and over, so that the data has a
	// size of its own and what grows is a leak.
	soakKeys    = 20_000
	soakCallers = 8
	soakBatch   = 50
	soakValue   = 4 << 10 // most bytes of an ordinary value
	soakLarge   = 1 << 20 // of a large one
	soakSample  = 10 * time.Second
	// soakRestart is how often a node is restarted, in turn killed and stopped.
	soakRestart = 30 * time.Second
	// soakGrowth is by how much the median of the last third of a series may be
	// above that of the middle one: compactions and garbage collection move them.
	soakGrowth = 1.25
)

// figures are what a node says of its own size.
type figures struct {
	journal, store, memory float64 // MiB
	goroutines, files      float64
}

var figureNames = []string{"journal MiB", "store MiB", "memory MiB", "goroutines", "open files"}

func (f figures) list() []float64 {
	return []float64{f.journal, f.store, f.memory, f.goroutines, f.files}
}

// soak is a run of mixed load with restarts.
type soak struct {
	t      *testing.T
	h      *harness
	series map[string][]figures // by node
}

// TestSoak runs mixed load with restarts on small journals for -soak, prints what
// each node holds, and wants it flat.
func TestSoak(t *testing.T) {
	if *soakTime == 0 {
		t.Skip("takes long: make soak, or -args -soak 30m")
	}
	s := &soak{t: t, series: make(map[string][]figures)}
	s.h = startNodesWith(t, func(cfg *cluster.Config) { cfg.JournalBytes = soakJournal })
	ctx, done := context.WithTimeout(t.Context(), *soakTime)
	defer done()
	all, ctx := errgroup.WithContext(ctx)
	var restarts int
	for i := range soakCallers {
		all.Go(func() error { return s.load(ctx, i) })
	}
	all.Go(func() (err error) { restarts, err = s.restart(ctx); return err })
	all.Go(func() error { return s.sample(ctx) })
	must(t, all.Wait())
	t.Logf("%v of load, %d restarts", *soakTime, restarts)
	asking := s.h.client(false)
	s.h.awaitWholeFor(asking, catchUpTime)
	s.h.sameHashes(asking)
	for _, p := range s.h.nodes {
		s.judge(p.Name)
	}
}

// load makes calls of all kinds until ctx ends. Each caller opens a client again
// now and then, so that sessions come and go.
func (s *soak) load(ctx context.Context, caller int) error {
	const callsOfAClient = 500
	random := rand.New(rand.NewPCG(uint64(caller), 1))
	for ctx.Err() == nil {
		c := s.h.client(caller%2 == 1)
		b := s.h.open(c)
		for range callsOfAClient {
			if err := s.call(ctx, b, random); ctx.Err() == nil && err != nil && !explained(err) && !errors.Is(err, kv.ErrConflict) {
				return err
			}
			if ctx.Err() != nil {
				break
			}
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

func soakKey(random *rand.Rand) string { return fmt.Sprintf("soak-%05d", random.IntN(soakKeys)) }

func soakBytes(random *rand.Rand, most int) []byte {
	b := make([]byte, 1+random.IntN(most))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// call makes one call.
func (s *soak) call(ctx context.Context, b *client.Bucket, random *rand.Rand) error {
	keys := make([]string, soakBatch)
	pairs := make([]kv.Pair, soakBatch)
	for i := range keys {
		keys[i] = soakKey(random)
		pairs[i] = kv.Pair{Key: keys[i], Value: soakBytes(random, soakValue)}
	}
	switch n := random.IntN(100); {
	case n < 40:
		return b.SetMany(ctx, pairs)
	case n < 75:
		_, err := b.GetMany(ctx, keys)
		return err
	case n < 80:
		return b.DeleteMany(ctx, keys)
	case n < 88:
		_, err := b.Increment(ctx, "soak-counter", 1)
		return err
	case n < 94:
		_, version, _, err := b.GetVersion(ctx, keys[0])
		if err == nil {
			_, err = b.CompareAndSwap(ctx, keys[0], version, pairs[0].Value)
		}
		return err
	case n < 98:
		_, _, err := b.ListKeys(ctx, random.Uint64())
		return err
	default:
		return b.Set(ctx, fmt.Sprintf("soak-large-%d", random.IntN(20)), soakBytes(random, soakLarge))
	}
}

// restart kills or stops one node after the other and starts it again.
func (s *soak) restart(ctx context.Context) (restarts int, err error) {
	tick := time.NewTicker(soakRestart)
	defer tick.Stop()
	for ; ; restarts++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return restarts, nil
		}
		p := s.h.nodes[restarts%nodeCount]
		if restarts%2 == 0 {
			err = Kill(p.Process)
		} else {
			err = p.Stop(2 * closeTime)
		}
		if err = errors.Join(err, p.Start()); err != nil {
			return restarts, err
		}
	}
}

// sample asks the nodes for their figures and prints them.
func (s *soak) sample(ctx context.Context) error {
	c := s.h.client(false)
	began := time.Now()
	tick := time.NewTicker(soakSample)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		nodes, err := c.Status(ctx)
		if err != nil {
			continue // the nodes of a map are asked: it fails only with ctx
		}
		line := fmt.Sprintf("%6s", time.Since(began).Round(time.Second))
		for _, n := range nodes {
			if n.Status == nil {
				line += fmt.Sprintf(" | %s away%43s", n.Node, "")
				continue
			}
			f := figures{
				journal: mib(n.Status.JournalBytes), store: mib(n.Status.StoreBytes), memory: mib(n.Status.MemoryBytes),
				goroutines: float64(n.Status.Goroutines), files: float64(n.Status.OpenFiles),
			}
			s.series[string(n.Node)] = append(s.series[string(n.Node)], f)
			line += fmt.Sprintf(" | %s journal %4.0f store %4.0f mem %4.0f gor %4.0f fd %3.0f", n.Node, f.journal, f.store, f.memory, f.goroutines, f.files)
		}
		s.t.Log(line)
	}
}

func mib[T int64 | uint64](n T) float64 { return float64(n) / (1 << 20) }

// judge wants a node's series flat: the last third no higher than the middle one.
func (s *soak) judge(node string) {
	series := s.series[node]
	const least = 9 // three in each third
	if len(series) < least {
		s.t.Errorf("%s: %d samples, want %d: too short a run to judge", node, len(series), least)
		return
	}
	third := len(series) / 3
	for i, name := range figureNames {
		middle, last := median(series[third:2*third], i), median(series[2*third:], i)
		verdict := "flat"
		if last > soakGrowth*middle+1 {
			verdict = "GROWS"
			s.t.Errorf("%s: %s grew from %.0f to %.0f", node, name, middle, last)
		}
		s.t.Logf("%s: %-12s middle third %6.0f, last third %6.0f: %s", node, name, middle, last, verdict)
	}
}

func median(series []figures, figure int) float64 {
	var values []float64
	for _, f := range series {
		values = append(values, f.list()[figure])
	}
	slices.Sort(values)
	return values[len(values)/2]
}
