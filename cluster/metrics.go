package cluster

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/raftlog"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
	"github.com/manykv/manykv/transport/raftnet"
)

// What a node shows of itself, in two tables. Names follow Prometheus' rules: the
// unit is in the name, counters end in _total.

// observed are the families that are counted while they happen. Each request is
// counted once, by its worst outcome.
var observed = struct {
	parts, batches, keys, bytes, slow, commitBytes, commitSeconds family
}{
	parts: family{"manykv_request_duration_seconds", "How long requests for parts of batches took that this node served: what a client, or a coordinating node, sends for one batch.",
		[]string{"operation", "outcome"}},
	batches: family{"manykv_batch_duration_seconds", "How long batches took that this node coordinated for somebody else.",
		[]string{"operation", "outcome"}},
	keys: family{"manykv_request_keys_total", "Keys of the parts that were served here, not sent elsewhere.", []string{"operation"}},
	bytes: family{"manykv_request_bytes_total", "Bytes of requests for parts and of their answers.",
		[]string{"operation", "direction"}},
	slow:          family{"manykv_slow_requests_total", "Requests for parts that took as long as slow_call or longer.", nil},
	commitBytes:   family{"manykv_log_commit_bytes", "Bytes of records of the log: of all entries that shared a sync.", nil},
	commitSeconds: family{"manykv_log_commit_seconds", "How long writing and syncing a record of the log took.", nil},
}

type family struct {
	name, help string
	labels     []string
}

// Buckets: from what a read takes in memory to more than an election and the retries
// after it.
var (
	secondsBuckets = prometheus.ExponentialBuckets(100e-6, 2, 18) // 0.1 ms to 13 s
	bytesBuckets   = prometheus.ExponentialBuckets(256, 4, 9)     // 256 B to 16 MiB
)

func (f family) histogram(buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: f.name, Help: f.help, Buckets: buckets}, f.labels)
}

func (f family) counter() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.name, Help: f.help}, f.labels)
}

// newMeter makes the observed families, and looks their children up once: serving
// looks nothing up.
func newMeter() (*meter, []prometheus.Collector) {
	parts, batches := observed.parts.histogram(secondsBuckets), observed.batches.histogram(secondsBuckets)
	keys, bytes, slow := observed.keys.counter(), observed.bytes.counter(), observed.slow.counter()
	commitBytes, commitSeconds := observed.commitBytes.histogram(bytesBuckets), observed.commitSeconds.histogram(secondsBuckets)
	m := &meter{
		slow: slow.WithLabelValues(), commitBytes: commitBytes.WithLabelValues(), commitSeconds: commitSeconds.WithLabelValues(),
		toTell: rate.NewLimiter(slowPerSecond, slowAtOnce),
	}
	for op := coordinator.OpGet; op < coordinator.OpCount; op++ {
		for o, name := range outcomeNames {
			if outcome(o) == outcomeUnknown && op.Reads() {
				m.parts[op][o], m.batches[op][o] = m.parts[op][outcomeUnavailable], m.batches[op][outcomeUnavailable]
				continue
			}
			m.parts[op][o] = parts.WithLabelValues(op.String(), name)
			if outcome(o) != outcomeRedirected {
				m.batches[op][o] = batches.WithLabelValues(op.String(), name)
			}
		}
		m.keys[op] = keys.WithLabelValues(op.String())
		m.bytesIn[op] = bytes.WithLabelValues(op.String(), "in")
		m.bytesOut[op] = bytes.WithLabelValues(op.String(), "out")
	}
	return m, []prometheus.Collector{parts, batches, keys, bytes, slow, commitBytes, commitSeconds}
}

// glimpse is what the parts of a node say of themselves at one moment.
type glimpse struct {
	node      *Node
	status    coordinator.NodeStatus
	log       raftlog.Stats
	transport transport.Stats
	raft      raftnet.Stats
	reads     readStats
	store     fsm.Stats
}

// sample is one value with its labels' values.
type sample struct {
	value  float64
	labels []string
}

// metric is a line of the table of what is read when it is asked for.
type metric struct {
	family
	kind prometheus.ValueType
	read func(g *glimpse) []sample
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// looked is that table.
var looked = []metric{
	{family{"manykv_node_info", "1, with the node's name, cluster and version.", []string{"node", "cluster", "version"}}, gauge, func(g *glimpse) []sample {
		return []sample{{1, []string{string(g.status.Node), g.status.Cluster, g.status.Version}}}
	}},
	{family{"manykv_map_epoch", "Version of the node's map.", nil}, gauge, one(func(g *glimpse) uint64 { return g.status.Epoch })},

	{family{"manykv_shard_leader", "1 if this node leads the shard.", []string{"shard"}}, gauge, perShard(func(s *coordinator.ShardStatus) uint64 { return flag(s.Role == "leader") })},
	{family{"manykv_shard_has_leader", "1 if the replica knows of a leader.", []string{"shard"}}, gauge, perShard(func(s *coordinator.ShardStatus) uint64 { return flag(s.Leader != "") })},
	{family{"manykv_shard_quarantined", "1 if the replica takes no part in its group because it lost something.", []string{"shard"}}, gauge, perShard(func(s *coordinator.ShardStatus) uint64 { return flag(s.Reason != "") })},
	{family{"manykv_shard_term", "Raft term of the replica.", []string{"shard"}}, gauge, perRunning(func(s *coordinator.ShardStatus) uint64 { return s.Term })},
	{family{"manykv_shard_commit_index", "Last entry the replica knows to be committed.", []string{"shard"}}, gauge, perRunning(func(s *coordinator.ShardStatus) uint64 { return s.Commit })},
	{family{"manykv_shard_applied_index", "Last entry the replica has applied.", []string{"shard"}}, gauge, perShard(func(s *coordinator.ShardStatus) uint64 { return s.Applied })},
	{family{"manykv_shard_last_index", "Last entry of the replica's log.", []string{"shard"}}, gauge, perRunning(func(s *coordinator.ShardStatus) uint64 { return s.Last })},
	{family{"manykv_shard_lag_entries", "Entries that are committed and not applied yet.", []string{"shard"}}, gauge, perRunning(func(s *coordinator.ShardStatus) uint64 { return s.Commit - min(s.Commit, s.Applied) })},

	{family{"manykv_log_entries_total", "Raft entries in records of the log, of all shards.", nil}, counter, one(func(g *glimpse) uint64 { return g.log.Entries })},
	{family{"manykv_log_carried_bytes_total", "Bytes written again so that older files of the log could go.", nil}, counter, one(func(g *glimpse) uint64 { return g.log.Carried })},
	{family{"manykv_log_reclaimed_bytes_total", "Bytes of the log given back.", nil}, counter, one(func(g *glimpse) uint64 { return g.log.Reclaimed })},
	{family{"manykv_log_bytes", "Size of the log of all shards.", nil}, gauge, one(func(g *glimpse) uint64 { return uint64(g.log.Journal) })},
	{family{"manykv_log_live_bytes", "Bytes of it that are still needed.", nil}, gauge, one(func(g *glimpse) uint64 { return uint64(g.log.Live) })},

	{family{"manykv_read_index_total", "Read indexes that were begun, each for all reads of a shard that waited together.", nil}, counter, one(func(g *glimpse) uint64 { return g.reads.confirmations })},
	{family{"manykv_read_index_reads_total", "Parts of reads that began one or joined one.", nil}, counter, one(func(g *glimpse) uint64 { return g.reads.reads })},
	{family{"manykv_read_index_failures_total", "Read indexes that were not confirmed: no majority, the leader was deposed, or had not begun its term.", nil}, counter, one(func(g *glimpse) uint64 { return g.reads.failed })},
	{family{"manykv_read_index_messages_total", "Confirming messages sent to peers, each for all shards that waited.", nil}, counter, one(func(g *glimpse) uint64 { return g.reads.messages })},

	{family{"manykv_store_bytes", "Size of the data on disk.", nil}, gauge, one(func(g *glimpse) uint64 { return g.store.DiskBytes })},
	{family{"manykv_store_cache_hits_total", "Blocks of the store found in its cache.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.CacheHits })},
	{family{"manykv_store_cache_misses_total", "Blocks of the store read from disk.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.CacheMisses })},
	{family{"manykv_value_cache_hits_total", "Keys read that the cache of values or the write buffer had.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.ValueHits })},
	{family{"manykv_value_cache_misses_total", "Keys read that neither had: they are on disk, or missing.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.ValueMisses })},
	{family{"manykv_store_buffer_bytes", "What the write buffers take of write_buffer_bytes.", nil}, gauge, one(func(g *glimpse) uint64 { return g.store.BufferBytes })},
	{family{"manykv_store_buffer_moves_total", "How often a shard's rows moved from its write buffer to the tables.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.BufferMoves })},
	{family{"manykv_store_flushes_total", "Memtables written to disk.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.Flushes })},
	{family{"manykv_store_compactions_total", "Compactions done.", nil}, counter, one(func(g *glimpse) uint64 { return g.store.Compactions })},
	{family{"manykv_store_compaction_debt_bytes", "Bytes that wait to be compacted, as estimated.", nil}, gauge, one(func(g *glimpse) uint64 { return g.store.CompactionDebt })},

	{family{"manykv_admission_bytes", "Bytes that count against request_bytes: of requests being received or served, of writes under way, of answers being made.", []string{"what"}}, gauge, func(g *glimpse) []sample {
		return []sample{
			{float64(g.transport.InflightBytes), []string{"requests"}},
			{float64(g.node.proposed.used.Load()), []string{"writes"}},
			{float64(g.node.answered.used.Load()), []string{"answers"}},
		}
	}},
	{family{"manykv_admission_limit_bytes", "The most each of them may be: request_bytes.", nil}, gauge, one(func(g *glimpse) uint64 { return uint64(g.node.cfg.RequestBytes) })},
	{family{"manykv_refused_calls_total", "Calls refused before they were served: over budget, too many, too large, or the node stops.", nil}, counter, one(func(g *glimpse) uint64 { return g.transport.RefusedCalls })},

	{family{"manykv_transport_bytes_total", "Bytes of frames on streams.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.transport.BytesIn, g.transport.BytesOut })},
	{family{"manykv_transport_frames_total", "Frames on streams.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.transport.FramesIn, g.transport.FramesOut })},
	{family{"manykv_transport_bulk_bytes_total", "Bytes of snapshots.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.transport.BulkIn, g.transport.BulkOut })},
	{family{"manykv_transport_writes_total", "Writes by which frames left: several may share one.", nil}, counter, one(func(g *glimpse) uint64 { return g.transport.WritesOut })},
	{family{"manykv_transport_connections", "Connections.", []string{"direction"}}, gauge, inOut(func(g *glimpse) (in, out uint64) { return uint64(g.transport.Accepted), uint64(g.transport.Dialled) })},
	{family{"manykv_transport_dial_failures_total", "Connections that could not be made.", nil}, counter, one(func(g *glimpse) uint64 { return g.transport.DialFailures })},
	{family{"manykv_transport_refused_peers_total", "Handshakes that ended because of a certificate.", nil}, counter, one(func(g *glimpse) uint64 { return g.transport.RefusedPeers })},
	{family{"manykv_transport_bad_streams_total", "Connections ended because of what was sent on them.", nil}, counter, one(func(g *glimpse) uint64 { return g.transport.BadStreams })},

	{family{"manykv_raft_messages_total", "Raft messages of all shards.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.raft.MessagesReceived, g.raft.MessagesSent })},
	{family{"manykv_raft_frames_total", "Frames they travelled in.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.raft.FramesReceived, g.raft.FramesSent })},
	{family{"manykv_raft_dropped_messages_total", "Raft messages that were lost here.", []string{"reason"}}, counter, func(g *glimpse) []sample {
		r := &g.raft
		return []sample{
			{float64(r.DroppedQueueFull), []string{"queue full"}}, {float64(r.DroppedExpired), []string{"expired"}},
			{float64(r.DroppedUnsent), []string{"unsent"}}, {float64(r.DroppedForged), []string{"forged"}},
			{float64(r.DroppedMalformed), []string{"malformed"}}, {float64(r.DroppedNoGroup), []string{"no group"}},
			{float64(r.DroppedInboxFull), []string{"inbox full"}}, {float64(r.DroppedAbstained), []string{"abstained"}},
			{float64(r.DroppedLate), []string{"late"}},
		}
	}},
	{family{"manykv_raft_snapshots_total", "Snapshots sent and installed.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.raft.SnapshotsReceived, g.raft.SnapshotsSent })},

	{family{"manykv_gossip_members", "Nodes that gossip knows.", []string{"state"}}, gauge, func(g *glimpse) []sample {
		alive := 0
		for _, m := range g.status.Members {
			alive += int(flag(m.Alive))
		}
		return []sample{{float64(alive), []string{"alive"}}, {float64(len(g.status.Members) - alive), []string{"gone"}}}
	}},
	{family{"manykv_gossip_packets_total", "Datagrams of gossip.", []string{"direction"}}, counter, inOut(func(g *glimpse) (in, out uint64) { return g.transport.PacketsIn, g.transport.PacketsOut })},
	{family{"manykv_gossip_dropped_packets_total", "Datagrams not taken: under a wrong key, or too many.", []string{"reason"}}, counter, func(g *glimpse) []sample {
		return []sample{{float64(g.transport.ForgedPackets), []string{"forged"}}, {float64(g.transport.DroppedPackets), []string{"too many"}}}
	}},
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func one(of func(*glimpse) uint64) func(*glimpse) []sample {
	return func(g *glimpse) []sample { return []sample{{float64(of(g)), nil}} }
}

func inOut(of func(*glimpse) (in, out uint64)) func(*glimpse) []sample {
	return func(g *glimpse) []sample {
		in, out := of(g)
		return []sample{{float64(in), []string{"in"}}, {float64(out), []string{"out"}}}
	}
}

func perShard(of func(*coordinator.ShardStatus) uint64) func(*glimpse) []sample {
	return perReplica(of, func(*coordinator.ShardStatus) bool { return true })
}

// perRunning leaves out replicas that take no part in their group now: their zeros
// would look like a fall.
func perRunning(of func(*coordinator.ShardStatus) uint64) func(*glimpse) []sample {
	return perReplica(of, func(s *coordinator.ShardStatus) bool { return s.Term > 0 })
}

func perReplica(of func(*coordinator.ShardStatus) uint64, shown func(*coordinator.ShardStatus) bool) func(*glimpse) []sample {
	return func(g *glimpse) (all []sample) {
		for i := range g.status.Shards {
			if s := &g.status.Shards[i]; shown(s) {
				all = append(all, sample{float64(of(s)), []string{shardLabel(s.Shard)}})
			}
		}
		return all
	}
}

func shardLabel(s sharding.Shard) string { return strconv.FormatUint(uint64(s), 10) }

// collector shows the table of what is looked at.
type collector struct {
	n     *Node
	descs []*prometheus.Desc // by place in looked
}

// Metrics returns collectors of everything the node shows of itself. They may be asked
// from any goroutine, also while the node closes and after it.
func (n *Node) Metrics() []prometheus.Collector {
	c := &collector{n: n}
	for i := range looked {
		c.descs = append(c.descs, prometheus.NewDesc(looked[i].name, looked[i].help, looked[i].labels, nil))
	}
	return append([]prometheus.Collector{c}, n.observed...)
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect is prometheus.Collector's.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	g := &glimpse{
		node: c.n, status: c.n.outline(), log: c.n.logs.Stats(), transport: c.n.trans.Stats(), raft: c.n.net.Stats(),
		reads: c.n.confirm.stats(), store: c.n.store.Stats(),
	}
	for i := range looked {
		for _, s := range looked[i].read(g) {
			to <- prometheus.MustNewConstMetric(c.descs[i], looked[i].kind, s.value, s.labels...)
		}
	}
}
