package coordinator

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
)

// A traced request carries, behind everything else, what its spans are part of, as W3C
// Trace Context has it; one that is not traced carries nothing:
//
//	trace id, 16 bytes · span id, 8 bytes · flags u8
const traceBytes = 16 + 8 + 1

// appendTrace appends a span's place to a request; nothing if there is none.
func appendTrace(request []byte, s trace.SpanContext) []byte {
	if !s.IsValid() {
		return request
	}
	traceID, spanID := s.TraceID(), s.SpanID()
	request = append(request, traceID[:]...)
	request = append(request, spanID[:]...)
	return append(request, byte(s.TraceFlags()))
}

// decodeTrace reads what is left of a request, if anything is.
func decodeTrace(d *kv.Decoder) trace.SpanContext {
	if d.Left() != traceBytes {
		return trace.SpanContext{} // Finish refuses anything else that is left
	}
	b := d.Rest()
	s := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(b[:16]), SpanID: trace.SpanID(b[16:24]), TraceFlags: trace.TraceFlags(b[24]), Remote: true,
	})
	if !s.IsValid() {
		d.Fail("a trace without ids")
	}
	return s
}

// span is one under way; the zero value is none.
type span struct{ s trace.Span }

// begin starts a span, if there is a tracer.
func begin(ctx context.Context, tracer trace.Tracer, name string, attributes ...attribute.KeyValue) (context.Context, span) {
	if tracer == nil {
		return ctx, span{}
	}
	ctx, s := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return ctx, span{s}
}

// place is where it is, for a request; invalid if it is none.
func (s span) place() trace.SpanContext {
	if s.s == nil {
		return trace.SpanContext{}
	}
	return s.s.SpanContext()
}

func (s span) end(err error) {
	if s.s == nil {
		return
	}
	if err != nil {
		s.s.RecordError(err)
		s.s.SetStatus(codes.Error, err.Error())
	}
	s.s.End()
}

// begin is the span of a whole call, as its caller sees it. Without a tracer, here and
// below, not even the attributes are made.
func (b *batch) begin(ctx context.Context) (context.Context, span) {
	if b.c.cfg.Tracer == nil {
		return ctx, span{}
	}
	return begin(ctx, b.c.cfg.Tracer, b.op.String(), attribute.Int("manykv.keys", b.size))
}

// begin is the span of one request of it.
func (x *exchange) begin(ctx context.Context, tracer trace.Tracer) (context.Context, span) {
	if tracer == nil {
		return ctx, span{}
	}
	return begin(ctx, tracer, "request", attribute.String("manykv.node", string(x.node)), attribute.IntSlice("manykv.shards", x.shards()))
}

func (x *exchange) shards() []int {
	shards := make([]int, len(x.parts))
	for i, p := range x.parts {
		shards[i] = int(p.shard)
	}
	return shards
}

// Under says in which trace a request came.
func Under(ctx context.Context, s trace.SpanContext) context.Context {
	if !s.IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, s)
}
