package load

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsFollowOneAnother(t *testing.T) {
	for b := range histogramBuckets - subBuckets { // the last are beyond time.Duration
		end := bucketEnd(b)
		if bucketOf(end) != b || bucketOf(end+1) != b+1 {
			t.Fatalf("bucket %d ends at %d: got buckets %d and %d for it and the next", b, end, bucketOf(end), bucketOf(end+1))
		}
	}
	if got := bucketOf(math.MaxInt64); got >= histogramBuckets {
		t.Errorf("got bucket %d for the longest duration, want less than %d", got, histogramBuckets)
	}
}

// TestQuantilesAreCloseAbove compares with the sorted durations.
func TestQuantilesAreCloseAbove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 300).Draw(t, "durations")
		q := rapid.Float64Range(0.001, 1).Draw(t, "q")
		var parts [2]histogram
		for i, d := range all {
			parts[i%2].add(time.Duration(d))
		}
		parts[0].merge(&parts[1])
		slices.Sort(all)
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		got := int64(parts[0].quantile(q))
		if got < want || got > want+want/subBuckets || got > all[len(all)-1] {
			t.Fatalf("quantile %v: got %d, want %d, at most 1/%d above", q, got, want, subBuckets)
		}
	})
}

func TestNoDurationsHaveNoQuantiles(t *testing.T) {
	var h histogram
	if got := h.quantile(0.99); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}
