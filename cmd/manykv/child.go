package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/manykv/manykv/sharding"
)

const (
	// tailLines and tailBytes are how much of a dead node's log is shown.
	tailLines = 10
	tailBytes = 8 << 10
)

// child is a node that `up` runs as a process of its own.
type child struct {
	name    sharding.NodeID
	addr    string
	config  string // its server configuration
	data    string
	log     string
	pidFile string

	cmd      *exec.Cmd
	logStart int64         // where this process's part of the log begins
	exited   chan struct{} // closed once the process is gone
	err      error         // how it ended; after exited
}

func newChild(dir string, pl *plan, i int) *child {
	at := func(suffix string) string { return filepath.Join(dir, nodeName(i)+suffix) }
	return &child{
		name: sharding.NodeID(nodeName(i)), addr: pl.addr(i),
		config: at(".toml"), data: at(""), log: at(".log"), pidFile: at(".pid"),
		exited: make(chan struct{}),
	}
}

// start runs the node; ended is told when it is gone. The caller's thread must
// outlive the process where that thread's end kills it (Linux).
func (c *child) start(binary string, ended chan<- *child) error {
	log, err := os.OpenFile(c.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	if c.logStart, err = log.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	c.cmd = exec.Command(binary, "server", "--config", c.config)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.Env = withoutSettings(os.Environ())
	c.cmd.SysProcAttr = childAttr()
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", c.name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
		ended <- c
	}()
	return os.WriteFile(c.pidFile, []byte(strconv.Itoa(c.pid())+"\n"), 0o644)
}

// withoutSettings takes the server's settings out of an environment: they are
// stronger than a file, and one of them cannot be right for several nodes.
func withoutSettings(environ []string) []string {
	var out []string
	for _, variable := range environ {
		if !strings.HasPrefix(variable, "MANYKV_") {
			out = append(out, variable)
		}
	}
	return out
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// forget removes the pid file: the pid may be another process's soon.
func (c *child) forget() error {
	if err := os.Remove(c.pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// stop asks all children to stop, kills those that have not after a time, and
// waits until all are gone. It returns how many had to be killed.
func stop(children []*child, within time.Duration) (killed int, err error) {
	for _, c := range children {
		err = errors.Join(err, c.signal(syscall.SIGTERM))
	}
	deadline := time.After(within)
	for _, c := range children {
		select {
		case <-c.exited:
			continue
		case <-deadline:
		}
		for _, late := range children {
			if late.running() {
				killed++
				err = errors.Join(err, late.signal(syscall.SIGKILL))
			}
		}
		break
	}
	for _, c := range children {
		<-c.exited
		err = errors.Join(err, c.forget())
	}
	return killed, err
}

func (c *child) signal(s os.Signal) error {
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal node %s: %w", c.name, err)
	}
	return nil
}

// reason is why the process ended by itself, in its own words: an error is the
// last it prints. It is "" if the process was stopped, killed, or did not say.
func (c *child) reason() string {
	if exit, ok := errors.AsType[*exec.ExitError](c.err); !ok || exit.ExitCode() < 0 { // a signal
		return ""
	}
	lines := c.lastWords()
	for i := len(lines) - 1; i >= 0; i-- {
		if why, ok := strings.CutPrefix(lines[i], "manykv: "); ok {
			return strings.Join(append([]string{why}, lines[i+1:]...), "\n  ")
		}
	}
	return ""
}

// lastWords are the last lines that the process logged.
func (c *child) lastWords() []string {
	f, err := os.Open(c.log)
	if err != nil {
		return []string{err.Error()}
	}
	defer func() { _ = f.Close() }() // it was only read from
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return []string{err.Error()}
	}
	from := max(c.logStart, end-tailBytes)
	text, err := io.ReadAll(io.NewSectionReader(f, from, end-from))
	if err != nil {
		return []string{err.Error()}
	}
	var lines []string
	for line := range bytes.Lines(text) {
		lines = append(lines, strings.TrimRight(string(line), "\r\n"))
	}
	return lines[max(0, len(lines)-tailLines):]
}
