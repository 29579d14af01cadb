package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
)

// tracerName is the scope of all spans.
const tracerName = "github.com/manykv/manykv"

// startTraces sends spans to a collector; nil if there is none. stop sends what is
// left. Spans that a caller's trace did not choose are not made, those without a
// caller's trace all are: OTEL_TRACES_SAMPLER and the other variables of
// OpenTelemetry's SDK say otherwise.
func startTraces(ctx context.Context, collector, name string, logger *slog.Logger) (tracer api.Tracer, stop func(context.Context) error, err error) {
	if collector == "" {
		return nil, func(context.Context) error { return nil }, nil
	}
	u, err := url.Parse(collector)
	if err != nil {
		return nil, nil, fmt.Errorf("otlp: %w", err)
	}
	if u.Path == "" || u.Path == "/" {
		u = u.JoinPath("v1/traces") // as the standard has it for an endpoint of all signals
	}
	to, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, nil, fmt.Errorf("otlp: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("spans were not sent", "error", err) }))
	provider := trace.NewTracerProvider(trace.WithBatcher(to), trace.WithResource(resource.NewSchemaless(
		attribute.String("service.name", "manykv"), attribute.String("service.instance.id", name), attribute.String("service.version", version()))))
	return provider.Tracer(tracerName), provider.Shutdown, nil
}
