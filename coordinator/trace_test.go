package coordinator

import (
	"errors"
	"slices"
	"testing"

	"github.com/manykv/manykv/kv"
)

// goldenTrace is the end of a request that is traced.
const goldenTrace = "0102030405060708090a0b0c0d0e0f10 1112131415161718 01"

// TestATraceFollowsARequest: in front of it nothing changes.
func TestATraceFollowsARequest(t *testing.T) {
	place := decodeTrace(kv.NewDecoder(golden(t, goldenTrace)))
	if place.TraceID().String() != "0102030405060708090a0b0c0d0e0f10" || place.SpanID().String() != "1112131415161718" || !place.IsSampled() || !place.IsRemote() {
		t.Fatalf("got %+v", place)
	}
	read := Request{Epoch: 3, Op: OpGet, Bucket: 7, Parts: []Part{{Shard: 1, Keys: []string{"a"}}}}
	batch := BatchRequest{Op: OpGet, Bucket: 7, Keys: []string{"a"}}
	plain, plainBatch := read.Append(nil), batch.Append(nil)
	read.Trace, batch.Trace = place, place
	for _, m := range []struct {
		name          string
		plain, traced []byte
		decode        func([]byte) error
	}{
		{"a request for parts", plain, read.Append(nil), func(b []byte) error {
			got, err := DecodeRequest(b)
			if err == nil && len(b) == len(read.Append(nil)) && !got.Trace.Equal(place) {
				t.Errorf("got trace %+v, want %+v", got.Trace, place)
			}
			return err
		}},
		{"a batch", plainBatch, batch.Append(nil), func(b []byte) error {
			got, err := DecodeBatchRequest(b)
			if err == nil && len(b) == len(batch.Append(nil)) && !got.Trace.Equal(place) {
				t.Errorf("got trace %+v, want %+v", got.Trace, place)
			}
			return err
		}},
	} {
		if want := append(slices.Clone(m.plain), golden(t, goldenTrace)...); !slices.Equal(m.traced, want) {
			t.Errorf("%s: got % x, want % x", m.name, m.traced, want)
		}
		for _, b := range [][]byte{m.plain, m.traced} {
			if err := m.decode(b); err != nil {
				t.Errorf("%s: % x: %v", m.name, b, err)
			}
		}
		for _, wrong := range [][]byte{m.traced[:len(m.traced)-1], append(slices.Clone(m.traced), 0), append(slices.Clone(m.plain), make([]byte, traceBytes)...)} {
			if err := m.decode(wrong); !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("%s: % x: got %v, want malformed", m.name, wrong, err)
			}
		}
	}
}
