package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/wasi"
)

const wasmInspectHelp = `Say what a WebAssembly guest imports and exports, and whether 'manykv wasm run' can
run it. --json prints the same as one JSON object.

Exit codes: 0 it can run; 1 it cannot, or is no guest; 2 used wrongly.`

func (p *program) wasmInspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect GUEST.wasm",
		Short: "Say what a guest imports and exports, and whether it can run",
		Long:  wasmInspectHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.inspect(cmd.Context(), args[0], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) inspect(ctx context.Context, file string, asJSON bool) (err error) {
	binary, err := readGuest(file)
	if err != nil {
		return err
	}
	host, err := wasi.Open(ctx, wasi.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close(ctx)) }()
	report, err := host.Inspect(ctx, binary)
	if err != nil {
		return err
	}
	if asJSON {
		err = p.stdout.json(guestView(report))
	} else {
		p.showGuest(report)
	}
	if err == nil && report.Problem != nil {
		return errFalse
	}
	return err
}

// guestJSON is a report as --json has it.
type guestJSON struct {
	Kind     string       `json:"kind"` // component, core module
	Versions []string     `json:"keyvalue_versions"`
	Imports  []importJSON `json:"imports"`
	Exports  []exportJSON `json:"exports"`
	Program  bool         `json:"program"` // it can be run without --invoke
	Runs     bool         `json:"runs"`
	Problem  string       `json:"problem,omitempty"`
}

type importJSON struct {
	Module  string `json:"module"`
	Name    string `json:"name"`
	Missing string `json:"missing,omitempty"`
}

type exportJSON struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	Invocable bool   `json:"invocable"`
}

func guestView(r *wasi.Report) guestJSON {
	v := guestJSON{Kind: kindOf(r), Versions: append([]string{}, r.Versions...), Program: r.Program, Runs: r.Problem == nil}
	v.Imports, v.Exports = []importJSON{}, []exportJSON{}
	for _, i := range r.Imports {
		v.Imports = append(v.Imports, importJSON(i))
	}
	for _, e := range r.Exports {
		v.Exports = append(v.Exports, exportJSON(e))
	}
	if r.Problem != nil {
		v.Problem = r.Problem.Error()
	}
	return v
}

func kindOf(r *wasi.Report) string {
	if r.Component {
		return "component"
	}
	return "core module"
}

func (p *program) showGuest(r *wasi.Report) {
	p.stdout.printf("kind: %s\n", kindOf(r))
	versions := "none"
	if len(r.Versions) > 0 {
		versions = strings.Join(r.Versions, ", ")
	}
	p.stdout.printf("wasi:keyvalue: %s\nimports:\n", versions)
	rows := [][]string{}
	for _, i := range r.Imports {
		state := "ok"
		if i.Missing != "" {
			state = "missing: " + i.Missing
		}
		rows = append(rows, []string{"  " + i.Module, i.Name, state})
	}
	p.stdout.table(false, rows)
	p.stdout.printf("exports:\n")
	rows = rows[:0]
	for _, e := range r.Exports {
		how := ""
		switch {
		case e.Invocable:
			how = "--invoke " + e.Name
		case e.Name == "_start":
			how = "the program"
		}
		rows = append(rows, []string{"  " + e.Name, e.Type, how})
	}
	p.stdout.table(false, rows)
	if r.Problem != nil {
		p.stdout.printf("cannot run: %v\n", r.Problem)
		return
	}
	p.stdout.printf("can run\n")
}
