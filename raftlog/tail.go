package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// The layout of a raft-wal segment file, v0.4.2: a header, then frames of 8
// bytes (type, 3 reserved, then the length or, in a commit, the CRC-32C of all
// since the commit before) and a payload padded to 8 bytes.
const (
	walHeaderBytes = 32
	walFrameBytes  = 8

	// walRecordBytes is more than raft-wal adds to the data of one record: the
	// header of the file, those of the frames, padding and the encoded log.
	walRecordBytes = 128

	// scanBytes is the piece in which the unused part of a segment is read.
	scanBytes = 1 << 20
)

// walCommit is a commit frame found in a segment.
type walCommit struct {
	start, at int64  // its checksum covers start up to at, where it is
	sum       uint32 // the checksum
	records   uint64 // records up to here
	index     int64  // where the index of a sealed segment starts, 0 = not sealed
}

// end is where the next append goes, 0 if nothing was committed.
func (c walCommit) end() int64 {
	if c.at == 0 {
		return 0
	}
	return c.at + walFrameBytes
}

// mendTail readies the last segment of the raft-wal in dir for opening. raft-wal
// v0.4.2 leaves three things to us. A segment that was sealed but not yet
// replaced when the process ended refuses every append from then on, so the
// rotation is completed. What an unfinished append left behind may be taken for
// frames after the next, shorter append, so it is zeroed. And a damaged frame
// header ends the log there without an error, so records behind one are an error.
//
// What it leaves is synced: an append that a killed process had written and not
// synced is whole, and whoever reads it takes it for durable.
func mendTail(dir string, disk walDisk, state types.PersistentState) error {
	if len(state.Segments) == 0 {
		return nil
	}
	tail := state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return nil
	}
	name := segment.FileName(tail)
	f, err := disk.files.OpenWriter(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // registered but not yet created: raft-wal creates it
	}
	if err != nil {
		return err
	}
	last, err := mendFile(f, tail.BaseIndex)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("segment %s: %w", name, err)
	}
	if last.index == 0 {
		return nil
	}
	return disk.meta.CommitState(sealed(state, last))
}

// sealed is what raft-wal's rotation makes of its state. The file of the new
// segment is made by its Open.
func sealed(state types.PersistentState, last walCommit) types.PersistentState {
	old := &state.Segments[len(state.Segments)-1]
	old.SealTime = time.Now()
	old.MaxIndex = old.BaseIndex + last.records - 1
	old.IndexStart = uint64(last.index)
	next := types.SegmentInfo{
		ID:         state.NextSegmentID,
		BaseIndex:  old.MaxIndex + 1,
		MinIndex:   old.MaxIndex + 1,
		Codec:      wal.CodecBinaryV1,
		CreateTime: time.Now(),
		SizeLimit:  old.SizeLimit,
	}
	state.NextSegmentID++
	state.Segments = append(state.Segments, next)
	return state
}

// mendFile zeroes what follows the last commit of a segment that starts with
// record base, and returns that commit.
func mendFile(f types.WritableFile, base uint64) (walCommit, error) {
	last, err := lastCommit(f)
	if err != nil {
		return last, err
	}
	end := last.end()
	used, err := usedBytes(f, end)
	if err != nil {
		return last, err
	}
	if used == 0 {
		return last, f.Sync()
	}
	// The committer writes one record and waits, so that one is all that can be
	// unfinished: its data, and the index if it was to seal the segment.
	most := maxCommitBytes + 4*int64(last.records+1) + walRecordBytes
	if used > most {
		return last, fmt.Errorf("%d bytes behind the last commit at %d, want at most %d from an unfinished append", used, end, most)
	}
	rest := make([]byte, used)
	if _, err := f.ReadAt(rest, end); err != nil {
		return last, err
	}
	unfinished := base + last.records
	if seq, at := laterRecord(rest, unfinished); seq != 0 {
		return last, fmt.Errorf("record %d at offset %d is behind a damaged part that starts at or after offset %d, want record %d there",
			seq, end+at, end, unfinished)
	}
	clear(rest)
	if _, err := f.WriteAt(rest, end); err != nil {
		return last, err
	}
	return last, f.Sync()
}

// lastCommit finds the last commit that raft-wal would accept: it walks the
// frames up to the first that is none, and verifies the last commit only.
func lastCommit(r io.ReaderAt) (walCommit, error) {
	var before, last, walked walCommit
	var head [walFrameBytes]byte
	for offset := int64(walHeaderBytes); ; offset += walFrameBytes {
		n, err := r.ReadAt(head[:], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return last, err
		}
		if n < len(head) {
			clear(head[:]) // the end of the file, as good as zeros
		}
		word := binary.LittleEndian.Uint32(head[4:])
		payload := (int64(word) + 7) &^ 7
		switch head[0] {
		case segment.FrameEntry:
			walked.records++
			offset += payload
			continue
		case segment.FrameIndex:
			walked.index = offset + walFrameBytes
			offset += payload
			continue
		case segment.FrameCommit:
			walked.start, walked.at, walked.sum = last.end(), offset, word
			before, last = last, walked
			continue
		}
		break
	}
	if last.at == 0 || walked.records > last.records {
		return last, nil // a later append began, so this one was acknowledged
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(r, last.start, last.at-last.start)); err != nil {
		return last, err
	}
	if sum.Sum32() != last.sum {
		return before, nil
	}
	return last, nil
}

// usedBytes returns how many bytes from offset on there are up to the last one
// that is not zero. Segments are pre-allocated with zeros.
func usedBytes(r io.ReaderAt, offset int64) (int64, error) {
	buf := make([]byte, scanBytes)
	used := int64(0)
	for at := int64(0); ; {
		n, err := r.ReadAt(buf, offset+at)
		for i := n - 1; i >= 0; i-- {
			if buf[i] != 0 {
				used = at + int64(i) + 1
				break
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return used, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// laterRecord looks in rest for a record of ours after number seq and returns
// its number and offset. To be one it must have raft-wal's headers around a frame
// with a valid checksum; a user who writes exactly that into a value, with the
// right number, and loses power in that moment makes the node refuse to start.
func laterRecord(rest []byte, seq uint64) (found uint64, offset int64) {
	for i := 0; i+walFrameBytes <= len(rest); i += walFrameBytes {
		if rest[i] != segment.FrameEntry || rest[i+1]|rest[i+2]|rest[i+3] != 0 {
			continue
		}
		payload := rest[i+walFrameBytes:]
		size := binary.LittleEndian.Uint32(rest[i+4:])
		if uint64(size) > uint64(len(payload)) {
			continue
		}
		if got, data, ok := walRecord(payload[:size]); ok && got > seq && checkFrame(data) == nil {
			return got, int64(i)
		}
	}
	return 0, 0
}

// walRecord reads number and data of a record as raft-wal's codec writes it:
// index, term, type and length as varints, then the data.
func walRecord(payload []byte) (seq uint64, data []byte, ok bool) {
	var fields [4]uint64
	for i := range fields {
		v, n := binary.Uvarint(payload)
		if n <= 0 {
			return 0, nil, false
		}
		fields[i], payload = v, payload[n:]
	}
	if fields[3] > uint64(len(payload)) {
		return 0, nil, false
	}
	return fields[0], payload[:fields[3]], true
}
