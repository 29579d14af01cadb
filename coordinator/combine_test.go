package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// joining is a client whose writes wait for each other. It has written already: its session
// has an id, its coordinator a map.
func (f *fakeCluster) joining(t *testing.T) user {
	t.Helper()
	u := f.client(kv.Limits{})
	must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{"a"}, "1")))
	join(u)
	return u
}

// keysOfTwoShards returns n keys at least of each of a cluster's two shards.
func (f *fakeCluster) keysOfTwoShards(n int) (keys [2][]string) {
	for i := 0; len(keys[0]) < n || len(keys[1]) < n; i++ {
		key := fmt.Sprint("key ", i)
		s := f.m.ShardOfKey(testBucket, key) - 1
		keys[s] = append(keys[s], key)
	}
	return keys
}

// setOften has callers set one key each, times in turn.
func setOften(t *testing.T, u user, callers, times int) {
	t.Helper()
	var all sync.WaitGroup
	for n := range callers {
		all.Go(func() {
			for i := range times {
				key := fmt.Sprintf("key %d %d", n, i)
				if err := u.SetMany(t.Context(), testBucket, pairsOf([]string{key}, "1")); err != nil {
					t.Errorf("%s: %v", key, err)
				}
			}
		})
	}
	all.Wait()
}

// A node that answers in the same time however many ask, with the variance of disks, is not
// waited for but in the turns that find that out.
func TestWritesToAFreeNodeDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(1, 1))
		f.enter = func(context.Context, sharding.NodeID) {
			mu.Lock()
			d := time.Duration(float64(4*time.Millisecond) * math.Exp(0.4*random.NormFloat64()))
			mu.Unlock()
			time.Sleep(d)
		}
		const callers, times = 32, 500
		setOften(t, f.client(kv.Limits{}), callers, times)
		if n, least := len(f.seenBy("")), callers*times*8/10; n < least {
			t.Errorf("%d requests for %d writes, want %d at least", n, callers*times, least)
		}
	})
}

// A node that serves requests one after the other gets fewer of them, and serves more
// writes.
func TestWritesToACrowdedNodeShareRequests(t *testing.T) {
	for _, callers := range []int{40, 400} {
		testCrowdedNode(t, callers)
	}
}

func testCrowdedNode(t *testing.T, callers int) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		const each = time.Millisecond
		one := make(chan struct{}, 1)
		f.enter = func(context.Context, sharding.NodeID) {
			one <- struct{}{}
			time.Sleep(each)
			<-one
		}
		u := f.client(kv.Limits{})
		began := time.Now()
		const times = 100
		setOften(t, u, callers, times)
		took, requests := time.Since(began), len(f.seenBy(""))
		t.Logf("%d writes in %v and %d requests", callers*times, took, requests)
		if most := callers * times / 3; requests > most || took > time.Duration(most)*each {
			t.Errorf("%d writes took %v and %d requests, want a third at most", callers*times, took, requests)
		}
		if len(f.applied) != callers*times || len(f.problems) > 0 {
			t.Errorf("%d writes were applied, want %d: %v", len(f.applied), callers*times, f.problems)
		}
		before := len(f.seenBy(""))
		setOften(t, u, 1, times)
		if n := len(f.seenBy("")) - before; n != times {
			t.Errorf("%d requests for %d writes of one caller", n, times)
		}
	})
}

// Each of those who shared a request that was refused for what one of them wrote asks
// again by itself.
func TestRefusalsAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		u := f.joining(t)
		resume := make(chan struct{})
		f.enter = func(context.Context, sharding.NodeID) { <-resume }
		var all sync.WaitGroup
		f.will("n1", served, partInvalid)
		for i := range 4 {
			all.Go(func() { must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{fmt.Sprint(i)}, "1"))) })
			synctest.Wait()
		}
		close(resume)
		all.Wait()
		if n := len(f.seenBy("")); n != 1+1+1+3 {
			t.Errorf("%d requests, want one by itself, one for three, and one for each of these", n-1)
		}
	})
}

// What of a joint request was done is known also if another part of it was refused.
func TestPartOfAJointRequestIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 2, 1)
		cfg, joint := f.config(""), false
		cfg.Call = func(ctx context.Context, node sharding.NodeID, method byte, request []byte) ([]byte, error) {
			if method != MethodParts {
				return f.call(ctx, node, method, request)
			}
			q, err := DecodeRequest(request)
			must(t, err)
			switch {
			case joint: // what was refused is asked for in vain
				return nil, notSentErr(node, errNetwork)
			case len(q.Parts) == 1:
				return f.call(ctx, node, method, request)
			}
			joint = callsIn(q) == 2
			served := *q
			served.Parts = q.Parts[1:]
			b, err := f.call(ctx, node, method, served.Append(nil))
			must(t, err)
			a, err := DecodeAnswer(b)
			must(t, err)
			w := NewAnswer(nil, nil, 2)
			w.Part(&PartAnswer{Shard: q.Parts[0].Shard, Status: StatusRefused, Code: kv.CodeTooLarge, Detail: "somebody's key"})
			w.Part(&a.Parts[0])
			return w.Bytes(), nil
		}
		c, err := New(cfg)
		must(t, err)
		u := user{c, c.NewSession()}
		keys := f.keysOfTwoShards(4)
		must(t, u.SetMany(t.Context(), testBucket, pairsOf(keys[1][3:4], "1")))
		join(u)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		resume := make(chan struct{})
		f.enter = func(context.Context, sharding.NodeID) { <-resume }
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				err := u.SetMany(ctx, testBucket, pairsOf([]string{keys[0][i], keys[1][i]}, "1"))
				var batch *kv.BatchError
				if !errors.As(err, &batch) || batch.Outcomes[0] != kv.OutcomeNotApplied || batch.Outcomes[1] != kv.OutcomeApplied {
					t.Errorf("call %d: %v, want its first key not applied, its second one applied", i, err)
				}
			})
			synctest.Wait()
		}
		close(resume)
		all.Wait()
		if !joint || len(f.applied) != 4 || len(f.problems) > 0 {
			t.Errorf("shared a request: %v; applied %v: %v", joint, f.applied, f.problems)
		}
	})
}

// An answer that does not come is not waited for by every write that follows.
func TestAnswersThatDoNotComeAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		u := f.joining(t)
		f.will("n1", hungBefore)
		var hung sync.WaitGroup
		hung.Go(func() { must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{"b"}, "1"))) })
		synctest.Wait()
		for i, want := range []time.Duration{combineWait, 0, 0} {
			began := time.Now()
			must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{"c"}, "1")))
			if took := time.Since(began); took != want {
				t.Errorf("write %d took %v, want %v", i, took, want)
			}
		}
		hung.Wait()
		m := &u.reader.(*Coordinator).combine
		m.mu.Lock()
		defer m.mu.Unlock()
		if n := len(m.flows); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// Which writes wait for others, and for how long.
func TestWhichWritesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 2, 1)
		u := f.joining(t)
		resume := make(chan struct{})
		f.enter = func(context.Context, sharding.NodeID) { <-resume }
		keys := f.keysOfTwoShards(8)
		var all sync.WaitGroup
		sent := func() int { synctest.Wait(); return len(f.seenBy("")) - 1 }
		write := func(ctx context.Context, want int, value string, keys ...string) {
			all.Go(func() { must(t, u.SetMany(ctx, testBucket, pairsOf(keys, value))) })
			if n := sent(); n != want {
				t.Errorf("after writing %q: %d requests were sent, want %d", keys, n, want)
			}
		}
		ctx := t.Context()
		write(ctx, 1, "first", keys[0][0])
		write(ctx, 1, "waits", keys[0][1])
		write(ctx, 1, "waits", keys[0][2])
		write(ctx, 2, "another shard", keys[1][0])
		write(ctx, 3, "both shards", keys[0][3], keys[1][3])
		write(ctx, 4, strings.Repeat("large", aloneBytes/5+1), keys[0][4])
		short, cancel := context.WithTimeout(ctx, leastLeft-time.Millisecond)
		defer cancel()
		write(short, 5, "in a hurry", keys[0][5])

		gone, leave := context.WithCancel(ctx)
		left := make(chan error, 1)
		go func() { left <- u.SetMany(gone, testBucket, pairsOf(keys[0][6:7], "leaves")) }()
		synctest.Wait()
		leave()
		if err := <-left; errors.Is(err, kv.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("who left while waiting was told %v", err)
		}
		time.Sleep(combineWait)
		if n := sent(); n != 6 {
			t.Errorf("%d requests were sent after %v, want one more for both that wait", n, combineWait)
		}
		write(ctx, 6, "waits again", keys[0][7])
		go func() { left <- u.SetMany(gone, testBucket, pairsOf(keys[0][6:7], "left before")) }()
		if err := <-left; errors.Is(err, kv.ErrUnknown) {
			t.Errorf("who had left before was told %v", err)
		}
		close(resume)
		all.Wait()
		if n := sent(); n != 7 || f.commandsSeen() != 1+9 {
			t.Errorf("%d requests with %d commands, want 7 with 9", n, f.commandsSeen()-1)
		}
		if len(f.problems) > 0 || f.data[keys[0][6]] != "" || f.data[keys[0][7]] != "waits again" {
			t.Errorf("the data is %q: %v", f.data, f.problems)
		}
	})
}

// keysOf returns a key of each of some shards.
func (f *fakeCluster) keysOf(shards ...sharding.Shard) (keys []string) {
	for _, s := range shards {
		for i := 0; ; i++ {
			if key := fmt.Sprint("key ", i); f.m.ShardOfKey(testBucket, key) == s {
				keys = append(keys, key)
				break
			}
		}
	}
	return keys
}

// Writes to most of the shards share requests though they leave out different ones; those
// to fewer do not share theirs.
func TestWritesToMostShardsShareRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 8, 1)
		u := f.joining(t)
		resume := make(chan struct{})
		f.enter = func(context.Context, sharding.NodeID) { <-resume }
		var all sync.WaitGroup
		for i, c := range []struct {
			requests int // sent then
			shards   []sharding.Shard
		}{
			{1, []sharding.Shard{1, 2, 3, 4, 5, 6, 7, 8}},
			{1, []sharding.Shard{1, 2, 3, 4, 5, 6, 7, 8}},
			{1, []sharding.Shard{2, 3, 4, 5, 6, 7, 8}},
			{1, []sharding.Shard{1, 2, 3, 4, 5, 6}},
			{2, []sharding.Shard{1, 2, 3, 4, 5}},
			{3, []sharding.Shard{8}},
		} {
			all.Go(func() { must(t, u.SetMany(t.Context(), testBucket, pairsOf(f.keysOf(c.shards...), fmt.Sprint(i)))) })
			synctest.Wait()
			if n := len(f.seenBy("")) - 1; n != c.requests {
				t.Errorf("after a write to shards %d: %d requests were sent, want %d", c.shards, n, c.requests)
			}
		}
		close(resume)
		all.Wait()
		requests := f.seenBy("")
		joint := requests[len(requests)-1].q
		if n := callsIn(joint); len(requests) != 1+4 || n != 3 || len(joint.Parts) != 8 || len(commandsOf(joint)) != 8+7+6 {
			t.Errorf("%d requests, the last one of %d calls in %d parts with %d commands, want 4, 3, 8 and 21", len(requests)-1, n, len(joint.Parts), len(commandsOf(joint)))
		}
		if len(f.problems) > 0 {
			t.Error(f.problems)
		}
	})
}

// Those who shared a request that nobody answers do not share the next one, if they go to
// different shards: it may have hung for one that is only another's.
func TestAJointRequestThatHangsIsNotSharedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 8, 1)
		u := f.joining(t)
		f.enter = func(context.Context, sharding.NodeID) { time.Sleep(combineWait - time.Millisecond) } // longer than the pause before a second attempt
		f.will("n1", served, hungBefore)
		began := time.Now()
		var all sync.WaitGroup
		for n := range 4 {
			shards := slices.DeleteFunc([]sharding.Shard{1, 2, 3, 4, 5, 6, 7, 8}, func(s sharding.Shard) bool { return s == sharding.Shard(n) })
			all.Go(func() { must(t, u.SetMany(t.Context(), testBucket, pairsOf(f.keysOf(shards...), "1"))) })
			synctest.Wait()
		}
		all.Wait()
		calls := f.callsSeen()[1:]
		if want := []int{1, 3, 1, 1, 1}; !slices.Equal(calls, want) {
			t.Errorf("requests of %d calls, want %d", calls, want)
		}
		if took, most := time.Since(began), (writeAttempts+1)*u.reader.(*Coordinator).cfg.AttemptTimeout; took > most {
			t.Errorf("took %v, want %v at most", took, most)
		}
		if len(f.problems) > 0 {
			t.Error(f.problems)
		}
	})
}

// What may hang again is not shared with new writes to other shards.
func TestWhatMayHangAgainIsNotSharedWidely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 8, 1)
		u := f.joining(t)
		keys := f.keysOf(1, 2, 3, 4, 5, 6, 7, 8)
		const took = combineWait - time.Millisecond
		f.enter = func(context.Context, sharding.NodeID) { time.Sleep(took) }
		f.will("n1", lostBefore)
		var all sync.WaitGroup
		write := func(after time.Duration, value string) {
			all.Go(func() {
				time.Sleep(after)
				must(t, u.SetMany(t.Context(), testBucket, pairsOf(keys, value)))
			})
		}
		write(0, "is lost")
		write(took-time.Millisecond, "waits for it")
		write(took-time.Millisecond, "too")
		write(took+combineWait/2, "waits for these") // and what was lost has been asked for again before
		all.Wait()
		calls := f.callsSeen()[1:]
		if want := []int{1, 2, 1, 1}; !slices.Equal(calls, want) {
			t.Errorf("requests of %d calls, want %d", calls, want)
		}
	})
}

// Many callers of a node that does not answer still share requests when they ask again: a
// node takes only so many at a time.
func TestManyAskAgainTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		u := f.joining(t)
		f.enter = func(context.Context, sharding.NodeID) { time.Sleep(combineWait - time.Millisecond) }
		f.will("n1", lostBefore, lostBefore, notConnected)
		const callers = 500
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() { must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{fmt.Sprint(i)}, "1"))) })
		}
		all.Wait()
		if n := len(f.seenBy("")) - 1; n > 12 || len(f.applied) != 1+callers || len(f.problems) > 0 {
			t.Errorf("%d requests applied %d writes, want at most 12 and %d: %v", n, len(f.applied), 1+callers, f.problems)
		}
	})
}

// A joint request ends with the first of its callers, so that a node which cannot do all of
// it says in time what it has done; who has much less time than others does not join them.
func TestAJointRequestHasTheTimeOfTheFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		u := f.joining(t)
		resume := make(chan struct{})
		var mu sync.Mutex
		var left []time.Duration
		f.enter = func(ctx context.Context, _ sharding.NodeID) {
			deadline, _ := ctx.Deadline()
			mu.Lock()
			left = append(left, time.Until(deadline))
			mu.Unlock()
			<-resume
		}
		var all sync.WaitGroup
		for i, timeout := range []time.Duration{3 * time.Second, 3500 * time.Millisecond, 2100 * time.Millisecond, 3 * time.Second, 1900 * time.Millisecond, 1100 * time.Millisecond} {
			all.Go(func() {
				ctx, done := context.WithTimeout(t.Context(), timeout)
				defer done()
				must(t, u.SetMany(ctx, testBucket, pairsOf([]string{fmt.Sprint(i)}, "1")))
			})
			synctest.Wait()
		}
		close(resume)
		all.Wait()
		want := []time.Duration{3 * time.Second, 1900 * time.Millisecond, 2100 * time.Millisecond, 1100 * time.Millisecond}
		slices.Sort(left)
		slices.Sort(want)
		if !slices.Equal(left, want) {
			t.Errorf("requests had %v, want %v", left, want)
		}
	})
}

// What waits has a bound in bytes.
func TestFullRequestsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		u := f.joining(t)
		resume := make(chan struct{})
		f.enter = func(context.Context, sharding.NodeID) { <-resume }
		var all sync.WaitGroup
		const each = aloneBytes / 2
		for i := range 1 + 2*combineBytes/each {
			all.Go(func() {
				must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{fmt.Sprint(i)}, strings.Repeat("x", each))))
			})
		}
		synctest.Wait()
		if n := len(f.seenBy("")) - 1; n != 3 {
			t.Errorf("%d requests, want the first and two of %d bytes", n, combineBytes)
		}
		close(resume)
		all.Wait()
	})
}

// Each of those that share a request hears of its own commands.
func TestResultsAreDistributed(t *testing.T) {
	commands := func(n int) []*command { return slices.Repeat([]*command{{}}, n) }
	joiners := []*joiner{
		{parts: []portion{{1, commands(2)}, {2, commands(1)}}},
		{parts: []portion{{1, commands(1)}, {2, commands(3)}}},
	}
	results := func(values ...uint64) (out []Result) {
		for _, v := range values {
			out = append(out, Result{Outcome: kv.OutcomeApplied, Value: v})
		}
		return out
	}
	answer := func(first, second []Result) *Answer {
		return &Answer{Parts: []PartAnswer{
			{Shard: 1, Leader: "n1", Results: first},
			{Shard: 2, Status: StatusRefused, Code: kv.CodeBusy, Results: second},
		}}
	}
	must(t, distribute(answer(results(1, 2, 3), results(4, 5)), together(joiners)))
	for i, want := range []string{"[[1 2] [4]]", "[[3] [5]]"} {
		var got [][]uint64
		for n, p := range joiners[i].answer.Parts {
			var values []uint64
			for _, r := range p.Results {
				values = append(values, r.Value)
			}
			got = append(got, values)
			if p.Shard != sharding.Shard(n+1) || (p.Code == kv.CodeBusy) != (n == 1) {
				t.Errorf("joiner %d, part %d is %+v", i, n, p)
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("joiner %d got %v, want %s", i, got, want)
		}
	}
	for _, j := range joiners {
		j.answer = nil
	}
	few := append(joiners, &joiner{parts: []portion{{2, commands(2)}, {5, commands(1)}}}, &joiner{parts: []portion{{5, commands(1)}}})
	wider := answer(results(1, 2, 3), results(4, 5, 6, 7, 8))
	wider.Parts = append(wider.Parts, PartAnswer{Shard: 5, Results: results(9)})
	must(t, distribute(wider, together(few)))
	for i, want := range []string{"[1: 1 2] [2: 4]", "[1: 3] [2: 5 6 7]", "[2: 8] [5: 9]", "[5:]"} {
		var got []string
		for _, p := range few[i].answer.Parts {
			one := fmt.Sprintf("[%d:", p.Shard)
			for _, r := range p.Results {
				one += fmt.Sprint(" ", r.Value)
			}
			got = append(got, one+"]")
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("with other shards joiner %d got %s, want %s", i, got, want)
		}
	}
	if err := distribute(answer(results(1, 2, 3, 4), nil), together(joiners)); err == nil {
		t.Error("four results to three commands were taken")
	}
	if err := distribute(&Answer{}, together(joiners)); err == nil {
		t.Error("an answer without parts was taken")
	}
}
