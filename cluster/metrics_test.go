package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
)

// registered gathers what a node shows.
func registered(t *testing.T, n *Node) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range n.Metrics() {
		must(t, r.Register(c))
	}
	return r
}

// sum adds the values of a family, of the label values given ("name=value"), over all
// nodes. Of a histogram it counts the observations.
func (c *testCluster) sum(t *testing.T, family string, labels ...string) (total float64) {
	t.Helper()
	for _, n := range c.nodes {
		families, err := registered(t, n).Gather()
		must(t, err)
		for _, f := range families {
			if f.GetName() != family {
				continue
			}
			for _, m := range f.GetMetric() {
				if labelled(m, labels) {
					total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return total
}

func labelled(m *dto.Metric, want []string) bool {
	has := make(map[string]bool)
	for _, l := range m.GetLabel() {
		has[l.GetName()+"="+l.GetValue()] = true
	}
	for _, w := range want {
		if !has[w] {
			return false
		}
	}
	return true
}

func TestMetricsCountWhatCallersDid(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	b := bucket(t, c.client(c.clientConfig()), "b")
	pairs := somePairs(300, "first")
	must(t, b.SetMany(t.Context(), pairs))
	expect(t, "routed", b, pairs)
	through := c.through(1, "b")
	expect(t, "through", through, pairs)
	must(t, through.DeleteMany(t.Context(), keysOf(pairs)[:40]))

	for _, want := range []struct {
		family string
		labels []string
		value  float64
	}{
		{"manykv_request_keys_total", []string{"operation=set-many"}, 300},
		{"manykv_request_keys_total", []string{"operation=get-many"}, 600},
		{"manykv_request_keys_total", []string{"operation=delete-many"}, 40},
		{"manykv_request_keys_total", []string{"operation=exists"}, 0},
		{"manykv_batch_duration_seconds", []string{"operation=get-many", "outcome=ok"}, 1},
		{"manykv_batch_duration_seconds", []string{"operation=delete-many", "outcome=ok"}, 1},
		{"manykv_batch_duration_seconds", nil, 2},
		{"manykv_request_duration_seconds", []string{"outcome=unknown"}, 0},
		{"manykv_shard_leader", nil, 7},
		{"manykv_shard_has_leader", nil, 21},
		{"manykv_shard_quarantined", nil, 0},
		{"manykv_gossip_members", []string{"state=alive"}, 9},
	} {
		eventually(t, 10*time.Second, func() string { // a replica may hear of its leader a little later
			if got := c.sum(t, want.family, want.labels...); got != want.value {
				return fmt.Sprintf("%s%v is %v, want %v", want.family, want.labels, got, want.value)
			}
			return ""
		})
	}
	for family, least := range map[string]float64{
		"manykv_log_commit_seconds": 3, "manykv_log_entries_total": 18, "manykv_read_index_reads_total": 12,
		"manykv_read_index_messages_total": 1, "manykv_request_bytes_total": 300 * 9, "manykv_transport_bytes_total": 10_000, "manykv_raft_messages_total": 18,
	} {
		if got := c.sum(t, family); got < least {
			t.Errorf("%s is %v, want at least %v", family, got, least)
		}
	}
}

// TestMetricsAreNamedAsPrometheusWants also finds a family that is there twice, or
// whose labels do not fit.
func TestMetricsAreNamedAsPrometheusWants(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	problems, err := testutil.GatherAndLint(registered(t, c.nodes[0]))
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestUnknownAndRefusedAreCountedApart(t *testing.T) {
	for _, c := range []struct {
		answer coordinator.PartAnswer
		want   outcome
	}{
		{coordinator.PartAnswer{}, outcomeOK},
		{coordinator.PartAnswer{Status: coordinator.StatusNotLeader}, outcomeRedirected},
		{coordinator.PartAnswer{Status: coordinator.StatusStaleMap}, outcomeRedirected},
		{coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeBusy}, outcomeBusy},
		{coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeTooLarge}, outcomeRefused},
		{coordinator.PartAnswer{Results: []coordinator.Result{{Outcome: kv.OutcomeApplied}, {Outcome: kv.OutcomeUnknown, Code: kv.CodeUnknown}}}, outcomeUnknown},
		{coordinator.PartAnswer{Results: []coordinator.Result{{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable}, {Outcome: kv.OutcomeApplied}}}, outcomeUnavailable},
	} {
		var s served
		s.answered(&coordinator.PartAnswer{})
		s.answered(&c.answer)
		s.answered(&coordinator.PartAnswer{})
		if s.outcome != c.want {
			t.Errorf("%+v: got %s, want %s", c.answer, outcomeNames[s.outcome], outcomeNames[c.want])
		}
	}
}

// lines is a log that tests read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

func (l *lines) with(word string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

// TestSlowCallsAreTold: every call is slow here.
func TestSlowCallsAreTold(t *testing.T) {
	t.Parallel()
	var log lines
	c := newCluster(t, 1, func(_ int, cfg *Config) {
		cfg.SlowCall, cfg.Logger = time.Nanosecond, slog.New(slog.NewTextHandler(&log, nil))
	})
	c.start(0)
	b := bucket(t, c.client(c.clientConfig()), "b")
	pairs := somePairs(50, "first")
	must(t, b.SetMany(t.Context(), pairs)) // it waits for leaders
	log.clear()
	before := c.sum(t, "manykv_slow_requests_total")
	must(t, b.SetMany(t.Context(), pairs))
	expect(t, "routed", b, pairs)
	for _, want := range [][]string{
		{"operation=set-many", "keys=50", "outcome=ok", "took=", " propose=", " commit="},
		{"operation=get-many", "keys=50", "outcome=ok", "took=", " confirm=", " apply=", " read="},
	} {
		told := log.with(want[0])
		if len(told) != 1 {
			t.Fatalf("got %q, want one line about %s", told, want[0])
		}
		for _, word := range want {
			if !strings.Contains(told[0], word) {
				t.Errorf("got %q, want %q in it", told[0], word)
			}
		}
	}
	if got := c.sum(t, "manykv_slow_requests_total") - before; got != 2 {
		t.Errorf("got %v slow requests, want 2", got)
	}
	const many = 100
	for range many {
		expect(t, "routed", b, pairs)
	}
	if told := len(log.with("slow call")); told >= many || c.sum(t, "manykv_slow_requests_total") != before+many+2 {
		t.Errorf("got %d lines about %d slow calls, want fewer, and all of them counted", told, many)
	}
}

// TestReadyIsAConfirmedRead: two of three nodes are a majority, one is none.
func TestReadyIsAConfirmedRead(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	c.start(0)
	if err := c.nodes[0].Ready(t.Context()); err == nil {
		t.Error("a node that has not found its cluster is ready")
	}
	c.start(1)
	c.start(2)
	ready := func(i int) string {
		ctx, done := context.WithTimeout(t.Context(), time.Second)
		defer done()
		if err := c.nodes[i].Ready(ctx); err != nil {
			return err.Error()
		}
		return ""
	}
	for i := range c.nodes {
		eventually(t, 20*time.Second, func() string { return ready(i) })
	}
	c.stop(1)
	eventually(t, 20*time.Second, func() string { return ready(0) })
	c.stop(2)
	eventually(t, 20*time.Second, func() string {
		if ready(0) == "" {
			return "a node alone of three is ready"
		}
		return ""
	})
}

// TestMetricsWhileTheNodeCloses: whoever scrapes does not know.
func TestMetricsWhileTheNodeCloses(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	bucket(t, c.client(c.clientConfig()), "b")
	node, registry := c.nodes[0], registered(t, c.nodes[0])
	closed := make(chan struct{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for after := false; !after; {
				select {
				case <-closed:
					after = true // once more
				default:
				}
				if _, err := registry.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	c.stop(0)
	close(closed)
	all.Wait()
	if err := node.Ready(t.Context()); err == nil {
		t.Error("a closed node is ready")
	}
}
