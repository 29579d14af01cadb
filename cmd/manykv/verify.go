package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// verifyFigures are those of a comparison.
type verifyFigures struct {
	figures
	Through   string  `json:"through"` // address of the node that was read from
	Differing remarks `json:"differing"`
}

// verifyTree reads all files of the tree back through one node, and compares.
func (p *program) verifyTree(ctx context.Context, c *client.Client, bucket string, t *tree, o *importOptions) (sum *verifyFigures, err error) {
	addr := o.verifyAddr
	if addr == "" {
		if addr, err = p.anotherNode(ctx, c); err != nil {
			return nil, err
		}
	}
	cfg, err := p.conn.load()
	if err != nil {
		return nil, err
	}
	cfg.Addrs, cfg.Through = []string{addr}, true
	via, err := client.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("verify through %s: %w", addr, err)
	}
	defer func() { err = errors.Join(err, via.Close()) }()
	b, err := via.Bucket(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("verify through %s: %w", addr, err)
	}
	sum, err = p.verifyFiles(ctx, t, b, o)
	if err != nil {
		return nil, fmt.Errorf("verify through %s: %w", addr, err)
	}
	sum.Through = addr
	if sum.Differing.Count > 0 {
		p.stderr.printf("%s:\n", count(sum.Differing.Count, "file differs", "files differ"))
		sum.Differing.print(p.stderr)
	}
	p.reportFigures("compared through "+addr+":", &sum.figures, o.json)
	return sum, nil
}

// anotherNode is a node that answers and is not the first that was configured,
// which is the one used with --through; if there is no other, that one.
func (p *program) anotherNode(ctx context.Context, c *client.Client) (string, error) {
	cfg, err := p.conn.load()
	if err != nil {
		return "", err
	}
	statuses, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range statuses {
		if s.Err == nil && !sameAddr(s.Addr, cfg.Addrs[0]) {
			return s.Addr, nil
		}
	}
	return cfg.Addrs[0], nil
}

// sameAddr compares what two spellings of an address mean.
func sameAddr(a, b string) bool {
	if a == b {
		return true
	}
	first, err := net.ResolveUDPAddr("udp", a)
	if err != nil {
		return false
	}
	second, err := net.ResolveUDPAddr("udp", b)
	return err == nil && first.String() == second.String()
}

// verifyFiles compares the SHA-256 sums of all files with those of their values.
func (p *program) verifyFiles(ctx context.Context, t *tree, from getter, o *importOptions) (*verifyFigures, error) {
	var sum verifyFigures
	differ := func(f file, why string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		sum.Differing.add(f.key, why)
	}
	took, err := p.watch(ctx, "verify", t, func(ctx context.Context) error {
		return t.eachBatch(ctx, o.parallel, func(ctx context.Context, _ int, batch []file) error {
			keys := make([]string, len(batch))
			for i, f := range batch {
				keys[i] = f.key
			}
			pairs, err := getAll(ctx, patient{from, p.conn.timeout}, keys)
			if err != nil {
				return fmt.Errorf("files %q to %q: %w", keys[0], keys[len(keys)-1], err)
			}
			for i, f := range batch {
				content, ok := t.read(f)
				if !ok {
					continue
				}
				if why := difference(content, pairs[i]); why != "" {
					differ(f, why)
				}
				t.bytes.Add(int64(len(content)))
				t.files.Add(1)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	sum.figures = t.figures(took)
	return &sum, nil
}

// difference says how a value differs from a file's content; "" if it does not.
func difference(content []byte, stored *kv.Pair) string {
	if stored == nil {
		return "no such key"
	}
	want, got := sha256.Sum256(content), sha256.Sum256(stored.Value)
	if want == got {
		return ""
	}
	return fmt.Sprintf("the file has %s and SHA-256 %x…, its value %s and %x…",
		count(len(content), "byte", "bytes"), want[:8], count(len(stored.Value), "byte", "bytes"), got[:8])
}
