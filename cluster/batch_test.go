package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// TestThreeNodes tells the story of a cluster's data: it costs one start.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	views := map[string]*client.Bucket{"routed": b}
	for i := range c.cfgs {
		views[fmt.Sprintf("through n%d", i+1)] = c.through(i, "files")
	}

	t.Run("every view sees an acknowledged write at once", func(t *testing.T) {
		round := 0
		for writer, w := range views {
			for reader, r := range views {
				round++
				pairs := somePairs(200, fmt.Sprintf("round %d", round))
				must(t, w.SetMany(t.Context(), pairs))
				expect(t, writer+" then "+reader, r, pairs)
			}
		}
	})
	t.Run("order, duplicates, missing", func(t *testing.T) {
		must(t, b.SetMany(t.Context(), []kv.Pair{{Key: "d", Value: []byte("1")}, {Key: "", Value: []byte("empty key")}, {Key: "d", Value: []byte("2")}, {Key: "e"}}))
		for name, v := range views {
			got, err := v.GetMany(t.Context(), []string{"missing", "d", "", "d", "e", "missing"})
			must(t, err)
			if got[0] != nil || got[5] != nil || got[4] == nil || len(got[4].Value) != 0 ||
				string(got[1].Value) != "2" || string(got[3].Value) != "2" || string(got[2].Value) != "empty key" {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
	t.Run("delete skips the missing", func(t *testing.T) {
		for name, v := range views {
			must(t, b.Set(t.Context(), "gone", []byte("x")))
			must(t, v.DeleteMany(t.Context(), []string{"gone", "never there", "gone"}))
			if there, err := v.Exists(t.Context(), "gone"); err != nil || there {
				t.Errorf("%s: exists %v, %v", name, there, err)
			}
			if _, found, err := v.Get(t.Context(), "gone"); err != nil || found {
				t.Errorf("%s: found %v, %v", name, found, err)
			}
			if there, err := v.Exists(t.Context(), "d"); err != nil || !there {
				t.Errorf("%s: d: exists %v, %v", name, there, err)
			}
		}
	})
	t.Run("empty batches", func(t *testing.T) {
		for name, v := range views {
			got, err := v.GetMany(t.Context(), nil)
			if err := errors.Join(err, v.SetMany(t.Context(), nil), v.DeleteMany(t.Context(), nil)); err != nil || len(got) != 0 {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
	})
	t.Run("large values", func(t *testing.T) {
		pairs := make([]kv.Pair, 12)
		for i := range pairs {
			size := 100_000 << (i % 5) // up to 1.6 MB; in all more than one entry a part
			pairs[i] = kv.Pair{Key: fmt.Sprintf("large-%d", i), Value: bytes.Repeat([]byte{byte(i)}, size)}
		}
		most := kv.Limits{}.WithDefaults().ValueBytes
		if raceDetector {
			most /= 4
		}
		pairs[0].Value = bytes.Repeat([]byte{7}, most)
		must(t, b.SetMany(t.Context(), pairs))
		for name, v := range views {
			expect(t, name, v, pairs)
		}
	})
	t.Run("bad input", func(t *testing.T) { badInput(t, views) })
	t.Run("buckets", func(t *testing.T) { bucketStory(t, c, cl) })
	t.Run("a node checks what a client does not", func(t *testing.T) { rawRequests(t, c) })
	t.Run("garbage to the port", func(t *testing.T) {
		for _, cfg := range c.cfgs {
			throwGarbage(t, cfg.Listen)
		}
		pairs := somePairs(100, "after garbage")
		must(t, b.SetMany(t.Context(), pairs))
		expect(t, "after garbage", b, pairs)
	})
}

// badInput wants clear errors of everything over a limit, and nothing written.
func badInput(t *testing.T, views map[string]*client.Bucket) {
	many := make([]string, 10_001)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	big := make([]kv.Pair, 11)
	for i := range big {
		big[i] = kv.Pair{Key: fmt.Sprint(i), Value: make([]byte, 3<<20)}
	}
	most := kv.Limits{}.WithDefaults().ValueBytes
	for name, v := range views {
		for _, c := range []struct {
			what string
			err  error
			want error
			text string
		}{
			{"10,001 keys", second(v.GetMany(t.Context(), many)), kv.ErrTooLarge, "10001"},
			{"10,001 deletes", v.DeleteMany(t.Context(), many), kv.ErrTooLarge, "10001"},
			{"33 MiB", v.SetMany(t.Context(), big), kv.ErrTooLarge, "33554432"},
			{"a value over the limit", v.Set(t.Context(), "k", make([]byte, most+1)), kv.ErrTooLarge, fmt.Sprint(most)},
			{"not UTF-8", v.Set(t.Context(), "bad-\xff", nil), kv.ErrInvalid, "UTF-8"},
			{"a key of 5 KiB", v.Set(t.Context(), strings.Repeat("k", 5<<10), nil), kv.ErrTooLarge, "5120"},
		} {
			if !errors.Is(c.err, c.want) || !strings.Contains(fmt.Sprint(c.err), c.text) {
				t.Errorf("%s, %s: %v; want %v with %q", name, c.what, c.err, c.want, c.text)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func bucketStory(t *testing.T, c *testCluster, cl *client.Client) {
	cfg := c.clientConfig(1)
	cfg.Through = true
	for name, cl := range map[string]*client.Client{"routed": cl, "through": c.client(cfg)} {
		must(t, cl.CreateBucket(t.Context(), name))
		if err := cl.CreateBucket(t.Context(), name); !errors.Is(err, kv.ErrExists) {
			t.Errorf("%s: made twice: %v", name, err)
		}
		if err := cl.CreateBucket(t.Context(), "a:b"); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("%s: bad name: %v", name, err)
		}
		if _, err := cl.Bucket(t.Context(), "nobody"); !errors.Is(err, kv.ErrNoSuchStore) {
			t.Errorf("%s: unknown bucket: %v", name, err)
		}
		// The same key in another bucket is another key.
		b, err := cl.Bucket(t.Context(), name)
		must(t, err)
		if _, found, err := b.Get(t.Context(), "d"); err != nil || found {
			t.Errorf("%s: a new bucket has a key: %v", name, err)
		}
	}
	names, err := cl.ListBuckets(t.Context())
	must(t, err)
	if got := strings.Join(names, " "); got != "files routed through" {
		t.Errorf("buckets: %s", got)
	}
}

// rawRequests sends what our own client never would.
func rawRequests(t *testing.T, c *testCluster) {
	n := c.nodes[0]
	epoch := n.current.Load().Epoch
	long := kv.AppendSet(nil, kv.Origin{}, 1, []kv.Pair{{Key: strings.Repeat("k", 5<<10)}})
	for _, r := range []struct {
		name string
		q    coordinator.Request
		want coordinator.Status
		code kv.Code
	}{
		{"an old epoch", coordinator.Request{Epoch: epoch - 1, Op: coordinator.OpGet}, coordinator.StatusStaleMap, 0},
		{"an epoch nobody has", coordinator.Request{Epoch: epoch + 1, Op: coordinator.OpGet}, coordinator.StatusRefused, kv.CodeUnavailable},
		{"no such shard", coordinator.Request{Epoch: epoch, Op: coordinator.OpGet}, coordinator.StatusNotLeader, 0},
		{"the meta group as a data shard", coordinator.Request{Epoch: epoch, Op: coordinator.OpSet, Parts: []coordinator.Part{{Shard: sharding.Meta, Commands: [][]byte{kv.AppendSet(nil, kv.Origin{}, 1, nil)}}}}, coordinator.StatusNotLeader, 0},
		{"a key over the limit", coordinator.Request{Epoch: epoch, Op: coordinator.OpSet, Parts: []coordinator.Part{{Shard: 1, Commands: [][]byte{long}}}}, coordinator.StatusRefused, kv.CodeTooLarge},
		{"a read of a key over the limit", coordinator.Request{Epoch: epoch, Op: coordinator.OpGet, Parts: []coordinator.Part{{Shard: 1, Keys: []string{strings.Repeat("k", 5<<10)}}}}, coordinator.StatusRefused, kv.CodeTooLarge},
		{"a leader's command", coordinator.Request{Epoch: epoch, Op: coordinator.OpSet, Parts: []coordinator.Part{{Shard: 1, Commands: [][]byte{kv.AppendLead(nil, 0, 1)}}}}, coordinator.StatusRefused, kv.CodeInvalid},
		{"bucket 0", coordinator.Request{Epoch: epoch, Op: coordinator.OpDelete, Parts: []coordinator.Part{{Shard: 1, Commands: [][]byte{kv.AppendDelete(nil, kv.Origin{}, 0, []string{"k"})}}}}, coordinator.StatusRefused, kv.CodeInvalid},
	} {
		if r.q.Parts == nil {
			r.q.Parts = []coordinator.Part{{Shard: 99, Keys: []string{"k"}}}
		}
		b, err := n.serveParts(t.Context(), r.q.Append(nil))
		must(t, err)
		a, err := coordinator.DecodeAnswer(b)
		must(t, err)
		if got := a.Parts[0]; got.Status != r.want || got.Code != r.code {
			t.Errorf("%s: status %d, code %d (%s); want %d, %d", r.name, got.Status, got.Code, got.Detail, r.want, r.code)
		}
		if (r.want == coordinator.StatusStaleMap) != (a.Map != nil) {
			t.Errorf("%s: map in the answer: %v", r.name, a.Map)
		}
	}
	for _, b := range [][]byte{nil, {0}, {1}, bytes.Repeat([]byte{255}, 100)} {
		if _, err := n.serveParts(t.Context(), b); err == nil {
			t.Errorf("request %x: no error", b)
		}
	}
}

func throwGarbage(t *testing.T, addr string) {
	conn, err := net.Dial("udp", addr)
	must(t, err)
	defer conn.Close()
	packet := make([]byte, 1400)
	for range 2000 {
		for i := range packet {
			packet[i] = byte(rand.Uint32())
		}
		conn.Write(packet[:1+rand.IntN(len(packet)-1)]) // a full socket is as good
	}
}
