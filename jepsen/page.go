//go:build unix

package jepsen

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"runtime"
	"time"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"ms":   func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	"at":   func(ns int64) time.Duration { return time.Duration(ns) },
	"took": func(f Fault) time.Duration { return time.Duration(f.End - f.Begin) },
}).Parse(pageText))

// page is what the report shows.
type page struct {
	Title, Verdict, Calls         string
	Passed                        bool
	About                         [][2]string
	Checks                        []Check
	Pictures                      []string // files with porcupine's
	Throughput, Latency, Timeline template.HTML
	Recovery                      []Recovery
	Faults                        []Fault
}

func (r *Result) page(cfg Config, pictures []string) page {
	length := int64(cfg.Length)
	for _, f := range r.Faults {
		length = max(length, f.End)
	}
	return page{
		Title: fmt.Sprintf("seed %d", cfg.Seed), Verdict: r.Verdict(), Passed: r.Err() == nil, Calls: r.tally.String(),
		About: [][2]string{
			{"again", cfg.Replay},
			{"seed", fmt.Sprint(cfg.Seed)},
			{"nodes", fmt.Sprint(cfg.Nodes)},
			{"faults for", cfg.Length.String()},
			{"in all", r.Took.Round(time.Second).String()},
			{"ended", time.Now().UTC().Format(time.RFC3339)},
			{"machine", fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())},
		},
		Checks: r.Checks, Pictures: pictures, Recovery: r.Recovery(), Faults: r.Faults,
		// The plots escape what they show.
		Throughput: template.HTML(PlotThroughput(r.history, r.Faults, length)),
		Latency:    template.HTML(PlotLatency(r.history, r.Faults, length)),
		Timeline:   template.HTML(PlotTimeline(r.Faults, length)),
	}
}

func (p page) write(w io.Writer) error { return pageTemplate.Execute(w, p) }

func (r *Result) savePage(path string, cfg Config, pictures []string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(r.page(cfg, pictures).write(f), f.Close())
}
