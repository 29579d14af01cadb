package jepsen

import (
	"strings"
	"testing"

	"github.com/manykv/manykv/kv"
)

func pair(key, value string) kv.Pair { return kv.Pair{Key: key, Value: []byte(value)} }

func TestLedger(t *testing.T) {
	ledger := NewLedger()
	write := func(value string, outcome kv.Outcome) {
		ledger.note([]kv.Pair{pair("k", value)}, []kv.Outcome{outcome})
	}
	write("first", kv.OutcomeApplied)
	write("refused", kv.OutcomeNotApplied)
	write("second", kv.OutcomeApplied)
	write("perhaps", kv.OutcomeUnknown)
	if n := ledger.Acknowledged(); n != 2 {
		t.Errorf("%d writes acknowledged, want 2", n)
	}
	for _, c := range []struct {
		found string
		right bool
	}{
		{"second", true},
		{"perhaps", true},
		{"first", false}, // older than what was acknowledged
		{"refused", false},
		{"another's", false},
		{"", false}, // lost
	} {
		var at *kv.Pair
		if c.found != "" {
			p := pair("k", c.found)
			at = &p
		}
		err := ledger.compare([]string{"k"}, []*kv.Pair{at})
		if (err == nil) != c.right {
			t.Errorf("found %q: %v, want it right: %v", c.found, err, c.right)
		}
		if err != nil && !strings.Contains(err.Error(), `"second"`) {
			t.Errorf("found %q: %v, want the acknowledged value named", c.found, err)
		}
	}
}

// A key whose every write is unknown may be missing.
func TestLedgerUnknownMayBeMissing(t *testing.T) {
	ledger := NewLedger()
	ledger.note([]kv.Pair{pair("k", "perhaps")}, []kv.Outcome{kv.OutcomeUnknown})
	if err := ledger.compare([]string{"k"}, []*kv.Pair{nil}); err != nil {
		t.Error(err)
	}
}
