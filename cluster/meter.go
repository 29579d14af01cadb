package cluster

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
)

// stage is where the time of a request for parts goes, one after the other.
type stage int

const (
	stageMap     stage = iota // waiting for a map as new as the caller's
	stageConfirm              // a read: until a majority has said that this, or the asked node, leads
	stageApply                // a read: until the replica has applied what the read must see
	stageRead                 // a read: out of the store, into the answer
	stagePropose              // a write: giving its commands to raft
	stageCommit               // a write: until they are on a majority's disks and applied
	stageCount
)

var stageNames = [stageCount]string{"map", "confirm", "apply", "read", "propose", "commit"}

// outcome is what became of a request, the worst of its parts; in this order.
type outcome int

const (
	outcomeOK          outcome = iota
	outcomeRedirected          // another node leads, or the map is stale: the caller goes on elsewhere
	outcomeRefused             // what was asked for cannot be done
	outcomeBusy                // over a budget, nothing was done
	outcomeUnavailable         // no majority, no leader, no time
	outcomeUnknown             // a write may have been applied
	outcomeCount
)

var outcomeNames = [outcomeCount]string{"ok", "redirected", "refused", "busy", "unavailable", "unknown"}

// outcomeOfCode says what an error means for a request.
func outcomeOfCode(c kv.Code) outcome {
	switch c {
	case kv.CodeOK:
		return outcomeOK
	case kv.CodeBusy:
		return outcomeBusy
	case kv.CodeUnavailable:
		return outcomeUnavailable
	case kv.CodeUnknown:
		return outcomeUnknown
	default:
		return outcomeRefused
	}
}

// served is a request for parts while it is served. It belongs to the goroutine that
// serves it.
type served struct {
	op      coordinator.Op
	asked   int // keys
	done    int // keys, of the parts that were served here
	parts   int
	outcome outcome
	began   time.Time
	lap     time.Time
	stages  [stageCount]time.Duration

	// Set if there is a tracer.
	tracer trace.Tracer
	ctx    context.Context // of the span
	span   trace.Span
}

func (n *Node) beginServed(ctx context.Context, q *coordinator.Request) *served {
	now := time.Now()
	s := &served{op: q.Op, parts: len(q.Parts), began: now, lap: now, ctx: ctx}
	if s.tracer = n.cfg.Tracer; s.tracer != nil {
		s.ctx, s.span = s.tracer.Start(coordinator.Under(ctx, q.Trace), "serve "+q.Op.String(), trace.WithSpanKind(trace.SpanKindServer),
			trace.WithTimestamp(now), trace.WithAttributes(attribute.String("manykv.node", string(n.name))))
	}
	for i := range q.Parts {
		s.asked += max(len(q.Parts[i].Keys), q.Parts[i].Max) // of a write: see checkCommands
	}
	return s
}

// spent puts the time since the last call of it down to a stage.
func (s *served) spent(on stage) {
	now := time.Now()
	s.stages[on] += now.Sub(s.lap)
	if s.tracer != nil {
		_, span := s.tracer.Start(s.ctx, stageNames[on], trace.WithTimestamp(s.lap))
		span.End(trace.WithTimestamp(now))
	}
	s.lap = now
}

// came notes what became of a part.
func (s *served) came(o outcome) { s.outcome = max(s.outcome, o) }

// answered notes it by the part's answer.
func (s *served) answered(a *coordinator.PartAnswer) {
	switch a.Status {
	case coordinator.StatusServed:
	case coordinator.StatusRefused:
		s.came(outcomeOfCode(a.Code))
	default:
		s.came(outcomeRedirected)
	}
	for i := range a.Results {
		switch r := &a.Results[i]; r.Outcome {
		case kv.OutcomeApplied:
		case kv.OutcomeUnknown:
			s.came(outcomeUnknown)
		default:
			s.came(outcomeOfCode(r.Code))
		}
	}
}

// meter counts the requests a node serves, and tells of slow ones.
type meter struct {
	parts, batches [coordinator.OpCount][outcomeCount]prometheus.Observer
	keys           [coordinator.OpCount]prometheus.Counter
	bytesIn        [coordinator.OpCount]prometheus.Counter
	bytesOut       [coordinator.OpCount]prometheus.Counter
	slow           prometheus.Counter
	commitBytes    prometheus.Observer
	commitSeconds  prometheus.Observer
	toTell         *rate.Limiter // of slow calls
}

// Slow calls come in crowds: some of them are enough to see why.
const (
	slowPerSecond = 5
	slowAtOnce    = 20
)

// tellSlow logs a request that took long, and where its time went.
func (n *Node) tellSlow(s *served, took time.Duration) {
	n.meter.slow.Inc()
	if !n.meter.toTell.Allow() {
		return
	}
	args := []any{"operation", s.op.String(), "keys", s.asked, "parts", s.parts, "outcome", outcomeNames[s.outcome], "took", took.Round(time.Microsecond)}
	for i, spent := range s.stages {
		if spent > 0 {
			args = append(args, stageNames[i], spent.Round(time.Microsecond))
		}
	}
	n.cfg.Logger.Warn("slow call", args...)
}

// measured counts a request that was served.
func (n *Node) measured(s *served, request, answer int) {
	took := time.Since(s.began)
	if s.span != nil {
		s.span.SetAttributes(attribute.Int("manykv.keys", s.asked), attribute.String("manykv.outcome", outcomeNames[s.outcome]))
		if s.outcome > outcomeRedirected {
			s.span.SetStatus(codes.Error, outcomeNames[s.outcome])
		}
		s.span.End()
	}
	m := n.meter
	m.parts[s.op][s.outcome].Observe(took.Seconds())
	m.keys[s.op].Add(float64(s.done))
	m.bytesIn[s.op].Add(float64(request))
	m.bytesOut[s.op].Add(float64(answer))
	if n.cfg.SlowCall > 0 && took >= n.cfg.SlowCall {
		n.tellSlow(s, took)
	}
}

// measuredBatch counts a whole batch that was coordinated for somebody else.
func (n *Node) measuredBatch(request, answer []byte, took time.Duration) {
	if op, code, ok := coordinator.Glance(request, answer); ok {
		n.meter.batches[op][outcomeOfCode(code)].Observe(took.Seconds())
	}
}

// committed counts a record of the log.
func (m *meter) committed(bytes int, took time.Duration) {
	m.commitBytes.Observe(float64(bytes))
	m.commitSeconds.Observe(took.Seconds())
}
