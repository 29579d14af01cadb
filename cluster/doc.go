// Package cluster is one node: its replicas, the meta group, its membership,
// and the serving of requests.
//
// It promises that an acknowledged write is on the disks of a majority of its
// shard's replicas and applied; that a read, through any replica, sees every
// write acknowledged before the read began; that a write is called not applied
// only when raft says it can never be; that a node with data, or one that sees
// a cluster, never founds another; that a data directory which lost its contents
// never speaks under its old identity; that a replica which begins without a log
// takes no part in elections before it has all there is; and that a node drops data
// only when the leader of the meta group has confirmed that it is placed elsewhere.
//
// It refuses to trust gossip with more than hints (addresses, the newest epoch):
// who is a member, and where shards live, are decided by the meta group.
//
// A Node owns everything it opened, in the order LOCK, log, votes, store,
// transport, gossip, replicas, and closes it in the opposite order. The control
// goroutine alone opens, restarts and drops replicas; the set of replicas and the map
// are replaced, never edited, so that serving takes no lock to find them.
//
// Lock order: confirmer.mu is the only lock taken while serving and nothing is
// called under it but raft's atomic getters. replica.changing is held for one step
// of a group's configuration; replica.reloading is taken last of all.
package cluster
