//go:build unix

package jepsen

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of the files of a run, in its folder.
const (
	HistoryFile = "history.jsonl.gz"
	SummaryFile = "run.json"
	PageFile    = "report.html"
	brokenFile  = "broken.jsonl"
)

// RunSummary is what run.json holds.
type RunSummary struct {
	Verdict    string        `json:"verdict"`
	Replay     string        `json:"replay"` // the command that does the same again
	Seed       uint64        `json:"seed"`
	Nodes      int           `json:"nodes"`
	Length     time.Duration `json:"length_ns"`
	Took       time.Duration `json:"took_ns"`
	Operations int           `json:"operations"`
	Checks     []Check       `json:"checks"`
	Faults     []Fault       `json:"faults"`
	Skipped    int           `json:"faults_skipped"`
	Recovery   []Recovery    `json:"recovery"`
	Broken     []string      `json:"broken,omitempty"` // keys
}

// Verdict is the one line that says what became of a run.
func (r *Result) Verdict() string {
	kinds := make(map[string]bool)
	for _, f := range r.Faults {
		kinds[f.Kind] = true
	}
	word := "PASS"
	failed := 0
	for _, c := range r.Checks {
		if !c.OK {
			word = "FAIL"
			failed++
		}
	}
	return fmt.Sprintf("%s: %d client operations checked, %d faults of %d kinds, %d of %d checks failed", word, r.Operations, len(r.Faults), len(kinds), failed, len(r.Checks))
}

// Save writes what is needed to understand a run into a folder: the summary, the
// history, the operations on broken keys with porcupine's pictures of the first, and the
// page.
func (r *Result) Save(dir string, cfg Config) error {
	broken := slices.Concat(r.verdict.Broken, r.verdict.Undecided)
	err := errors.Join(
		writeHistoryGz(filepath.Join(dir, HistoryFile), r.history),
		r.saveSummary(filepath.Join(dir, SummaryFile), cfg, broken),
	)
	pictures, brokenErr := saveBroken(dir, r.history, broken)
	return errors.Join(err, brokenErr, r.savePage(filepath.Join(dir, PageFile), cfg, pictures))
}

// saveBroken writes the operations on broken keys into a folder, if there are any,
// and porcupine's pictures of the first, whose files it returns.
func saveBroken(dir string, operations []Operation, keys []string) (pictures []string, err error) {
	if len(keys) > 0 {
		err = writeHistory(filepath.Join(dir, brokenFile), OfKeys(operations, keys))
	}
	for _, key := range first(keys) { // a broken run may break every key
		name := key + ".html"
		err = errors.Join(err, Visualize(operations, key, filepath.Join(dir, name)))
		pictures = append(pictures, name)
	}
	return pictures, err
}

func (r *Result) saveSummary(path string, cfg Config, broken []string) error {
	text, err := json.MarshalIndent(RunSummary{
		Verdict: r.Verdict(), Replay: cfg.Replay, Seed: cfg.Seed, Nodes: cfg.Nodes, Length: cfg.Length, Took: r.Took,
		Operations: r.Operations, Checks: r.Checks, Faults: r.Faults, Skipped: r.Skipped, Recovery: r.Recovery(), Broken: broken,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func writeHistory(path string, operations []Operation) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(WriteLines(f, operations), f.Close())
}

func writeHistoryGz(path string, operations []Operation) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(WriteLines(z, operations), z.Close(), f.Close())
}

// ReadHistory reads a history that Save wrote.
func ReadHistory(path string) (_ []Operation, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ReadLines(z)
}

// Text is the checks, the faults and the calls, for a terminal.
func (r *Result) Text() string {
	var b strings.Builder
	for _, c := range r.Checks {
		mark := "ok    "
		if !c.OK {
			mark = "FAILED"
		}
		fmt.Fprintf(&b, "%s  %s: %s\n", mark, c.Name, c.Detail)
	}
	b.WriteString("time until every shard took writes, after faults that came alone:\n")
	for _, recovery := range r.Recovery() {
		fmt.Fprintln(&b, " ", recovery)
	}
	b.WriteString(r.tally.String())
	return b.String()
}
