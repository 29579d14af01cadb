package coordinator

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/manykv/manykv/kv"
)

// seed adds the golden bytes and some of their neighbours.
func seed(f *testing.F) {
	for _, m := range messages(f) {
		b := golden(f, m.bytes)
		f.Add(b)
		f.Add(b[:len(b)/2])
		f.Add(append(slices.Clone(b), b...))
		b[len(b)/3] ^= 0xff
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add(golden(f, "01 00 00 00 01 02 7676 00"))
	f.Add(golden(f, "01 08 02 6869 02 02 00"))
	f.Add(golden(f, "01 01 0000000000000007 ffffffffffffffffff01"))
}

// What can be read can be written, and reads the same again.
func FuzzRequest(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := DecodeRequest(b)
		if err != nil {
			return
		}
		if again, err := DecodeRequest(q.Append(nil)); err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%+v reads again as %+v, %v", q, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAnswer(b)
		if err != nil {
			return
		}
		for i := range a.Parts {
			items := ReadItems(&a.Parts[i])
			for range len(a.Parts[i].Items) + 1 {
				items.Next()
			}
			if items.Finish() != nil {
				return // items are read, and judged, by who asked for them
			}
		}
		if again, err := DecodeAnswer(writeAnswer(a)); err != nil || !reflect.DeepEqual(again, a) {
			t.Errorf("%+v reads again as %+v, %v", a, again, err)
		}
	})
}

func FuzzBucketRequest(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeBucketRequest(b)
		if err != nil {
			return
		}
		if again, err := DecodeBucketRequest(r.Append(nil)); err != nil || again != r {
			t.Errorf("%+v reads again as %+v, %v", r, again, err)
		}
	})
}

func FuzzBucketAnswer(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeBucketAnswer(b)
		if err != nil {
			return
		}
		if again, err := DecodeBucketAnswer(a.Append(nil)); err != nil || !reflect.DeepEqual(again, a) {
			t.Errorf("%+v reads again as %+v, %v", a, again, err)
		}
	})
}

func FuzzBatchRequest(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeBatchRequest(b)
		if err != nil {
			return
		}
		if again, err := DecodeBatchRequest(r.Append(nil)); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v reads again as %+v, %v", r, again, err)
		}
	})
}

// Whatever a node answers to a batch, each operation ends as it promises.
func FuzzBatchAnswer(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		th := &Through{Call: func(context.Context, byte, []byte) ([]byte, error) { return b, nil }}
		keys := []string{"a", "b"}
		pairs, err := th.GetMany(t.Context(), testBucket, keys)
		if err == nil && len(pairs) != 2 || errors.Is(err, kv.ErrUnknown) {
			t.Errorf("get-many: %v, %v", pairs, err)
		}
		there, err := th.Exists(t.Context(), testBucket, keys)
		if err == nil && len(there) != 2 || errors.Is(err, kv.ErrUnknown) {
			t.Errorf("exists: %v, %v", there, err)
		}
		err = th.DeleteMany(t.Context(), testBucket, keys)
		var batch *kv.BatchError
		if errors.As(err, &batch) && (len(batch.Outcomes) != 2 || slices.Contains(batch.Outcomes, kv.OutcomeUnknown) && !errors.Is(err, kv.ErrUnknown)) {
			t.Errorf("delete-many: %v with %v", err, batch.Outcomes)
		}
	})
}
