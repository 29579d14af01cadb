package load

import (
	"math"
	"math/bits"
	"time"
)

const (
	// subBits cuts every power of two into 32 buckets: a quantile is at most
	// 1/32 above the truth.
	subBits    = 5
	subBuckets = 1 << subBits
	// buckets reach beyond the longest time.Duration.
	histogramBuckets = (64 - subBits) * subBuckets
)

// histogram counts durations in buckets whose width grows with them, as
// HdrHistogram does. One goroutine owns it; merge comes after.
type histogram struct {
	counts [histogramBuckets]uint64
	total  uint64
	most   time.Duration
}

// bucketOf is the bucket of v: v itself below subBuckets, then subBuckets
// buckets for each power of two.
func bucketOf(v uint64) int {
	exponent := max(bits.Len64(v), subBits+1) - subBits - 1
	return exponent*subBuckets + int(v>>exponent)
}

// bucketEnd is the largest value of a bucket.
func bucketEnd(b int) uint64 {
	if b < 2*subBuckets {
		return uint64(b)
	}
	exponent := b/subBuckets - 1
	mantissa := uint64(b%subBuckets + subBuckets)
	return (mantissa+1)<<exponent - 1
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.total++
	h.most = max(h.most, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.most = max(h.most, o.most)
}

// quantile is the duration that a share q of all did not exceed; 0 of none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.total)))
	seen := uint64(0)
	for b, n := range h.counts {
		seen += n
		if n > 0 && seen >= rank {
			return min(time.Duration(bucketEnd(b)), h.most)
		}
	}
	return h.most
}
