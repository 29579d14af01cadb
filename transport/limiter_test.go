package transport

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestMeterCountsWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meter{limit: 2}
		for second := range 3 {
			for i, want := range []bool{false, false, true, true} {
				if got := m.exceeded(); got != want {
					t.Fatalf("second %d, thing %d: got exceeded %t, want %t", second, i, got, want)
				}
			}
			time.Sleep(time.Second) // of the bubble's clock
		}
	})
}

func TestLogLimiterSaysHowManyItSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l logLimiter
		for i, want := range []struct {
			skipped int
			ok      bool
		}{{0, true}, {0, false}, {0, false}} {
			if skipped, ok := l.allow(); skipped != want.skipped || ok != want.ok {
				t.Fatalf("line %d: got %d, %t, want %+v", i, skipped, ok, want)
			}
		}
		time.Sleep(logEvery) // of the bubble's clock
		if skipped, ok := l.allow(); skipped != 2 || !ok {
			t.Fatalf("after a pause: got %d, %t, want 2, true", skipped, ok)
		}
	})
}
