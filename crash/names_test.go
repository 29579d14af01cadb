package crash

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Names lists the points that the code has.
func TestNames(t *testing.T) {
	point := regexp.MustCompile(`"(?:raftlog|fsm|cluster)\.[a-z]+\.[a-z]+"`)
	found := make(map[string]bool)
	for _, dir := range []string{"raftlog", "fsm", "cluster"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range point.FindAllString(string(text), -1) {
				found[strings.Trim(name, `"`)] = true
			}
		}
	}
	if want := slices.Sorted(maps.Keys(found)); !slices.Equal(Names, want) {
		t.Errorf("got %d names, want %d:\n%q", len(Names), len(want), want)
	}
}
