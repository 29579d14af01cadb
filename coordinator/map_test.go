package coordinator

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Without a map there is nobody to ask; one that comes is used.
func TestTheFirstMap(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 6, 3)
		asked := 0
		f.fetchMap = func(context.Context, uint64) (*sharding.Map, error) {
			switch asked++; {
			case asked < 3:
				return nil, errNetwork
			case asked < 6:
				return nil, nil
			default:
				return f.m, nil
			}
		}
		c := f.coordinator(kv.Limits{})
		session := c.NewSession()
		if c.Map() != nil || c.Leader(1) != "" {
			t.Fatalf("map %v and leader %q before anything was asked", c.Map(), c.Leader(1))
		}
		must(t, session.SetMany(ctx, testBucket, pairsOf(someKeys(10), "1")))
		if c.Map() != f.m || c.Leader(1) != f.leader(1) {
			t.Errorf("map %v, leader %q", c.Map(), c.Leader(1))
		}

		f.fetchMap = func(context.Context, uint64) (*sharding.Map, error) { return nil, errNetwork }
		err := f.client(kv.Limits{}).SetMany(ctx, testBucket, pairsOf(someKeys(10), "1"))
		checkClass(t, "write", err, kv.ErrUnavailable)
		if !errors.Is(err, errNetwork) || len(f.seenBy("")) > 6 {
			t.Errorf("%v, after %d requests", err, len(f.seenBy("")))
		}
	})
}

// A map that came with an answer is used at once, without asking for one.
func TestAMapThatCameIsUsed(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 6, 3)
		c := f.coordinator(kv.Limits{})
		session := c.NewSession()
		c.UseMap(f.m)
		f.m = foundMap(2, 3, 4, 3)
		f.fetchMap = func(context.Context, uint64) (*sharding.Map, error) {
			t.Error("somebody was asked for a map")
			return nil, errNetwork
		}
		began := time.Now()
		must(t, session.SetMany(ctx, testBucket, pairsOf(someKeys(60), "1")))
		if n := len(f.seenBy("")); n != 6 || c.Map() == nil || c.Map().Epoch != 2 || time.Since(began) != 0 {
			t.Errorf("%d requests in %v, the map is of epoch %d; want 6 in no time, 2", n, time.Since(began), c.Map().Epoch)
		}
		c.UseMap(foundMap(1, 1, 1, 1))
		if c.Map().Epoch != 2 {
			t.Errorf("an older map replaced it")
		}
	})
}

// Items that do not match the keys are no answer: not values of other keys, and
// not missing ones.
func TestItemsMustMatchTheKeys(t *testing.T) {
	for _, items := range []int{0, 3} {
		f := newFake(1, 1, 1)
		cfg := f.config("")
		cfg.Call = func(context.Context, sharding.NodeID, byte, []byte) ([]byte, error) {
			w := NewAnswer(nil, nil, 1)
			w.OpenPart(&PartAnswer{Shard: 1})
			for range items {
				w.Missing()
			}
			w.ClosePart()
			return w.Bytes(), nil
		}
		c, err := New(cfg)
		must(t, err)
		pairs, err := c.GetMany(t.Context(), testBucket, []string{"a", "b"})
		if !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%d items for 2 keys: %v, %v", items, pairs, err)
		}
	}
}

// When all nodes of the map are gone, somebody else may have a newer one.
func TestAMapIsLookedForWhenNobodyAnswers(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 6, 3)
		c := f.coordinator(kv.Limits{})
		session := c.NewSession()
		c.UseMap(foundMap(1, 1, 1, 1))
		f.m = foundMap(2, 3, 6, 3)
		f.will("n1", notSent, notSent, notSent)
		must(t, session.SetMany(ctx, testBucket, pairsOf(someKeys(60), "1")))
		if n := len(f.seenBy("n1")); n != 4 || c.Map().Epoch != 2 {
			t.Errorf("the lost node was asked %d times, the map is of epoch %d; want 4 and 2", n, c.Map().Epoch)
		}
	})
}
