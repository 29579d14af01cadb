package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// stateVersion is the version of the state file's format.
	stateVersion = 1
	// mostStateBytes bounds a state file: a path, a name, and the remarks.
	mostStateBytes = 1 << 20
)

// importState is how far an import is: everything before is acknowledged. It is
// a state file's content, as JSON.
type importState struct {
	Version  int    `json:"version"`
	Bucket   string `json:"bucket"`
	BucketID string `json:"bucket_id"` // another bucket of that name has another
	Source   string `json:"source"`    // absolute path of the directory or file
	// File is the last that is imported of a directory; a file has a place.
	File string `json:"file,omitempty"`
	place
	// Size and Modified are File's or the source's: they must still be the same.
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Keys     int64     `json:"keys"` // imported so far
	// Skipped may name a file twice: those after File are found again.
	Skipped remarks `json:"skipped"`
}

// decodeState reads a state file's content.
func decodeState(b []byte) (importState, error) {
	var s importState
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	switch {
	case s.Version != stateVersion:
		return s, fmt.Errorf("version %d, want %d", s.Version, stateVersion)
	case s.Offset < 0 || s.Line < 0 || s.Offset > s.Size && s.File == "":
		return s, fmt.Errorf("line %d, byte %d of a source of %d bytes", s.Line, s.Offset, s.Size)
	case s.File != "" && !fs.ValidPath(s.File):
		return s, fmt.Errorf("%q is no path below a directory", s.File)
	}
	return s, nil
}

// bookmark notes how far an import is, so that another can go on from there.
type bookmark struct {
	file string // the state file; "": nothing is noted

	mu    sync.Mutex
	state importState                // guarded by mu
	next  int                        // the first batch that is not noted; guarded by mu
	ended map[int]func(*importState) // later batches that are acknowledged already; guarded by mu
}

// openBookmark reads a state file; where there is none the import begins.
func openBookmark(file, bucket, bucketID, source string) (*bookmark, error) {
	source, err := filepath.Abs(source)
	if err != nil {
		return nil, err
	}
	m := &bookmark{file: file, ended: make(map[int]func(*importState))}
	m.state = importState{Version: stateVersion, Bucket: bucket, BucketID: bucketID, Source: source}
	if file == "" {
		return m, nil
	}
	if err := outside(source, file); err != nil {
		return nil, err
	}
	b, err := readBounded(file, mostStateBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := decodeState(b)
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w", file, err)
	}
	if found.Bucket != bucket || found.BucketID != bucketID || found.Source != source {
		return nil, fmt.Errorf("state file %s is of an import of %s into the bucket %q with the id %s, this is of %s into %q with the id %s: remove it to begin anew",
			file, found.Source, found.Bucket, found.BucketID, source, bucket, bucketID)
	}
	m.state = found
	return m, nil
}

// outside refuses a state file that would be imported itself.
func outside(source, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	below, err := filepath.Rel(source, file)
	if err == nil && below != ".." && !strings.HasPrefix(below, ".."+string(filepath.Separator)) {
		return usagef("--resume %s is below %s, which is imported", file, source)
	}
	return nil
}

func readBounded(file string, most int64) (b []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, most+1)); err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", file, most)
	}
	return b, err
}

// begun says whether an earlier import got anywhere.
func (m *bookmark) begun() bool { return m.state.Keys > 0 || m.state.File != "" }

// checkSame says whether a file is the one that the state speaks of.
func (m *bookmark) checkSame(name string, info fs.FileInfo) error {
	if s := &m.state; info.Size() != s.Size || !info.ModTime().Equal(s.Modified) {
		return fmt.Errorf("%s has %d bytes of %v, but had %d of %v when it was imported: remove the state file %s to begin anew",
			name, info.Size(), info.ModTime(), s.Size, s.Modified, m.file)
	}
	return nil
}

// reached is told that a batch, counted from 0, is acknowledged, and what that
// changes in the state. It is noted once all batches before it are.
func (m *bookmark) reached(batch int, change func(*importState)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended[batch] = change
	if batch != m.next {
		return nil
	}
	for ; m.ended[m.next] != nil; m.next++ {
		m.ended[m.next](&m.state)
		delete(m.ended, m.next)
	}
	if m.file == "" {
		return nil
	}
	b, err := json.Marshal(&m.state)
	if err == nil {
		err = replaceFile(m.file, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note how far the import is: %w", err)
	}
	return nil
}

// finished removes the state file: there is nothing to go on with.
func (m *bookmark) finished() error {
	if m.file == "" {
		return nil
	}
	if err := os.Remove(m.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// stopped adds to an error that the import can go on.
func (m *bookmark) stopped(err error) error {
	if m.file == "" {
		return err
	}
	return hinted{err, "the same command goes on where this one stopped"}
}
