package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	startTime = time.Minute
	stopTime  = 15 * time.Second
	askEvery  = 50 * time.Millisecond
)

// processes are the nodes of a store, in a folder that is removed afterwards.
type processes struct {
	dir  string
	all  []*exec.Cmd
	logs []string
}

// run starts a process whose output goes into a log. It dies with us: with the thread
// that started it, to which main holds on.
func (p *processes) run(name string, args ...string) error {
	file := filepath.Join(p.dir, fmt.Sprintf("%d.log", len(p.all)))
	log, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has it
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.all, p.logs = append(p.all, cmd), append(p.logs, file)
	return nil
}

// stop ends all processes, in the order they were started.
func (p *processes) stop() error {
	var errs []error
	for _, cmd := range p.all {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			errs = append(errs, err)
		}
	}
	for _, cmd := range p.all {
		kill := time.AfterFunc(stopTime, func() { _ = cmd.Process.Kill() }) // Wait says how it ended
		err := cmd.Wait()
		kill.Stop()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lastWords are the ends of the logs.
func (p *processes) lastWords() string {
	const most = 500
	text := ""
	for _, file := range p.logs {
		b, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		text += fmt.Sprintf("%s: …%s\n", filepath.Base(file), b[max(0, len(b)-most):])
	}
	return text
}

// await calls ready until it returns nil.
func await(ctx context.Context, ready func(context.Context) error) error {
	ctx, done := context.WithTimeout(ctx, startTime)
	defer done()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return err
		}
	}
}

// ports returns free TCP ports on loopback. Somebody else may take one before it is
// used; then the store does not start.
func ports(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // it was only to learn a number
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}
