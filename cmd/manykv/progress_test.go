package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressReplacesALineOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		lines := []string{"a longer line", "short"}
		p := startProgress(&printer{w: &out}, true, func() string {
			line := lines[0]
			lines = lines[1:]
			return line
		})
		time.Sleep(2*redrawEvery + redrawEvery/2) // of the bubble's clock
		p.Close()
		if want := "\ra longer line\x1b[K\rshort\x1b[K\r\x1b[K"; out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	})
}

func TestProgressIsALineNowAndThenElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := startProgress(&printer{w: &out}, false, func() string { return "line" })
		time.Sleep(2*reportEvery + reportEvery/2) // of the bubble's clock
		p.Close()
		if want := "line\nline\n"; out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	})
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        string
	}{
		{0, 0, "[........................]"},
		{0, 10, "[........................]"},
		{5, 10, "[############............]"},
		{10, 10, "[########################]"},
		{11, 10, "[########################]"}, // files have grown
	} {
		if got := bar(c.done, c.total); got != c.want {
			t.Errorf("bar(%d, %d): got %s, want %s", c.done, c.total, got, c.want)
		}
	}
}
