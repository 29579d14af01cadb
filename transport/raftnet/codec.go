package raftnet

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// kind says what a message is. Requests are odd; the answer to a request is
// the next number. The values are on the wire and never change.
type kind byte

const (
	kindAppendEntries       kind = 1
	kindAppendEntriesAnswer kind = 2
	kindVote                kind = 3
	kindVoteAnswer          kind = 4
	kindPreVote             kind = 5
	kindPreVoteAnswer       kind = 6
	kindTimeoutNow          kind = 7
	kindTimeoutNowAnswer    kind = 8
	// kindFailure answers any request that raft refused with an error.
	kindFailure kind = 10
	// The kinds of a bulk stream; in a lane they are refused.
	kindInstallSnapshot       kind = 11
	kindInstallSnapshotAnswer kind = 12
)

func (k kind) request() bool { return k&1 == 1 }
func (k kind) answer() kind  { return k + 1 }
func (k kind) bulk() bool    { return k == kindInstallSnapshot || k == kindInstallSnapshotAnswer }

// failure is the error of the other server's raft.
type failure struct{ text string }

// Bits of the flag byte of a message that has one.
const (
	flagLeadershipTransfer byte = 1 << 0 // kindVote
	flagGranted            byte = 1 << 0 // kindVoteAnswer, kindPreVoteAnswer
	flagSuccess            byte = 1 << 0 // kindAppendEntriesAnswer, kindInstallSnapshotAnswer
	flagNoRetryBackoff     byte = 1 << 1 // kindAppendEntriesAnswer
)

// Whether an entry carries the time the leader appended it.
const (
	flagAppendedAt byte = 1 << 0
	// minEntryBytes is the shortest entry: index, term, type, flags, two empty
	// byte strings. It bounds what a count may claim before it is believed.
	minEntryBytes = 6
)

// messageKind is the kind of a message of raft, given as the pointer raft
// passes. Only a bug can pass another type.
func messageKind(msg any) kind {
	switch msg.(type) {
	case *raft.AppendEntriesRequest:
		return kindAppendEntries
	case *raft.AppendEntriesResponse:
		return kindAppendEntriesAnswer
	case *raft.RequestVoteRequest:
		return kindVote
	case *raft.RequestVoteResponse:
		return kindVoteAnswer
	case *raft.RequestPreVoteRequest:
		return kindPreVote
	case *raft.RequestPreVoteResponse:
		return kindPreVoteAnswer
	case *raft.TimeoutNowRequest:
		return kindTimeoutNow
	case *raft.TimeoutNowResponse:
		return kindTimeoutNowAnswer
	case *raft.InstallSnapshotRequest:
		return kindInstallSnapshot
	case *raft.InstallSnapshotResponse:
		return kindInstallSnapshotAnswer
	case *failure:
		return kindFailure
	default:
		panic(fmt.Sprintf("raftnet: no message kind for %T", msg))
	}
}

// sizeHint is at least the encoded size of msg, for one allocation.
func sizeHint(msg any) int {
	const fixed = 3*(maxAddress+1) + 8*binary.MaxVarintLen64
	switch m := msg.(type) {
	case *raft.AppendEntriesRequest:
		return fixed + entriesSize(m.Entries)
	case *raft.InstallSnapshotRequest:
		return fixed + len(m.Peers) + len(m.Configuration)
	case *failure:
		return fixed + len(m.text)
	default:
		return fixed
	}
}

func appendMessage(dst []byte, msg any) []byte {
	switch m := msg.(type) {
	case *raft.AppendEntriesRequest:
		return appendAppendEntries(dst, m)
	case *raft.AppendEntriesResponse:
		dst = appendHeader(dst, m.RPCHeader)
		dst = binary.AppendUvarint(dst, m.Term)
		dst = binary.AppendUvarint(dst, m.LastLog)
		var f byte
		if m.Success {
			f |= flagSuccess
		}
		if m.NoRetryBackoff {
			f |= flagNoRetryBackoff
		}
		return append(dst, f)
	case *raft.RequestVoteRequest:
		dst = appendHeader(dst, m.RPCHeader)
		dst = binary.AppendUvarint(dst, m.Term)
		dst = appendBytes(dst, m.Candidate)
		dst = binary.AppendUvarint(dst, m.LastLogIndex)
		dst = binary.AppendUvarint(dst, m.LastLogTerm)
		return appendFlag(dst, m.LeadershipTransfer, flagLeadershipTransfer)
	case *raft.RequestVoteResponse:
		dst = appendHeader(dst, m.RPCHeader)
		dst = binary.AppendUvarint(dst, m.Term)
		dst = appendBytes(dst, m.Peers)
		return appendFlag(dst, m.Granted, flagGranted)
	case *raft.RequestPreVoteRequest:
		dst = appendHeader(dst, m.RPCHeader)
		dst = binary.AppendUvarint(dst, m.Term)
		dst = binary.AppendUvarint(dst, m.LastLogIndex)
		return binary.AppendUvarint(dst, m.LastLogTerm)
	case *raft.RequestPreVoteResponse:
		dst = appendHeader(dst, m.RPCHeader)
		dst = binary.AppendUvarint(dst, m.Term)
		return appendFlag(dst, m.Granted, flagGranted)
	case *raft.TimeoutNowRequest:
		return appendHeader(dst, m.RPCHeader)
	case *raft.TimeoutNowResponse:
		return appendHeader(dst, m.RPCHeader)
	case *raft.InstallSnapshotRequest:
		return appendInstallSnapshot(dst, m)
	case *raft.InstallSnapshotResponse:
		dst = appendHeader(dst, m.RPCHeader)
		dst = binary.AppendUvarint(dst, m.Term)
		return appendFlag(dst, m.Success, flagSuccess)
	case *failure:
		return append(dst, m.text...)
	default:
		panic(fmt.Sprintf("raftnet: no encoding for %T", msg))
	}
}

// decodeMessage decodes the body of a message of kind k into the pointer raft
// expects. Byte strings are slices of body.
func decodeMessage(k kind, body []byte) (any, error) {
	r := &reader{b: body}
	var msg any
	switch k {
	case kindAppendEntries:
		msg = readAppendEntries(r)
	case kindAppendEntriesAnswer:
		m := &raft.AppendEntriesResponse{RPCHeader: readHeader(r), Term: r.uvarint(), LastLog: r.uvarint()}
		f := r.flags(flagSuccess | flagNoRetryBackoff)
		m.Success, m.NoRetryBackoff = f&flagSuccess != 0, f&flagNoRetryBackoff != 0
		msg = m
	case kindVote:
		m := &raft.RequestVoteRequest{RPCHeader: readHeader(r), Term: r.uvarint(), Candidate: r.bytes()}
		m.LastLogIndex, m.LastLogTerm = r.uvarint(), r.uvarint()
		m.LeadershipTransfer = r.flags(flagLeadershipTransfer) != 0
		msg = m
	case kindVoteAnswer:
		msg = &raft.RequestVoteResponse{
			RPCHeader: readHeader(r), Term: r.uvarint(), Peers: r.bytes(), Granted: r.flags(flagGranted) != 0,
		}
	case kindPreVote:
		msg = &raft.RequestPreVoteRequest{
			RPCHeader: readHeader(r), Term: r.uvarint(), LastLogIndex: r.uvarint(), LastLogTerm: r.uvarint(),
		}
	case kindPreVoteAnswer:
		msg = &raft.RequestPreVoteResponse{
			RPCHeader: readHeader(r), Term: r.uvarint(), Granted: r.flags(flagGranted) != 0,
		}
	case kindTimeoutNow:
		msg = &raft.TimeoutNowRequest{RPCHeader: readHeader(r)}
	case kindTimeoutNowAnswer:
		msg = &raft.TimeoutNowResponse{RPCHeader: readHeader(r)}
	case kindInstallSnapshot:
		msg = readInstallSnapshot(r)
	case kindInstallSnapshotAnswer:
		msg = &raft.InstallSnapshotResponse{
			RPCHeader: readHeader(r), Term: r.uvarint(), Success: r.flags(flagSuccess) != 0,
		}
	case kindFailure:
		if len(body) > maxFailureText {
			return nil, fmt.Errorf("error text too long: got %d bytes, want at most %d", len(body), maxFailureText)
		}
		return &failure{text: string(body)}, nil
	default:
		return nil, fmt.Errorf("unknown message kind: got %d", k)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return msg, nil
}

func appendHeader(dst []byte, h raft.RPCHeader) []byte {
	dst = append(dst, byte(h.ProtocolVersion))
	dst = appendBytes(dst, h.ID)
	return appendBytes(dst, h.Addr)
}

func readHeader(r *reader) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(r.byte()), ID: r.bytes(), Addr: r.bytes()}
}

func appendAppendEntries(dst []byte, m *raft.AppendEntriesRequest) []byte {
	dst = appendHeader(dst, m.RPCHeader)
	dst = binary.AppendUvarint(dst, m.Term)
	dst = appendBytes(dst, m.Leader)
	dst = binary.AppendUvarint(dst, m.PrevLogEntry)
	dst = binary.AppendUvarint(dst, m.PrevLogTerm)
	dst = binary.AppendUvarint(dst, m.LeaderCommitIndex)
	dst = binary.AppendUvarint(dst, uint64(len(m.Entries)))
	for _, l := range m.Entries {
		dst = binary.AppendUvarint(dst, l.Index)
		dst = binary.AppendUvarint(dst, l.Term)
		dst = append(dst, byte(l.Type))
		dst = appendFlag(dst, !l.AppendedAt.IsZero(), flagAppendedAt)
		if !l.AppendedAt.IsZero() {
			dst = binary.BigEndian.AppendUint64(dst, uint64(l.AppendedAt.Unix()))
			dst = binary.BigEndian.AppendUint32(dst, uint32(l.AppendedAt.Nanosecond()))
		}
		dst = appendBytes(dst, l.Data)
		dst = appendBytes(dst, l.Extensions)
	}
	return dst
}

func readAppendEntries(r *reader) *raft.AppendEntriesRequest {
	m := &raft.AppendEntriesRequest{RPCHeader: readHeader(r), Term: r.uvarint(), Leader: r.bytes()}
	m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex = r.uvarint(), r.uvarint(), r.uvarint()
	n := r.uvarint()
	if n > maxEntries || n > uint64(len(r.b)/minEntryBytes) {
		r.fail("too many entries: got %d in %d bytes, want at most %d", n, len(r.b), maxEntries)
	}
	if n == 0 || r.err != nil {
		return m
	}
	logs := make([]raft.Log, n)
	m.Entries = make([]*raft.Log, n)
	for i := range logs {
		readEntry(r, &logs[i])
		m.Entries[i] = &logs[i]
	}
	return m
}

// readEntry refuses what raft answers with a panic: types it does not know
// and configurations it cannot decode. It also refuses the two peer-list types
// that only servers of protocol versions below 1 write.
func readEntry(r *reader, l *raft.Log) {
	l.Index, l.Term, l.Type = r.uvarint(), r.uvarint(), raft.LogType(r.byte())
	if r.flags(flagAppendedAt) != 0 {
		l.AppendedAt = readTime(r)
	}
	l.Data, l.Extensions = r.bytes(), r.bytes()
	switch l.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
	case raft.LogConfiguration:
		if err := checkConfiguration(l.Data); r.err == nil && err != nil {
			r.fail("entry %d: %w", l.Index, err)
		}
	default:
		r.fail("entry %d: unknown type: got %d", l.Index, byte(l.Type))
	}
}

func readTime(r *reader) time.Time {
	sec, nsec := r.uint64(), r.uint32()
	if nsec >= uint32(time.Second) {
		r.fail("bad time: got %d ns, want less than a second", nsec)
		return time.Time{}
	}
	t := time.Unix(int64(sec), int64(nsec)).UTC()
	if t.IsZero() {
		r.fail("bad time: got the zero time, want none")
	}
	return t
}

func appendInstallSnapshot(dst []byte, m *raft.InstallSnapshotRequest) []byte {
	dst = appendHeader(dst, m.RPCHeader)
	dst = append(dst, byte(m.SnapshotVersion))
	dst = binary.AppendUvarint(dst, m.Term)
	dst = appendBytes(dst, m.Leader)
	dst = binary.AppendUvarint(dst, m.LastLogIndex)
	dst = binary.AppendUvarint(dst, m.LastLogTerm)
	dst = appendBytes(dst, m.Peers)
	dst = appendBytes(dst, m.Configuration)
	dst = binary.AppendUvarint(dst, m.ConfigurationIndex)
	return binary.AppendUvarint(dst, uint64(m.Size))
}

// readInstallSnapshot refuses a configuration that raft cannot decode, and
// snapshots of version 0, whose servers are in Peers. Otherwise raft does not
// look at Peers, which it still fills.
func readInstallSnapshot(r *reader) *raft.InstallSnapshotRequest {
	m := &raft.InstallSnapshotRequest{RPCHeader: readHeader(r), SnapshotVersion: raft.SnapshotVersion(r.byte())}
	m.Term, m.Leader, m.LastLogIndex, m.LastLogTerm = r.uvarint(), r.bytes(), r.uvarint(), r.uvarint()
	m.Peers, m.Configuration, m.ConfigurationIndex = r.bytes(), r.bytes(), r.uvarint()
	size := r.uvarint()
	m.Size = int64(size)
	switch {
	case m.SnapshotVersion == 0:
		r.fail("unknown snapshot version: got 0, want at least 1")
	case size > math.MaxInt64:
		r.fail("bad snapshot size: got %d, want at most %d", size, int64(math.MaxInt64))
	}
	if r.err == nil {
		if err := checkConfiguration(m.Configuration); err != nil {
			r.fail("snapshot at %d: %w", m.LastLogIndex, err)
		}
	}
	return m
}

// checkConfiguration decodes a configuration as raft will when it takes the
// entry or the snapshot, because raft.DecodeConfiguration panics on bad bytes and there the
// panic would end the process. This is the only recover of the package.
func checkConfiguration(data []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bad configuration: %v", p)
		}
	}()
	raft.DecodeConfiguration(data)
	return nil
}

func entriesSize(entries []*raft.Log) int {
	size := 0
	for _, l := range entries {
		size += entryOverhead + len(l.Data) + len(l.Extensions)
	}
	return size
}

// fitting is how many of entries one message carries: at least one, at most
// what fits maxAppendBytes.
func fitting(entries []*raft.Log) int {
	size := 0
	for i, l := range entries {
		size += len(l.Data) + len(l.Extensions)
		if size > maxAppendBytes && i > 0 {
			return i
		}
	}
	return len(entries)
}
