package coordinator

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// catalogue is what both a Coordinator and a Through offer.
type catalogue interface {
	OpenBucket(ctx context.Context, name string) (uint64, error)
	CreateBucket(ctx context.Context, name string) error
	DeleteBucket(ctx context.Context, name string) error
	ListBuckets(ctx context.Context) ([]string, error)
}

// eachCatalogue runs a test with a coordinator and with one behind a node.
func eachCatalogue(t *testing.T, test func(t *testing.T, ctx context.Context, f *fakeCluster, c catalogue)) {
	t.Run("coordinator", func(t *testing.T) {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(3, 1, 3)
			test(t, ctx, f, f.coordinator(kv.Limits{}))
		})
	})
	t.Run("through", func(t *testing.T) {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(3, 1, 3)
			test(t, ctx, f, &Through{Call: (&between{f: f, nodes: []*Coordinator{f.node("n1", kv.Limits{})}}).call})
		})
	})
}

func TestBuckets(t *testing.T) {
	eachCatalogue(t, func(t *testing.T, ctx context.Context, f *fakeCluster, c catalogue) {
		f.leads = 1 // a redirect away
		must(t, c.CreateBucket(ctx, "one"))
		must(t, c.CreateBucket(ctx, "two"))
		id, err := c.OpenBucket(ctx, "two")
		if err != nil || id != 2 {
			t.Errorf("bucket two is %d, %v, want 2", id, err)
		}
		names, err := c.ListBuckets(ctx)
		if err != nil || !slices.Equal(names, []string{"one", "two"}) {
			t.Errorf("buckets %q, %v", names, err)
		}
		checkClass(t, "create it again", c.CreateBucket(ctx, "two"), kv.ErrExists)
		_, err = c.OpenBucket(ctx, "three")
		checkClass(t, "open what is not there", err, kv.ErrNoSuchStore)

		must(t, c.DeleteBucket(ctx, "two"))
		checkClass(t, "delete it again", c.DeleteBucket(ctx, "two"), kv.ErrNoSuchStore)
		must(t, c.CreateBucket(ctx, "two"))
		if id, err := c.OpenBucket(ctx, "two"); err != nil || id != 3 {
			t.Errorf("the new bucket two is %d, %v, want 3", id, err)
		}

		f.requests = nil
		for _, name := range []string{"", "a:b", "\xff"} {
			checkClass(t, "create "+name, c.CreateBucket(ctx, name), kv.ErrInvalid)
			checkClass(t, "delete "+name, c.DeleteBucket(ctx, name), kv.ErrInvalid)
			_, err := c.OpenBucket(ctx, name)
			checkClass(t, "open "+name, err, kv.ErrInvalid)
		}
		if n := len(f.seenBy("")); n > 0 {
			t.Errorf("%d requests about bad names", n)
		}
	})
}

// What callers see when the meta group does the same thing for ever.
func TestEveryFaultOfTheCatalogueHasItsClass(t *testing.T) {
	for _, c := range []struct {
		name         string
		fate         fate
		open, create error
		made         bool // the bucket
	}{
		{"nothing can be sent", notSent, kv.ErrUnavailable, kv.ErrUnavailable, false},
		{"nobody can be reached", notConnected, kv.ErrUnavailable, kv.ErrUnavailable, false},
		{"lost on the way there", lostBefore, kv.ErrUnavailable, kv.ErrUnknown, false},
		{"lost on the way back", lostAfter, kv.ErrUnavailable, kv.ErrUnknown, true},
		{"no answer", hungBefore, kv.ErrUnavailable, kv.ErrUnknown, false},
		{"access denied", deniedCall, kv.ErrAccessDenied, kv.ErrAccessDenied, false},
		{"a handler fails after", failedAfter, kv.ErrUnavailable, kv.ErrUnknown, true},
		{"garbage", garbage, kv.ErrUnavailable, kv.ErrUnknown, false},
		{"nobody leads", pointsNowhere, kv.ErrUnavailable, kv.ErrUnavailable, false},
		{"leaders point at strangers", pointsAway, kv.ErrUnavailable, kv.ErrUnavailable, false},
		{"a node without a map", mapIsNew, kv.ErrUnavailable, kv.ErrUnavailable, false},
		{"invalid", partInvalid, kv.ErrInvalid, kv.ErrInvalid, false},
		{"a code of a later version", partUnknownCode, kv.ErrUnavailable, kv.ErrUnknown, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachCatalogue(t, func(t *testing.T, ctx context.Context, f *fakeCluster, cat catalogue) {
				f.always = c.fate
				checkClass(t, "create", cat.CreateBucket(ctx, "one"), c.create)
				if got := slices.Contains(f.buckets, "one"); got != c.made {
					t.Errorf("the bucket was made: %v, want %v", got, c.made)
				}
				if c.create == kv.ErrUnknown && len(f.seenBy("")) != 1 { // one of the table's
					t.Errorf("a create of unknown outcome was sent %d times", len(f.seenBy("")))
				}
				ctx, cancel := context.WithTimeout(t.Context(), callTime)
				defer cancel()
				_, err := cat.OpenBucket(ctx, "one")
				checkClass(t, "open", err, c.open)
			})
		})
	}
}

// What passes by itself is not seen by the caller.
func TestTheMetaLeaderIsFound(t *testing.T) {
	eachCatalogue(t, func(t *testing.T, ctx context.Context, f *fakeCluster, c catalogue) {
		for i, id := range []sharding.NodeID{"n1", "n2", "n3"} {
			f.will(id, []fate{notSent, pointsNowhere, pointsAway}[i], partBusy, pointsRight, pointsBack, mapIsNew)
		}
		must(t, c.CreateBucket(ctx, "one"))
		for _, id := range []sharding.NodeID{"n1", "n2", "n3"} {
			f.will(id, lostBefore, hungBefore, garbage, partBusy)
		}
		if id, err := c.OpenBucket(ctx, "one"); err != nil || id != 1 {
			t.Errorf("bucket one is %d, %v", id, err)
		}
		if len(f.buckets) != 1 {
			t.Errorf("buckets %q", f.buckets)
		}
	})
}

// Redirects in a circle are an election, and get their pauses.
func TestBucketRedirectsAreFollowedAtOnceTwice(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		f.always = pointsRight // each has just lost the lead to the next
		_, err := f.coordinator(kv.Limits{}).ListBuckets(ctx)
		checkClass(t, "list", err, kv.ErrUnavailable)
		got := pauses(f.seenBy(""))
		if most := int(callTime / lastBackoff * 3 / 2); len(got) > most || got[0] != 0 || got[1] != 0 || got[2] < firstBackoff {
			t.Errorf("%d requests with pauses of %v …, want at most %d, and a pause after two redirects", len(got), got[:3], most)
		}
	})
}

// The answer of a node in between is judged like any other.
func TestBucketsThroughANodeThatFails(t *testing.T) {
	for _, c := range []struct {
		name         string
		fate         fate
		list, create error
	}{
		{"not sent", notSent, kv.ErrUnavailable, kv.ErrUnavailable},
		{"lost", lostAfter, kv.ErrUnavailable, kv.ErrUnknown},
		{"over budget", refusedCall, kv.ErrBusy, kv.ErrBusy},
		{"access denied", deniedCall, kv.ErrAccessDenied, kv.ErrAccessDenied},
		{"failed", failedAfter, kv.ErrUnavailable, kv.ErrUnknown},
		{"garbage", garbage, kv.ErrUnavailable, kv.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(3, 1, 3)
			th := &Through{Call: (&between{f: f, nodes: []*Coordinator{f.node("n1", kv.Limits{})}, fates: []fate{c.fate, c.fate}}).call}
			_, err := th.ListBuckets(t.Context())
			checkClass(t, "list", err, c.list)
			checkClass(t, "create", th.CreateBucket(t.Context(), "one"), c.create)
		})
	}
	pointing := &Through{Call: func(context.Context, byte, []byte) ([]byte, error) {
		return BucketAnswer{Status: StatusNotLeader, Leader: "n2"}.Append(nil), nil
	}}
	_, err := pointing.OpenBucket(t.Context(), "one")
	checkClass(t, "a node that sends callers on", err, kv.ErrUnavailable)
	if _, err := (&Coordinator{}).ServeBuckets(t.Context(), nil); !errors.Is(err, kv.ErrMalformed) {
		t.Errorf("an empty request: %v", err)
	}
}

// A delete whose answer was lost is asked for again. That the bucket is not there
// then is a success; and a bucket that got the name meanwhile is left alone.
func TestDeletesOfBucketsAreAskedForAgain(t *testing.T) {
	eachCatalogue(t, func(t *testing.T, ctx context.Context, f *fakeCluster, c catalogue) {
		f.m = foundMap(1, 1, 1, 1)
		leader := f.leader(sharding.Meta)
		for _, lost := range []fate{lostAfter, failedAfter, lostBefore} {
			must(t, c.CreateBucket(ctx, "one"))
			f.will(leader, served, lost) // open, delete
			must(t, c.DeleteBucket(ctx, "one"))
			if slices.Contains(f.buckets, "one") {
				t.Errorf("fate %d: it is still there", lost)
			}
		}

		must(t, c.CreateBucket(ctx, "one"))
		f.will(leader, served, lostAfter)
		created := false
		c2 := f.coordinator(kv.Limits{})
		f.deleted = func() {
			if !created {
				created = true
				f.buckets = append(f.buckets, "one") // by somebody else, at once
			}
		}
		must(t, c.DeleteBucket(ctx, "one"))
		if _, err := c2.OpenBucket(ctx, "one"); err != nil || !created {
			t.Errorf("the other's bucket: %v", err)
		}
	})
}

// What became of a delete without an answer is unknown, whatever is said afterwards.
func TestDeletesOfBucketsWithoutAnAnswer(t *testing.T) {
	for _, always := range []fate{lostBefore, deniedCall, pointsNowhere, closed} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(1, 1, 1)
			c := f.coordinator(kv.Limits{})
			must(t, c.CreateBucket(ctx, "one"))
			f.will("n1", served, lostBefore) // open, delete
			f.always = always
			ctx, cancel := context.WithTimeout(ctx, callTime/2)
			defer cancel()
			if err := c.DeleteBucket(ctx, "one"); !errors.Is(err, kv.ErrUnknown) {
				t.Errorf("fate %d after a lost answer: %v, want it unknown", always, err)
			}
			f.heal()
			must(t, c.DeleteBucket(t.Context(), "one"))
		})
	}
}

// An attempt that the caller's time cut off does not hide why there was another before.
func TestABusyMetaGroupIsToldFromALateOne(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		c := f.coordinator(kv.Limits{})
		must(t, c.CreateBucket(ctx, "one"))
		f.will("n1", partBusy)
		f.always = hungBefore
		ctx, cancel := context.WithTimeout(ctx, time.Second) // less than an attempt's
		defer cancel()
		if _, err := c.ListBuckets(ctx); !errors.Is(err, kv.ErrUnavailable) || !errors.Is(err, kv.ErrBusy) {
			t.Errorf("list: %v, want unavailable, and last busy", err)
		}
	})
}
