package fsm

import (
	"io"
	"maps"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
)

// filesOf reads all files of a directory but Pebble's lock, which is not content.
func filesOf(t *testing.T, fs vfs.FS, dir string) map[string]string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, name := range names {
		if name == "LOCK" {
			continue
		}
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			files[name] = "a directory"
			continue
		}
		f, err := fs.Open(fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		files[name] = string(content)
	}
	return files
}

// TestAReadOnlyStoreChangesNothing: who looks into a store after a failure must
// not repair it unseen.
func TestAReadOnlyStoreChangesNothing(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	d := leading(t, s, 1)
	apply(t, d, Entry{Index: 2, Term: 1, Command: kv.AppendSet(nil, kv.Origin{}, 7, []kv.Pair{{Key: "k", Value: []byte("v")}})})
	want, err := d.Hash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stage := s.stagePath("incomplete")
	closeStore(t, s)
	if err := fs.MkdirAll(stage, 0o755); err != nil {
		t.Fatal(err)
	}
	before := filesOf(t, fs, testDir)

	s, err = Open(Config{Dir: testDir, fs: fs, ReadOnly: true, Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	got, err := dataOf(t, s, 1).Hash(t.Context())
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want the state as it was, %+v", got, err, want)
	}
	if err := s.Flush(); err == nil {
		t.Error("got no error of a flush")
	}
	closeStore(t, s)
	if after := filesOf(t, fs, testDir); !maps.Equal(after, before) {
		t.Errorf("got other files than before")
	}
	if _, err := fs.Stat(stage); err != nil {
		t.Errorf("got %v, want what Open would tidy up left alone", err)
	}

	if s, err := Open(Config{Dir: "nowhere", fs: fs, ReadOnly: true}); err == nil {
		closeStore(t, s)
		t.Error("got a store where there is none")
	}
}
