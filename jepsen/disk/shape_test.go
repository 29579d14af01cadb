//go:build linux

package disk

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// shape writes a file as runs of sectors: "a8 _2 b1" is 8 sectors of a, two of
// zeros and one of b. A sector that is not all the same, or not whole at the end,
// is written with what is in it: "a1 (ab_)". No bytes are "empty".
func shape(data []byte) string {
	var runs []string
	last, n := "", 0
	flush := func() {
		if n > 0 {
			runs = append(runs, fmt.Sprintf("%s%d", last, n))
		}
		n = 0
	}
	for len(data) > 0 {
		sector := data[:min(sectorSize, len(data))]
		data = data[len(sector):]
		c := letter(sector[0])
		if len(sector) < sectorSize || bytes.Count(sector, sector[:1]) != sectorSize {
			flush()
			runs = append(runs, "("+letters(sector)+")")
			continue
		}
		if c != last {
			flush()
		}
		last = c
		n++
	}
	flush()
	if len(runs) == 0 {
		return "empty"
	}
	return strings.Join(runs, " ")
}

// letters writes the different bytes of a sector in their order.
func letters(sector []byte) (s string) {
	for i, c := range sector {
		if i == 0 || sector[i-1] != c {
			s += letter(c)
		}
	}
	return s
}

func letter(c byte) string {
	if c == 0 {
		return "_"
	}
	return string(rune(c))
}

func TestShape(t *testing.T) {
	data := bytes.Join([][]byte{
		bytes.Repeat([]byte("a"), 2*sectorSize), make([]byte, sectorSize),
		bytes.Repeat([]byte("b"), sectorSize/2), make([]byte, sectorSize/2), []byte("bc"),
	}, nil)
	if got, want := shape(data), "a2 _1 (b_) (bc)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
