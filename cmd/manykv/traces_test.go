package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestSpansAreSentToTheCollector(t *testing.T) {
	got := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) == 0 {
			t.Errorf("got %d bytes, %v, want spans", len(body), err)
		}
		got <- r.Method + " " + r.URL.Path
	}))
	defer collector.Close()
	tracer, stop, err := startTraces(t.Context(), collector.URL, "n1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Start(t.Context(), "get-many")
	span.End()
	if err := stop(t.Context()); err != nil { // it sends what is left
		t.Fatal(err)
	}
	if first := <-got; first != "POST /v1/traces" {
		t.Errorf("got %s", first)
	}
	if tracer, stop, err := startTraces(t.Context(), "", "n1", slog.New(slog.DiscardHandler)); tracer != nil || err != nil || stop(t.Context()) != nil {
		t.Errorf("got %v, %v without a collector, want no tracer", tracer, err)
	}
}
