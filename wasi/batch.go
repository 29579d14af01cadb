package wasi

import "fmt"

// The functions of the interface batch: each is one call of the bucket.

func getMany(c *call) error {
	g, err := c.bucket()
	if err != nil {
		return err
	}
	keys, refused, err := c.keyList(1)
	if err != nil {
		return err
	}
	if refused != nil {
		c.refuse(4, refused)
		return nil
	}
	pairs, refused := g.Bucket.GetMany(c.ctx, keys)
	if refused == nil && len(pairs) != len(keys) {
		refused = fmt.Errorf("the store answered %d keys with %d elements", len(keys), len(pairs))
	}
	if refused != nil {
		c.refuse(4, refused)
		return nil
	}
	from := c.answer.list(4, len(keys), foundBytes)
	for i, p := range pairs {
		if p == nil {
			continue
		}
		at := from + i*foundBytes
		c.answer.byte(at, 1)
		c.answer.text(at+4, keys[i])
		c.answer.data(at+12, p.Value)
	}
	return nil
}

func setMany(c *call) error {
	g, err := c.bucket()
	if err != nil {
		return err
	}
	pairs, refused, err := c.pairList(1)
	if err != nil {
		return err
	}
	if g.ReadOnly {
		refused = errReadOnly
	}
	if refused == nil {
		refused = g.Bucket.SetMany(c.ctx, pairs)
	}
	c.unit(refused)
	return nil
}

func deleteMany(c *call) error {
	g, err := c.bucket()
	if err != nil {
		return err
	}
	keys, refused, err := c.keyList(1)
	if err != nil {
		return err
	}
	if g.ReadOnly {
		refused = errReadOnly
	}
	if refused == nil {
		refused = g.Bucket.DeleteMany(c.ctx, keys)
	}
	c.unit(refused)
	return nil
}
