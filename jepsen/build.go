//go:build unix

package jepsen

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds manykv from this module for a run, into a folder, and returns the
// program's path. With clock, its wall clock is ahead by as many nanoseconds as the file
// named by MANYKV_CLOCK_FILE says, from a moment after it says so. (libfaketime cannot
// do that: Go reads the clock in the vDSO.) No line of manykv's own is changed: Go's
// runtime adds a variable to what the vDSO says, and one more file of the program's
// sets it.
func Build(ctx context.Context, dir, tags string, clock bool) (string, error) {
	root, err := goTool(ctx, "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "manykv")
	args := []string{"build", "-o", binary, "-tags", tags}
	if clock {
		overlay, err := clockOverlay(ctx, dir, root)
		if err != nil {
			return "", err
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/manykv")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return binary, nil
}

func goTool(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %v: %w: a run builds manykv, and needs the go command and its sources", args, err)
	}
	return strings.TrimSpace(string(out)), nil
}

const (
	clockSource = "src/runtime/time_linux_amd64.s"
	// clockLine is where the runtime has the seconds of the wall clock in AX.
	clockLine = "MOVQ	16(SP), AX	// realtime sec"
	// clockVariable is the file with the variable that is added.
	clockVariable = `package runtime

import _ "unsafe"

// wallAhead is by how many seconds the wall clock is ahead.
//
//go:linkname wallAhead
var wallAhead int64
`
	// clockSetter is the program's file that sets it.
	clockSetter = `package main

import (
	"os"
	"strconv"
	"sync/atomic"
	"time"
	_ "unsafe"
)

//go:linkname wallAhead runtime.wallAhead
var wallAhead int64

func init() {
	name := os.Getenv("MANYKV_CLOCK_FILE")
	if name == "" {
		return
	}
	set := func() {
		text, err := os.ReadFile(name)
		if err != nil {
			return
		}
		if ns, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			atomic.StoreInt64(&wallAhead, ns/int64(time.Second))
		}
	}
	set()
	go func() {
		for {
			time.Sleep(20 * time.Millisecond)
			set()
		}
	}()
}
`
)

// clockOverlay has a program's wall clock ahead by a variable, and returns the list for
// -overlay.
func clockOverlay(ctx context.Context, dir, root string) (string, error) {
	goroot, err := goTool(ctx, "env", "GOROOT")
	if err != nil {
		return "", err
	}
	return overlay(dir, goroot, "runtime·wallAhead(SB)", map[string]string{
		filepath.Join(goroot, "src/runtime/wallahead.go"): clockVariable,
		filepath.Join(root, "cmd/manykv/clock.go"):        clockSetter,
	})
}

// overlay has Go's runtime add an operand to the seconds of the wall clock, puts further
// files where they are to stand, and returns the list for -overlay.
func overlay(dir, goroot, operand string, further map[string]string) (string, error) {
	source := filepath.Join(goroot, clockSource)
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	if strings.Count(string(text), clockLine) != 1 {
		return "", fmt.Errorf("%s does not hold %q once: this Go keeps its clock elsewhere", source, clockLine)
	}
	texts := maps.Clone(further)
	texts[source] = strings.Replace(string(text), clockLine, clockLine+"\n\tADDQ	"+operand+", AX", 1)
	replace := make(map[string]string)
	for stands, text := range texts {
		replace[stands] = filepath.Join(dir, "clock."+filepath.Base(stands))
		if err := os.WriteFile(replace[stands], []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "clock.json")
	return name, os.WriteFile(name, list, 0o644)
}
