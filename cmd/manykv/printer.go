package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
)

// printer is one of the program's outputs. Its first error is kept, to be
// looked at once in the end.
type printer struct {
	mu  sync.Mutex // one line at a time: progress prints beside the command
	w   io.Writer
	err error // guarded by mu
}

func (o *printer) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.w.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// failure is the first error.
func (o *printer) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

func (o *printer) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(o, format, args...) // kept
}

// json prints v as one line.
func (o *printer) json(v any) error {
	e := json.NewEncoder(o)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// count is a number with its noun.
func count[N int | int64 | uint64](n N, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// table prints rows of cells in columns; numbers are read best to the right.
func (o *printer) table(right bool, rows [][]string) {
	flags, end := uint(0), "\n"
	if right {
		flags, end = tabwriter.AlignRight, "\t\n" // only a cell that is ended is aligned
	}
	t := tabwriter.NewWriter(o, 0, 0, 2, ' ', flags)
	for _, row := range rows {
		_, _ = t.Write([]byte(strings.Join(row, "\t") + end)) // kept
	}
	_ = t.Flush() // kept
}
