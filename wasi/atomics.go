package wasi

import (
	"errors"
	"fmt"
	"math"

	"github.com/manykv/manykv/kv"
)

// The functions of the interface atomics.

// incrementSigned is draft2's: its numbers are the store's.
func incrementSigned(c *call) error {
	b, key, refused, err := c.writable()
	if err != nil {
		return err
	}
	var sum int64
	if refused == nil {
		sum, refused = b.Increment(c.ctx, key, int64(c.args[3]))
	}
	if refused != nil {
		c.refuse(8, refused)
		return nil
	}
	c.answer.number(8, uint64(sum))
	return nil
}

// incrementUnsigned is draft's, whose numbers have no sign. The store's have.
func incrementUnsigned(c *call) error {
	b, key, refused, err := c.writable()
	if err != nil {
		return err
	}
	delta := c.args[3]
	if refused == nil && delta > math.MaxInt64 {
		refused = fmt.Errorf("%w: an increment by %d, at most %d is allowed", kv.ErrInvalid, delta, int64(math.MaxInt64))
	}
	var sum int64
	if refused == nil {
		sum, refused = b.Increment(c.ctx, key, int64(delta))
	}
	if refused == nil && sum < 0 {
		refused = fmt.Errorf("%w: the number is %d now, which a number without sign cannot be", kv.ErrInvalid, sum)
	}
	if refused != nil {
		c.refuse(8, refused)
		return nil
	}
	c.answer.number(8, uint64(sum))
	return nil
}

// expect reads a key: what is there now is what a swap will expect.
func (c *call) expect(b Bucket, key string) (swap, error) {
	value, version, found, err := b.GetVersion(c.ctx, key)
	if err != nil {
		return swap{}, err
	}
	s := swap{key: key, version: version, found: found}
	if c.in.handles.room(value) {
		s.known, s.value = true, append([]byte(nil), value...)
	}
	return s, nil
}

// casNew remembers the version the key has now.
func casNew(c *call) error {
	g, err := c.bucket()
	if err != nil {
		return err
	}
	key, refused, err := c.key(1)
	if err != nil {
		return err
	}
	var s swap
	if refused == nil {
		s, refused = c.expect(g.Bucket, key)
	}
	if refused != nil {
		c.refuse(4, refused)
		return nil
	}
	c.own(handle{kind: handleCas, grant: g, swap: s})
	return nil
}

// casCurrent answers with the value that the swap will replace. If it is not held it
// is read again, and the version that comes with it is the one expected from then on.
func casCurrent(c *call) error {
	h, err := c.in.handles.at(uint32(c.args[0]), handleCas)
	if err != nil {
		return err
	}
	value := h.swap.value
	if !h.swap.known {
		v, version, found, refused := h.grant.Bucket.GetVersion(c.ctx, h.swap.key)
		if refused != nil {
			c.refuse(4, refused)
			return nil
		}
		value, h.swap.version, h.swap.found = v, version, found
	}
	c.option(value, h.swap.found, nil)
	return nil
}

// casSwap takes its cas, whatever comes of it. One that failed because the key was
// written meanwhile gives back another that expects what is there now.
func casSwap(c *call) error {
	value, refused, err := c.value(1)
	if err != nil {
		return err
	}
	h, err := c.in.handles.take(uint32(c.args[0]), handleCas)
	if err != nil {
		return err
	}
	if h.grant.ReadOnly {
		refused = errReadOnly
	}
	if refused == nil {
		_, refused = h.grant.Bucket.CompareAndSwap(c.ctx, h.swap.key, h.swap.version, value)
	}
	if refused == nil {
		return nil
	}
	if errors.Is(refused, kv.ErrConflict) && !errors.Is(refused, kv.ErrUnknown) {
		var s swap
		if s, refused = c.expect(h.grant.Bucket, h.swap.key); refused == nil {
			c.answer.byte(0, 1)
			c.answer.byte(4, caseCasFailed)
			c.answer.word(8, c.in.handles.put(handle{kind: handleCas, grant: h.grant, swap: s})) // one was taken just now
			return nil
		}
	}
	c.answer.byte(4, caseStoreError)
	c.refuse(8, refused)
	return nil
}

func dropCas(c *call) error {
	_, err := c.in.handles.take(uint32(c.args[0]), handleCas)
	return err
}
