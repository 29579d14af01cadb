package coordinator

import (
	"bytes"
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
		f.Add(append(slices.Clone(b), golden(f, goldenTrace)...))
		b[len(b)/3] ^= 0xff
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add(golden(f, "01 00 00 01 0000000000000005 02 7676 00"))
	f.Add(golden(f, "01 00 00 02 01 61 00 0000000000000102"))
	f.Add(golden(f, "01 08 02 6869 02 02 01 0000000000000000"))
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
			if keys, _, err := ReadKeys(&a.Parts[i]); err == nil && len(keys) > len(a.Parts[i].Items) {
				t.Errorf("%d keys in %d bytes", len(keys), len(a.Parts[i].Items))
			}
			items := ReadItems(&a.Parts[i])
			if items.Count() > len(a.Parts[i].Items) {
				t.Errorf("%d items in %d bytes", items.Count(), len(a.Parts[i].Items))
			}
			for range items.Count() {
				items.Next()
			}
			if items.Finish() != nil || items.Count() == 0 {
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

func FuzzNodeRequest(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeNodeRequest(b)
		if err != nil {
			return
		}
		if again, err := DecodeNodeRequest(r.Append(nil)); err != nil || again != r {
			t.Errorf("%+v reads again as %+v, %v", r, again, err)
		}
	})
}

func FuzzNodeAnswer(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeNodeAnswer(b)
		if err != nil {
			return
		}
		if again, err := DecodeNodeAnswer(a.Append(nil)); err != nil || again != a {
			t.Errorf("%+v reads again as %+v, %v", a, again, err)
		}
	})
}

func FuzzHash(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := DecodeHashRequest(b); err == nil && !bytes.Equal(AppendHashRequest(nil, s), b) {
			t.Errorf("%x reads as shard %d", b, s)
		}
		if a, err := DecodeHashAnswer(b); err == nil && !bytes.Equal(a.Append(nil), b) {
			t.Errorf("%x reads as %+v", b, a)
		}
	})
}

// Whatever a node answers to a batch, each operation ends as it promises.
func FuzzBatchAnswer(f *testing.F) {
	seed(f)
	maps := newFake(1, 1, 1).coordinator(kv.Limits{})
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		calls := 0
		th := &Through{Maps: maps, Call: func(_ context.Context, method byte, _ []byte) ([]byte, error) {
			if method == MethodCatalog {
				return BucketAnswer{ID: 1}.Append(nil), nil
			}
			if calls++; calls > 4 { // a write asks again
				cancel()
			}
			return b, nil
		}}
		keys := []string{"a", "b"}
		pairs, err := th.GetMany(ctx, testBucket, keys)
		if err == nil && len(pairs) != 2 || errors.Is(err, kv.ErrUnknown) {
			t.Errorf("get-many: %v, %v", pairs, err)
		}
		there, err := th.Exists(ctx, testBucket, keys)
		if err == nil && len(there) != 2 || errors.Is(err, kv.ErrUnknown) {
			t.Errorf("exists: %v, %v", there, err)
		}
		listed, next, err := th.List(ctx, testBucket, 7)
		if err == nil && (len(listed) > len(b) || next != 0 && next <= 7) || errors.Is(err, kv.ErrUnknown) {
			t.Errorf("list: %q, %d, %v", listed, next, err)
		}
		err = th.NewSession().DeleteMany(ctx, testBucket, keys)
		var batch *kv.BatchError
		if err != nil && !errors.As(err, &batch) {
			t.Errorf("delete-many: %v", err)
		}
		if batch != nil && (len(batch.Outcomes) != 2 || slices.Contains(batch.Outcomes, kv.OutcomeUnknown) && !errors.Is(err, kv.ErrUnknown)) {
			t.Errorf("delete-many: %v with %v", err, batch.Outcomes)
		}
	})
}
