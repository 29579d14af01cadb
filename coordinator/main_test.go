package coordinator

import (
	"encoding/hex"
	"flag"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/kv"
)

func TestMain(m *testing.M) {
	// Faults meet in more ways than rapid's hundred tries show; a try takes a
	// fraction of a millisecond.
	if err := flag.Set("rapid.checks", "3000"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// callTime is the time a call has in these tests: far more than a few time-outs
// of one node (2 s) take.
const callTime = 60 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// golden turns hex with blanks into bytes.
func golden(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatalf("golden bytes %q: %v", text, err)
	}
	return b
}

// pairsOf makes pairs of the same value.
func pairsOf(keys []string, value string) []kv.Pair {
	pairs := make([]kv.Pair, len(keys))
	for i, key := range keys {
		pairs[i] = kv.Pair{Key: key, Value: []byte(value)}
	}
	return pairs
}
