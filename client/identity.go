package client

// ID names the bucket for good: the cluster's id and the bucket's number in it,
// which no other bucket ever has, also none that is given the same name later.
// With sharding.HashString the number also gives the cursor of a key: ListKeys
// from there on begins with the keys of that hash.
func (b *Bucket) ID() (cluster, bucket uint64) { return b.c.coord.Map().Cluster, b.id }
