package main

import (
	"fmt"
	"html"
	"strings"
)

// Sizes of the plot, in pixels.
const (
	plotWidth  = 860
	barHeight  = 13
	rowGap     = 12
	labelWidth = 150
	figureRoom = 110
	headHeight = 34
)

var colours = []string{"#1f6feb", "#8b949e", "#d4a72c"}

// plot draws the keys a second of each store, each row by its own scale: what matters
// is how the stores compare.
func plot(r *report) string {
	names, rows := r.stores(), r.rows()
	rowHeight := len(names)*barHeight + rowGap
	height := headHeight + len(rows)*rowHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, height)
	for i, name := range names {
		x := labelWidth + 100*i
		fmt.Fprintf(&b, `<rect x="%d" y="8" width="12" height="12" fill="%s"/><text x="%d" y="18">%s</text>`+"\n",
			x, colours[i%len(colours)], x+17, html.EscapeString(name))
	}
	for i, at := range rows {
		top := headHeight + i*rowHeight
		most := 0.0
		for _, name := range names {
			c, _ := r.cell(name, at)
			most = max(most, c.KeysPerSec)
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s, %d callers</text>`+"\n", labelWidth-10, top+barHeight, html.EscapeString(at.op), at.callers)
		for k, name := range names {
			c, measured := r.cell(name, at)
			if !measured || most == 0 {
				continue
			}
			width := c.KeysPerSec / most * (plotWidth - labelWidth - figureRoom)
			y := top + k*barHeight
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" fill="#444">%s</text>`+"\n",
				labelWidth, y, width, barHeight-2, colours[k%len(colours)], labelWidth+width+6, y+barHeight-3, thousands(c.KeysPerSec)+" keys/s")
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
