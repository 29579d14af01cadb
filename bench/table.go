package main

import (
	"fmt"
	"slices"
	"strings"
)

// row is what is compared: an operation and a number of callers.
type row struct {
	op      string
	callers int
}

func (r *report) rows() []row {
	var rows []row
	for i := range r.Cells {
		if one := (row{r.Cells[i].Op, r.Cells[i].Callers}); !slices.Contains(rows, one) {
			rows = append(rows, one)
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		at := func(x row) int { return slices.IndexFunc(r.Cells, func(c measured) bool { return c.Op == x.op }) }
		return at(a) - at(b)
	})
	return rows
}

func (r *report) stores() []string {
	var names []string
	for i := range r.Cells {
		if name := r.Cells[i].Store; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// cell is the median by keys a second of what was measured of a store; false: it was
// not.
func (r *report) cell(store string, at row) (measured, bool) {
	var all []measured
	for i := range r.Cells {
		if c := r.Cells[i]; c.Store == store && c.Op == at.op && c.Callers == at.callers {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return measured{}, false
	}
	slices.SortFunc(all, func(a, b measured) int { return int(a.KeysPerSec - b.KeysPerSec) })
	return all[len(all)/2], true
}

// table is the report as Markdown.
func table(r *report) string {
	var b strings.Builder
	names := r.stores()
	fmt.Fprintf(&b, "%s. On %s, %s, everything on one machine; commit %s, %s; `%s`.\n",
		strings.Join(r.Versions, ", "), r.Machine, r.Disk, r.Commit, r.Date, r.Command)
	fmt.Fprintf(&b, "Batches of %d keys, random values of %d bytes, %d keys; each cell is %.0f s, the median of %d.\n\n",
		r.Batch, r.ValueSize, r.KeySpace, r.Seconds, r.Rounds)
	fmt.Fprint(&b, "| | callers |")
	for _, name := range names {
		fmt.Fprintf(&b, " %s keys/s |", name)
	}
	for _, name := range names {
		fmt.Fprintf(&b, " %s p50 / p99 ms |", name)
	}
	others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "manykv" })
	for _, name := range others {
		fmt.Fprintf(&b, " ÷ %s |", name)
	}
	fmt.Fprintf(&b, "\n|---|--:|%s\n", strings.Repeat("--:|", 2*len(names)+len(others)))
	for _, at := range r.rows() {
		fmt.Fprintf(&b, "| %s | %d |", at.op, at.callers)
		for _, name := range names {
			if c, measured := r.cell(name, at); measured {
				fmt.Fprintf(&b, " %s |", thousands(c.KeysPerSec))
			} else {
				b.WriteString(" - |")
			}
		}
		for _, name := range names {
			if c, measured := r.cell(name, at); measured {
				fmt.Fprintf(&b, " %.2f / %.2f |", c.P50, c.P99)
			} else {
				b.WriteString(" - |")
			}
		}
		for _, name := range others {
			fmt.Fprintf(&b, " %s |", r.ratio(at, name))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// ratio is manykv's keys a second by another's.
func (r *report) ratio(at row, other string) string {
	mine, ok := r.cell("manykv", at)
	theirs, also := r.cell(other, at)
	if !ok || !also || theirs.KeysPerSec == 0 {
		return "-"
	}
	return fmt.Sprintf("**%.1f**", mine.KeysPerSec/theirs.KeysPerSec)
}

// thousands writes 1234567 as 1,234,567.
func thousands(v float64) string {
	text := fmt.Sprintf("%.0f", v)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}
