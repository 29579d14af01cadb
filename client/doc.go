// Package client is the Go library of manykv: many keys in one call, on a
// replicated, sharded store.
//
//	cfg, err := client.LoadConfig(".manykv/client.toml")
//	c, err := client.Open(ctx, cfg)
//	defer c.Close()
//	b, err := c.Bucket(ctx, "files")
//	err = b.SetMany(ctx, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}})
//	if err != nil {
//		return err // a *kv.BatchError says of each key what became of it
//	}
//	pairs, err := b.GetMany(ctx, []string{"b", "none", "a"}) // in this order; nil for none
//
// It promises one round trip a batch whatever the number of shards (requests to
// the nodes go out in parallel), answers in the caller's order, reads that see
// every write acknowledged before they began, and errors that say what to do:
// compare them with the errors of package kv. A write is applied once, however
// often it is sent: one whose answer is lost is sent again until the deadline. If
// it fails all the same the error is a *kv.BatchError with the outcome of every
// key, or one of another kind if nothing was sent; and while an outcome is unknown
// Client.Retry finds it out, for 5 minutes from the write's beginning.
//
// It refuses to be atomic across shards. A write that the program makes again
// itself, by calling Set anew, is another write, and may be applied besides the
// first.
//
// A Client owns one UDP socket and its connections until Close. Clients and
// Buckets are safe for concurrent use.
package client
