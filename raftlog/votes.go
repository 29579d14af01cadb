package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/manykv/manykv/crash"
)

// The keys raft uses in a StableStore. It writes the first two one after the
// other, never one without the other.
const (
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
	keyCurrentTerm  = "CurrentTerm"

	// keyVote holds what raft keeps under keyLastVoteTerm and keyLastVoteCand.
	keyVote = "Vote"
)

// maxStableBytes bounds a value: a candidate is an address, terms are 8 bytes,
// and the largest a caller keeps beside them describes a snapshot.
const maxStableBytes = 64 << 10

// A value in the vote file is the CRC-32C, big endian, of its key in the file
// and the payload, then the payload. The key in the sum ties the value to its
// shard. A uint64 is 8 bytes, big endian; a vote is the term likewise, then the
// candidate. A key in the file is shard (4 bytes, big endian), then raft's key.
// It has no generation: a server that forgot its vote when its replica left, and
// got it back, could vote twice in one term.
const (
	sumBytes  = 4
	termBytes = 8
)

// VotesConfig says where Votes live. Path is required.
type VotesConfig struct {
	Path string // the file; its directory is created if absent

	// Fatal is called once, when a write failed or hung; the process must stop.
	// It must not call Close. nil panics.
	Fatal func(error)
}

// stable is what Votes need of a store. Set returns once the value is durable;
// Get answers raftboltdb.ErrKeyNotFound for a missing key.
type stable interface {
	Set(key, value []byte) error
	Get(key []byte) ([]byte, error)
	io.Closer
}

// Votes keeps terms and votes of all shards of one node in one file. They stay
// when a replica is dropped.
type Votes struct {
	store stable
	fail  *failStop

	write  sync.Mutex // one write at a time, as failStop wants; bbolt has one writer anyway
	closed bool       // guarded by write

	mu     sync.Mutex // guards shards
	shards map[uint32]*ShardVotes

	closing  sync.Once
	closeErr error // written inside closing
}

// OpenVotes opens the vote file, creating it if it is absent.
func OpenVotes(cfg VotesConfig) (*Votes, error) {
	if cfg.Path == "" {
		return nil, errors.New("raftlog: votes: Path is empty, want a file")
	}
	if err := makeDir(filepath.Dir(cfg.Path)); err != nil {
		return nil, fmt.Errorf("raftlog: votes: %w", err)
	}
	store, err := openBolt(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("raftlog: open votes %s: %w", cfg.Path, err)
	}
	return startVotes(store, cfg.Fatal), nil
}

func startVotes(store stable, fatal func(error)) *Votes {
	return &Votes{store: store, fail: newFailStop(fatal), shards: make(map[uint32]*ShardVotes)}
}

// Close waits for the write under way and closes the file. A second call
// answers the same.
func (v *Votes) Close() error {
	v.closing.Do(func() {
		v.write.Lock()
		defer v.write.Unlock()
		v.closed = true
		v.fail.close()
		v.closeErr = v.store.Close()
	})
	return v.closeErr
}

// Shard returns the votes of a shard: the same object for the same shard.
func (v *Votes) Shard(shard uint32) *ShardVotes {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.shards[shard]
	if s == nil {
		s = &ShardVotes{votes: v, shard: shard}
		v.shards[shard] = s
	}
	return s
}

func (v *Votes) set(key, payload []byte) error {
	if len(payload) > maxStableBytes {
		return fmt.Errorf("raftlog: votes: got a value of %d bytes, want at most %d", len(payload), maxStableBytes)
	}
	v.write.Lock()
	defer v.write.Unlock()
	if v.closed {
		return ErrClosed // not a failed write: nothing to stop the process for
	}
	crash.Point(crashVoteWrite)
	err := v.fail.guard(func() error {
		if err := v.store.Set(key, sealValue(key, payload)); err != nil {
			return fmt.Errorf("raftlog: write votes: %w", err)
		}
		return nil
	})
	crash.Point(crashVoteWritten)
	return err
}

// get returns the payload of key, or raftboltdb.ErrKeyNotFound itself, whose
// text raft compares.
func (v *Votes) get(key []byte) ([]byte, error) {
	value, err := v.store.Get(key)
	if err != nil {
		return nil, err
	}
	return openValue(key, value)
}

// ShardVotes is the raft.StableStore of one replica. raft writes a vote as a
// term, then a candidate (hashicorp/raft#661): the term waits in memory until
// the candidate comes, and both are read from the one record they become.
type ShardVotes struct {
	votes *Votes
	shard uint32

	mu     sync.Mutex // guards what follows; held across writes, so they keep their order
	term   uint64     // the LastVoteTerm that waits for its LastVoteCand
	staged bool
}

var _ raft.StableStore = (*ShardVotes)(nil)

// Set stores a value durably.
func (s *ShardVotes) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(key) != keyLastVoteCand {
		return s.votes.set(s.key(string(key)), value)
	}
	if !s.staged {
		return fmt.Errorf("raftlog: votes of shard %d: got %s, want %s before it", s.shard, keyLastVoteCand, keyLastVoteTerm)
	}
	vote := binary.BigEndian.AppendUint64(nil, s.term)
	s.staged = false
	return s.votes.set(s.key(keyVote), append(vote, value...))
}

// Get returns a value, or an error that reads "not found".
func (s *ShardVotes) Get(key []byte) ([]byte, error) {
	if string(key) != keyLastVoteCand {
		return s.votes.get(s.key(string(key)))
	}
	_, candidate, err := s.vote()
	return candidate, err
}

// SetUint64 stores a number durably; LastVoteTerm only once its LastVoteCand is
// set. The term that is already stored is not written again: NewRaft sets it at
// every start, in every group.
func (s *ShardVotes) SetUint64(key []byte, value uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyLastVoteTerm:
		s.term, s.staged = value, true
		return s.votes.fail.failure()
	case keyCurrentTerm:
		stored, err := s.GetUint64(key)
		if err == nil && stored == value {
			return s.votes.fail.failure()
		}
		if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return err // damaged: writing over it would hide that
		}
	}
	return s.votes.set(s.key(string(key)), binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 returns a number, or an error that reads "not found".
func (s *ShardVotes) GetUint64(key []byte) (uint64, error) {
	if string(key) == keyLastVoteTerm {
		term, _, err := s.vote()
		return term, err
	}
	payload, err := s.votes.get(s.key(string(key)))
	if err != nil {
		return 0, err
	}
	if len(payload) != termBytes {
		return 0, fmt.Errorf("raftlog: votes of shard %d: %q has %d bytes, want %d", s.shard, key, len(payload), termBytes)
	}
	return binary.BigEndian.Uint64(payload), nil
}

func (s *ShardVotes) vote() (term uint64, candidate []byte, err error) {
	payload, err := s.votes.get(s.key(keyVote))
	if err != nil {
		return 0, nil, err
	}
	return parseVote(payload)
}

// key returns the name in the file of one of raft's keys.
func (s *ShardVotes) key(name string) []byte {
	key := binary.BigEndian.AppendUint32(nil, s.shard)
	return append(key, name...)
}

func sealValue(key, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, valueSum(key, payload)), payload...)
}

func openValue(key, value []byte) ([]byte, error) {
	if len(value) < sumBytes {
		return nil, fmt.Errorf("raftlog: votes: value of %q has %d bytes, want %d or more", key, len(value), sumBytes)
	}
	payload := value[sumBytes:]
	if got, want := valueSum(key, payload), binary.BigEndian.Uint32(value); got != want {
		return nil, fmt.Errorf("raftlog: votes: value of %q: got checksum %08x, want %08x", key, got, want)
	}
	return payload, nil
}

func valueSum(key, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, payload)
}

func parseVote(payload []byte) (term uint64, candidate []byte, err error) {
	if len(payload) < termBytes {
		return 0, nil, fmt.Errorf("raftlog: votes: a vote of %d bytes, want %d or more", len(payload), termBytes)
	}
	return binary.BigEndian.Uint64(payload), payload[termBytes:], nil
}
