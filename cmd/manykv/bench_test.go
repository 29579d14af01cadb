package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/load"
)

func TestBenchMeasuresEveryOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.before = func(int, int) error {
			time.Sleep(time.Millisecond) // of the bubble's clock
			return nil
		}
		p, stdout, _ := newProgram("")
		o := &benchOptions{Load: load.Load{Batch: 10, ValueSize: 8, Keys: 95, Callers: 3, Duration: time.Second}, ops: load.Ops, json: true}
		if err := p.bench(t.Context(), m, o); err != nil {
			t.Fatal(err)
		}
		var report benchReport
		if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
			t.Fatal(err)
		}
		if len(report.Results) != len(load.Ops) {
			t.Fatalf("got %d results, want %d", len(report.Results), len(load.Ops))
		}
		for i, r := range report.Results {
			keys := int64(10)
			if r.Op == "set" || r.Op == "get" {
				keys = 1
			}
			if r.Op != load.Ops[i] || r.Calls != 3000 || r.Keys != 3000*keys || r.Errors != 0 || r.CallsPerSec != 3000 {
				t.Errorf("got %+v, want 3000 calls of %d keys in a second of %s", r, keys, load.Ops[i])
			}
			if r.P50 != 1 || r.P999 != 1 {
				t.Errorf("%s: got p50 %v ms and p99.9 %v ms, want 1", r.Op, r.P50, r.P999)
			}
		}
		if len(m.values) != 0 {
			t.Errorf("got %d keys left, want none", len(m.values))
		}
	})
}

func TestBenchReadsWhatItHasWritten(t *testing.T) {
	m := newMemory()
	l := load.Load{Store: m, Batch: 10, ValueSize: 8, Keys: 95, Callers: 3}
	if err := l.Fill(t.Context(), new(load.Seen)); err != nil {
		t.Fatal(err)
	}
	if len(m.values) != l.Keys || len(m.values[load.Key(94)]) != l.ValueSize || m.calls != 10 {
		t.Errorf("got %d keys in %d calls, want %d of %d bytes in 10", len(m.values), m.calls, l.Keys, l.ValueSize)
	}
}

func TestCallsThatFailAreCountedAndFailTheBench(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.before = func(call, _ int) error {
			time.Sleep(time.Millisecond) // of the bubble's clock
			if call > 10 && call%2 == 0 && call < 1000 {
				return kv.ErrBusy
			}
			return nil
		}
		p, stdout, stderr := newProgram("")
		o := &benchOptions{Load: load.Load{Batch: 10, ValueSize: 8, Keys: 95, Callers: 1, Duration: time.Second}, ops: []string{"get"}}
		err := p.bench(t.Context(), m, o)
		if err == nil || !strings.Contains(err.Error(), "494 calls failed") {
			t.Errorf("got %v, want 494 calls that failed", err)
		}
		if !strings.Contains(stderr.String(), "get: first error: busy") {
			t.Errorf("got %q, want the first error", stderr)
		}
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		if got := strings.Fields(lines[len(lines)-1]); got[0] != "get" || got[len(got)-1] != "494" {
			t.Errorf("got\n%s\nwant a row of get with 494 errors", stdout)
		}
	})
}
