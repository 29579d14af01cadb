package main

import (
	"strings"
	"sync/atomic"
	"time"
)

const (
	// redrawEvery is how often a line on a terminal is drawn again: faster is
	// not seen.
	redrawEvery = 200 * time.Millisecond
	// reportEvery is how often progress is reported where it is kept, as in a
	// log of CI.
	reportEvery = 5 * time.Second
	// barWidth leaves room for the figures on a terminal of 80 columns.
	barWidth = 24
)

// progress shows how far something is, until it is closed: one line that
// replaces itself on a terminal, a line every few seconds elsewhere.
type progress struct {
	stop chan struct{}
	done chan struct{}
}

// startProgress calls line, from a goroutine of its own, for what to show.
func startProgress(w *printer, terminal bool, line func() string) *progress {
	p := &progress{stop: make(chan struct{}), done: make(chan struct{})}
	every, format := reportEvery, "%s\n"
	if terminal {
		every, format = redrawEvery, "\r%s\x1b[K" // erase what is left of a longer line
	}
	go func() {
		defer close(p.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				w.printf(format, line())
			case <-p.stop:
				if terminal {
					w.printf("\r\x1b[K")
				}
				return
			}
		}
	}()
	return p
}

// Close ends the showing and takes the line off the terminal.
func (p *progress) Close() {
	close(p.stop)
	<-p.done
}

// bar draws done of total.
func bar(done, total int64) string {
	full := 0
	if total > 0 {
		full = int(min(done, total) * barWidth / total)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]"
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// perSecond is 0 for no time rather than infinite.
func perSecond(n float64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return n / d.Seconds()
}

// news is the newest word of something that goes on.
type news struct{ word atomic.Pointer[string] }

func newNews(word string) *news {
	var n news
	n.set(word)
	return &n
}

func (n *news) set(word string) { n.word.Store(&word) }
func (n *news) get() string     { return *n.word.Load() }
