package jepsen

import (
	"cmp"
	"fmt"
	"html"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Plots of a run over time: SVG, drawn from buckets, so that their size does not grow
// with the run.

const (
	plotWidth, plotHeight = 1000, 200
	plotLeft, plotTop     = 190, 16 // for the names of faults
	plotBuckets           = 500
	laneHeight            = 18
)

// bucket is a part of the run's time.
type bucket struct {
	reads, writes, unknown int
	p50, p99, max          time.Duration
}

// buckets sorts operations by when they ended; one of unknown outcome by its call.
// What comes after length, the reading of everything in the end, is left out.
func buckets(operations []Operation, length int64) []bucket {
	out := make([]bucket, plotBuckets)
	took := make([][]time.Duration, plotBuckets)
	for i := range operations {
		op := &operations[i]
		at := op.Return
		if at == Never {
			at = op.Call
		}
		n := int(float64(at) / float64(length) * plotBuckets)
		if n >= plotBuckets {
			continue
		}
		b := &out[n]
		switch {
		case op.Return == Never:
			b.unknown++
			continue
		case op.Kind.reads():
			b.reads++
		default:
			b.writes++
		}
		took[n] = append(took[n], time.Duration(op.Return-op.Call))
	}
	for n, t := range took {
		if len(t) == 0 {
			continue
		}
		slices.Sort(t)
		out[n].p50, out[n].p99, out[n].max = t[len(t)/2], t[min(len(t)-1, len(t)*99/100)], t[len(t)-1]
	}
	return out
}

// line is one line of a plot.
type line struct {
	name, class string
	value       func(b *bucket) float64 // NaN: nothing to draw
}

// scale turns a value into a height above the bottom, 0 to 1.
type scale struct {
	to    func(v float64) float64
	ticks []float64
	label func(v float64) string
}

// PlotThroughput draws what clients got done, and PlotLatency how long it took, with
// the faults behind.
func PlotThroughput(operations []Operation, faults []Fault, length int64) string {
	all := buckets(operations, length)
	perSecond := plotBuckets / (time.Duration(length).Seconds())
	most := 1.0
	for _, b := range all {
		most = max(most, float64(max(b.reads, b.writes, b.unknown))*perSecond)
	}
	linear := scale{
		to:    func(v float64) float64 { return v / most },
		ticks: []float64{0, most / 2, most},
		label: func(v float64) string { return fmt.Sprintf("%.0f/s", v) },
	}
	return plot("operations of the task registers", all, faults, length, linear,
		line{"reads", "reads", func(b *bucket) float64 { return float64(b.reads) * perSecond }},
		line{"writes", "writes", func(b *bucket) float64 { return float64(b.writes) * perSecond }},
		line{"outcome unknown", "unknown", func(b *bucket) float64 { return float64(b.unknown) * perSecond }},
	)
}

// PlotLatency draws percentiles of latency on a logarithmic scale.
func PlotLatency(operations []Operation, faults []Fault, length int64) string {
	const least, most = 1e-4, 10.0 // seconds
	log := scale{
		to:    func(v float64) float64 { return math.Log(min(max(v, least), most)/least) / math.Log(most/least) },
		ticks: []float64{1e-4, 1e-3, 1e-2, 0.1, 1, 10},
		label: func(v float64) string { return time.Duration(v * float64(time.Second)).String() },
	}
	seconds := func(d time.Duration) float64 {
		if d == 0 {
			return math.NaN()
		}
		return d.Seconds()
	}
	return plot("latency of those that were answered", buckets(operations, length), faults, length, log,
		line{"p50", "reads", func(b *bucket) float64 { return seconds(b.p50) }},
		line{"p99", "writes", func(b *bucket) float64 { return seconds(b.p99) }},
		line{"max", "unknown", func(b *bucket) float64 { return seconds(b.max) }},
	)
}

func plot(title string, all []bucket, faults []Fault, length int64, s scale, lines ...line) string {
	var b strings.Builder
	open(&b, plotTop+plotHeight+30)
	fmt.Fprintf(&b, `<text class="title" x="%d" y="11">%s</text>`+"\n", plotLeft, html.EscapeString(title))
	for _, f := range faults {
		fmt.Fprintf(&b, `<rect class="fault" x="%.1f" y="%d" width="%.1f" height="%d">%s</rect>`+"\n", x(f.Begin, length), plotTop, width(f, length), plotHeight, tooltip(f))
	}
	for _, v := range s.ticks {
		y := plotTop + plotHeight*(1-s.to(v))
		fmt.Fprintf(&b, `<path class="grid" d="M%d %.1fh%d"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft, y, plotWidth, plotLeft-6, y+4, s.label(v))
	}
	axis(&b, plotTop+plotHeight, length)
	for i, l := range lines {
		fmt.Fprintf(&b, `<path class="%s" d="%s"/>`+"\n", l.class, path(all, s, l.value))
		fmt.Fprintf(&b, `<text class="%s" x="%d" y="11">%s</text>`+"\n", l.class, plotLeft+500+150*i, html.EscapeString(l.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// path draws a line; it is broken where there is nothing.
func path(all []bucket, s scale, value func(b *bucket) float64) string {
	var b strings.Builder
	pen := "M"
	for i := range all {
		v := value(&all[i])
		if math.IsNaN(v) {
			pen = "M"
			continue
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", pen, plotLeft+(float64(i)+0.5)/plotBuckets*plotWidth, plotTop+plotHeight*(1-s.to(v)))
		pen = "L"
	}
	return b.String()
}

// PlotTimeline draws a lane for each kind of fault.
func PlotTimeline(faults []Fault, length int64) string {
	kinds := make(map[string]bool)
	for _, f := range faults {
		kinds[f.Kind] = true
	}
	sorted := slices.Sorted(maps.Keys(kinds))
	var b strings.Builder
	open(&b, plotTop+laneHeight*len(sorted)+30)
	for i, kind := range sorted {
		y := plotTop + laneHeight*i
		fmt.Fprintf(&b, `<path class="grid" d="M%d %dh%d"/><text x="%d" y="%d">%s</text>`+"\n", plotLeft, y+laneHeight, plotWidth, 0, y+13, html.EscapeString(kind))
	}
	for _, f := range faults {
		y := plotTop + laneHeight*slices.Index(sorted, f.Kind)
		fmt.Fprintf(&b, `<rect class="bar" x="%.1f" y="%d" width="%.1f" height="%d">%s</rect>`+"\n",
			x(f.Begin, length), y+3, width(f, length), laneHeight-5, tooltip(f))
	}
	axis(&b, plotTop+laneHeight*len(sorted), length)
	b.WriteString("</svg>\n")
	return b.String()
}

// style makes an SVG readable by itself, on light and on dark.
const style = `<style>
svg{font:11px sans-serif;background:#fff}text{fill:#333}.title{font-weight:bold}
.grid{stroke:#ddd;fill:none}.fault{fill:#e4572e;fill-opacity:.13}.bar{fill:#e4572e;fill-opacity:.8}
path.reads{stroke:#1f77b4;fill:none}path.writes{stroke:#2ca02c;fill:none}path.unknown{stroke:#d62728;fill:none}
text.reads{fill:#1f77b4}text.writes{fill:#2ca02c}text.unknown{fill:#d62728}
@media(prefers-color-scheme:dark){svg{background:#1b1b1b}text{fill:#ccc}.grid{stroke:#444}}
</style>
`

func open(b *strings.Builder, height int) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="100%%">`+"\n"+style, plotLeft+plotWidth+10, height)
}

// axis draws the times.
func axis(b *strings.Builder, y int, length int64) {
	const ticks = 10
	for i := range ticks + 1 {
		at := length / ticks * int64(i)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(at, length), y+16, time.Duration(at).Round(time.Second))
	}
}

func x(at, length int64) float64 {
	return plotLeft + float64(min(at, length))/float64(length)*plotWidth
}

// width is a fault's, which is to be seen however short it is.
func width(f Fault, length int64) float64 {
	return max(1, x(cmp.Or(f.End, length), length)-x(f.Begin, length))
}

func tooltip(f Fault) string {
	text := fmt.Sprintf("%s %s, %v to %v: %s", f.Kind, strings.Join(f.Nodes, " "),
		time.Duration(f.Begin).Round(time.Millisecond), time.Duration(f.End).Round(time.Millisecond), f.Detail)
	return "<title>" + html.EscapeString(text) + "</title>"
}
