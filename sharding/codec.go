package sharding

import (
	"encoding/binary"

	"github.com/manykv/manykv/kv"
)

// mapVersion is the version of the map's format.
const mapVersion = 2

// A map is
//
//	version u8 = 2 · cluster u64 · epoch u64 · replicas varint · nodes · leaving · meta group · groups
//	node:    id string · storage u64 · addr string
//	leaving: a varint for each node: 0 it stays · 1 it leaves · 2+i it leaves, and node i is its heir
//	group:   shard u32 · generation u64 · first slot u16 · last slot u16 ·
//	         replicas (indexes into nodes, varints) · adding · removing (each a varint: 0 nobody · 1+i node i)
//
// where lists are a varint count and the items.

// Append appends the map's encoding.
func (m *Map) Append(dst []byte) []byte {
	dst = append(dst, mapVersion)
	dst = binary.BigEndian.AppendUint64(dst, m.Cluster)
	dst = binary.BigEndian.AppendUint64(dst, m.Epoch)
	dst = binary.AppendUvarint(dst, uint64(m.Replicas))
	dst = AppendNodes(dst, m.Nodes)
	for i := range m.Nodes {
		n := &m.Nodes[i]
		leaving := m.place(n.Heir)
		if n.Leaving {
			leaving++
		}
		dst = binary.AppendUvarint(dst, leaving)
	}
	dst = m.appendGroup(dst, &m.Meta)
	dst = binary.AppendUvarint(dst, uint64(len(m.Groups)))
	for i := range m.Groups {
		dst = m.appendGroup(dst, &m.Groups[i])
	}
	return dst
}

// place is how a node that need not be is written: 0 for "", 1+i for node i.
func (m *Map) place(id NodeID) uint64 {
	i, ok := m.index(id)
	if !ok {
		return 0
	}
	return uint64(i) + 1
}

// AppendNodes appends a list of nodes: who they are and where, not whether they
// are leaving.
func AppendNodes(dst []byte, nodes []Node) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(nodes)))
	for _, n := range nodes {
		dst = kv.AppendString(dst, string(n.ID))
		dst = binary.BigEndian.AppendUint64(dst, n.Storage)
		dst = kv.AppendString(dst, n.Addr)
	}
	return dst
}

// DecodeNodes reads a list of nodes.
func DecodeNodes(d *kv.Decoder) []Node {
	nodes := make([]Node, countUpTo(d, MaxNodes, 10, "nodes"))
	for i := range nodes {
		nodes[i] = Node{ID: NodeID(d.String()), Storage: d.U64(), Addr: d.String()}
	}
	return nodes
}

func (m *Map) appendGroup(dst []byte, g *Group) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(g.Shard))
	dst = binary.BigEndian.AppendUint64(dst, g.Generation)
	dst = binary.BigEndian.AppendUint16(dst, g.Range.First)
	dst = binary.BigEndian.AppendUint16(dst, g.Range.Last)
	dst = binary.AppendUvarint(dst, uint64(len(g.Replicas)))
	for _, id := range g.Replicas {
		i, _ := m.index(id) // a valid map has the node
		dst = binary.AppendUvarint(dst, uint64(i))
	}
	dst = binary.AppendUvarint(dst, m.place(g.Adding))
	return binary.AppendUvarint(dst, m.place(g.Removing))
}

// DecodeMap reads a map and validates it.
func DecodeMap(b []byte) (*Map, error) {
	d := kv.NewVersioned(b, "map", mapVersion)
	m := &Map{Cluster: d.U64(), Epoch: d.U64()}
	m.Replicas = int(min(d.Uvarint(), MaxNodes+1)) // more is refused by Validate
	m.Nodes = DecodeNodes(d)
	decodeLeaving(d, m.Nodes)
	m.Meta = decodeGroup(d, m.Nodes)
	m.Groups = make([]Group, countUpTo(d, MaxShards, 19, "shards"))
	for i := range m.Groups {
		m.Groups[i] = decodeGroup(d, m.Nodes)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// countUpTo reads the number of items that follow, at most most of them and
// each of at least itemBytes bytes.
func countUpTo(d *kv.Decoder, most, itemBytes int, what string) int {
	n := d.Count(itemBytes)
	if n > most {
		d.Fail("%d %s, at most %d are allowed", n, what, most)
		return 0
	}
	return n
}

func decodeLeaving(d *kv.Decoder, nodes []Node) {
	for i := range nodes {
		leaving := d.Uvarint()
		if leaving == 0 {
			continue
		}
		nodes[i].Leaving = true
		nodes[i].Heir = nodeAt(d, leaving-1, nodes)
	}
}

// nodeAt returns the node that place wrote.
func nodeAt(d *kv.Decoder, place uint64, nodes []Node) NodeID {
	switch {
	case place == 0:
		return ""
	case place > uint64(len(nodes)):
		d.Fail("node %d of %d", place-1, len(nodes))
		return ""
	}
	return nodes[place-1].ID
}

func decodeGroup(d *kv.Decoder, nodes []Node) Group {
	g := Group{Shard: Shard(d.U32()), Generation: d.U64(), Range: Range{First: d.U16(), Last: d.U16()}}
	g.Replicas = make([]NodeID, countUpTo(d, len(nodes), 1, "replicas"))
	for i := range g.Replicas {
		at := d.Uvarint()
		if at >= uint64(len(nodes)) {
			d.Fail("a replica on node %d of %d", at, len(nodes))
			return g
		}
		g.Replicas[i] = nodes[at].ID
	}
	g.Adding = nodeAt(d, d.Uvarint(), nodes)
	g.Removing = nodeAt(d, d.Uvarint(), nodes)
	return g
}
