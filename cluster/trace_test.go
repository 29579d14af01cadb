package cluster

import (
	"slices"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// tree is the names of spans under a parent, as "parent/child".
func tree(spans tracetest.SpanStubs) (paths []string) {
	name := make(map[string]string)
	for _, s := range spans {
		name[s.SpanContext.SpanID().String()] = s.Name
	}
	for _, s := range spans {
		paths = append(paths, name[s.Parent.SpanID().String()]+"/"+s.Name)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// TestSpansFromClientToApply follows a write and a read, sent to the leaders and
// through a node: one trace each, every span under the one that caused it.
func TestSpansFromClientToApply(t *testing.T) {
	t.Parallel()
	made := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(made))
	tracer := provider.Tracer("test")
	c := newCluster(t, 3, func(_ int, cfg *Config) { cfg.Tracer = tracer })
	for i := range c.nodes {
		c.start(i)
	}
	routed := c.clientConfig()
	routed.Tracer = tracer
	through := c.clientConfig(1)
	through.Tracer, through.Through = tracer, true
	b := bucket(t, c.client(routed), "b")
	pairs := somePairs(100, "first")
	must(t, b.SetMany(t.Context(), pairs)) // it waits for leaders
	by, err := c.client(through).Bucket(t.Context(), "b")
	must(t, err)
	expect(t, "through", by, pairs)

	for _, call := range []struct {
		name string
		do   func()
		want []string
	}{
		{"a write to the leaders", func() { must(t, b.SetMany(t.Context(), pairs)) },
			[]string{"/set-many", "request/serve set-many", "serve set-many/commit", "serve set-many/propose", "set-many/request"}},
		{"a read from the leaders", func() { expect(t, "routed", b, pairs) },
			[]string{"/get-many", "get-many/request", "request/serve get-many", "serve get-many/apply", "serve get-many/confirm", "serve get-many/read"}},
		{"a write through a node", func() { must(t, by.SetMany(t.Context(), pairs)) },
			[]string{"/set-many", "request/serve set-many", "serve set-many/commit", "serve set-many/propose", "set-many/request", "set-many/set-many"}},
	} {
		made.Reset()
		call.do()
		spans := made.GetSpans()
		if got := tree(spans); !slices.Equal(got, call.want) {
			t.Errorf("%s: got %q, want %q", call.name, got, call.want)
		}
		for _, s := range spans {
			if s.SpanContext.TraceID() != spans[0].SpanContext.TraceID() {
				t.Errorf("%s: span %s is of another trace", call.name, s.Name)
			}
			if s.EndTime.Before(s.StartTime) {
				t.Errorf("%s: span %s ends before it begins", call.name, s.Name)
			}
		}
	}
}
