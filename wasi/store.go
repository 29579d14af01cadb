package wasi

import (
	"context"
	"fmt"
	"strconv"

	"github.com/manykv/manykv/kv"
)

// The functions of the interface store. Each lifts its arguments, calls the bucket
// and makes the answer; what it returns is a trap.

func open(c *call) error {
	id, refused, err := c.identifier(0)
	if err != nil {
		return err
	}
	var g Grant
	if refused == nil {
		g, refused = c.in.policy(c.ctx, id)
	}
	if refused != nil {
		c.refuse(4, refused)
		return nil
	}
	c.own(handle{kind: handleBucket, grant: g})
	return nil
}

// maxIdentifier is more than the name of any bucket.
const maxIdentifier = 4 << 10

// identifier lifts what `open` is to open.
func (c *call) identifier(i int) (id string, refused, trap error) {
	b, err := c.text(uint32(c.args[i]), uint32(c.args[i+1]))
	if err != nil {
		return "", nil, err
	}
	if len(b) > maxIdentifier {
		return "", fmt.Errorf("%w: an identifier of %d bytes, at most %d are allowed", kv.ErrTooLarge, len(b), maxIdentifier), nil
	}
	return string(b), nil, nil
}

// own answers with a new handle.
func (c *call) own(h handle) {
	index := c.in.handles.put(h)
	if index == 0 {
		c.refuse(4, fmt.Errorf("%w: %d handles are open, which is the most", kv.ErrTooLarge, maxHandles))
		return
	}
	c.answer.word(4, index)
}

func dropBucket(c *call) error {
	_, err := c.in.handles.take(uint32(c.args[0]), handleBucket)
	return err
}

// bucket returns the grant of the handle that is the first argument.
func (c *call) bucket() (Grant, error) {
	h, err := c.in.handles.at(uint32(c.args[0]), handleBucket)
	if err != nil {
		return Grant{}, err
	}
	return h.grant, nil
}

// readable and writable return the bucket that is the first argument, and the key in
// the second and third.
func (c *call) readable() (b Bucket, key string, refused, trap error) {
	g, err := c.bucket()
	if err != nil {
		return nil, "", nil, err
	}
	key, refused, err = c.key(1)
	return g.Bucket, key, refused, err
}

func (c *call) writable() (b Bucket, key string, refused, trap error) {
	g, err := c.bucket()
	if err != nil {
		return nil, "", nil, err
	}
	key, refused, err = c.key(1)
	if g.ReadOnly && err == nil {
		refused = errReadOnly
	}
	return g.Bucket, key, refused, err
}

var errReadOnly = fmt.Errorf("%w: the bucket was opened for reading only", kv.ErrAccessDenied)

func get(c *call) error {
	b, key, refused, err := c.readable()
	if err != nil {
		return err
	}
	var value []byte
	var found bool
	if refused == nil {
		value, found, refused = b.Get(c.ctx, key)
	}
	c.option(value, found, refused)
	return nil
}

// option answers with a result<option<list<u8>>, error>.
func (c *call) option(value []byte, found bool, refused error) {
	switch {
	case refused != nil:
		c.refuse(4, refused)
	case found:
		c.answer.byte(4, 1)
		c.answer.data(8, value)
	}
}

func set(c *call) error {
	b, key, refused, err := c.writable()
	if err != nil {
		return err
	}
	value, tooLarge, err := c.value(3)
	if err != nil {
		return err
	}
	if refused == nil {
		refused = tooLarge
	}
	if refused == nil {
		refused = b.Set(c.ctx, key, value)
	}
	c.unit(refused)
	return nil
}

// unit answers with a result<_, error>.
func (c *call) unit(refused error) {
	if refused != nil {
		c.refuse(4, refused)
	}
}

func remove(c *call) error {
	b, key, refused, err := c.writable()
	if err != nil {
		return err
	}
	if refused == nil {
		refused = b.Delete(c.ctx, key)
	}
	c.unit(refused)
	return nil
}

func exists(c *call) error {
	b, key, refused, err := c.readable()
	if err != nil {
		return err
	}
	var there bool
	if refused == nil {
		there, refused = b.Exists(c.ctx, key)
	}
	switch {
	case refused != nil:
		c.refuse(4, refused)
	case there:
		c.answer.byte(4, 1)
	}
	return nil
}

// listNumbered is list-keys with the cursor as draft has it, an option<u64>.
func listNumbered(c *call) error {
	g, err := c.bucket()
	if err != nil {
		return err
	}
	cursor := uint64(0)
	switch uint32(c.args[1]) {
	case 0:
	case 1:
		cursor = c.args[2]
	default:
		return fmt.Errorf("an option of case %d", uint32(c.args[1]))
	}
	keys, next, refused := g.Bucket.ListKeys(c.ctx, cursor)
	if refused != nil {
		c.refuse(8, refused)
		return nil
	}
	c.listed(8, keys)
	if next != 0 {
		c.answer.byte(16, 1)
		c.answer.number(24, next)
	}
	return nil
}

// maxCursor is how many digits a cursor has at most.
const maxCursor = 20

// listNamed is list-keys with the cursor as draft2 has it, an option<string>: the
// number in decimal.
func listNamed(c *call) error {
	g, err := c.bucket()
	if err != nil {
		return err
	}
	cursor := uint64(0)
	switch uint32(c.args[1]) {
	case 0:
	case 1:
		text, err := c.text(uint32(c.args[2]), uint32(c.args[3]))
		if err != nil {
			return err
		}
		shown := text[:min(len(text), maxCursor+1)]
		if cursor, err = strconv.ParseUint(string(shown), 10, 64); err != nil {
			c.refuse(4, fmt.Errorf("%w: %q is no cursor of list-keys", kv.ErrInvalid, shown))
			return nil
		}
	default:
		return fmt.Errorf("an option of case %d", uint32(c.args[1]))
	}
	keys, next, refused := g.Bucket.ListKeys(c.ctx, cursor)
	if refused != nil {
		c.refuse(4, refused)
		return nil
	}
	c.listed(4, keys)
	if next != 0 {
		c.answer.byte(12, 1)
		c.answer.text(16, strconv.FormatUint(next, 10))
	}
	return nil
}

// listed puts a list<string> at an offset of the answer.
func (c *call) listed(at int, keys []string) {
	from := c.answer.list(at, len(keys), stringBytes)
	for i, key := range keys {
		c.answer.text(from+i*stringBytes, key)
	}
	c.keys = uint64(len(keys))
}

// refuse makes the answer an error.
func (c *call) refuse(at int, err error) {
	if ctx := context.Cause(c.ctx); ctx != nil {
		err = fmt.Errorf("%w (%w)", err, ctx)
	}
	c.answer.refuse(at, err)
}
