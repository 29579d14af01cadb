//go:build unix

package jepsen

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is one node: a child that can be killed, paused and started again.
// Its methods may be called by one goroutine at a time, Deaths by any.
type Process struct {
	// Name is the node's name.
	Name string
	// Command makes the command that starts the node.
	Command func() *exec.Cmd
	// Thread runs f on a thread that lives as long as the node may: the child is in
	// that thread's namespaces, and dies with it. nil: any.
	Thread func(f func() error) error

	child *child // nil until the first start

	mu     sync.Mutex // guards deaths
	deaths []error
}

// child is one life of a process.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
	ending chan struct{} // closed before it is told to end: what follows is no death of its own
}

// Start starts the node. It must not be running.
//
// The kernel kills the child when the thread that started it ends, which is
// when this process does: Go ends a thread only with a goroutine locked to it.
func (p *Process) Start() error { return p.StartWith() }

// StartWith starts the node with more variables in its environment, "NAME=value".
func (p *Process) StartWith(env ...string) error {
	c := &child{cmd: p.Command(), exited: make(chan struct{}), ending: make(chan struct{})}
	c.cmd.SysProcAttr = childAttr()
	if len(env) > 0 {
		c.cmd.Env = append(c.cmd.Environ(), env...)
	}
	start := c.cmd.Start
	if p.Thread != nil {
		start = func() error { return p.Thread(c.cmd.Start) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start node %s: %w", p.Name, err)
	}
	p.child = c
	go func() {
		err := c.cmd.Wait()
		select {
		case <-c.ending:
		default:
			p.died(err)
		}
		close(c.exited)
	}()
	return nil
}

// died notes that the process ended though nobody told it to.
func (p *Process) died(err error) {
	if err == nil {
		err = errors.New("exit status 0")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaths = append(p.deaths, fmt.Errorf("node %s ended by itself: %w", p.Name, err))
}

// Deaths says how often and how the process ended though nobody told it to.
func (p *Process) Deaths() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.deaths...)
}

// Signal sends a signal. That the process is gone is no error: Deaths tells.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.child.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("node %s: %v: %w", p.Name, s, err)
	}
	return nil
}

// Kill kills processes, all at once, and waits until they are gone.
func Kill(processes ...*Process) error {
	var errs []error
	for _, p := range processes {
		p.expectEnd()
		errs = append(errs, p.Signal(syscall.SIGKILL))
	}
	for _, p := range processes {
		<-p.child.exited
	}
	return errors.Join(errs...)
}

// lastWords is how long a process that hangs may take to print its goroutines.
const lastWords = 2 * time.Second

// Stop asks the process to end. If it has not within a time, it is made to print
// what its goroutines wait for, and killed.
func (p *Process) Stop(within time.Duration) error {
	if p.child == nil {
		return nil
	}
	p.expectEnd()
	err := errors.Join(p.Signal(syscall.SIGCONT), p.Signal(syscall.SIGTERM))
	if !p.gone(within) {
		err = errors.Join(err, fmt.Errorf("node %s had not ended %v after SIGTERM and was killed", p.Name, within), p.Signal(syscall.SIGQUIT))
		p.gone(lastWords)
		return errors.Join(err, Kill(p))
	}
	if state := p.child.cmd.ProcessState; err == nil && !state.Success() && state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		err = fmt.Errorf("node %s ended with %v, want exit status 0", p.Name, state)
	}
	return err
}

// gone waits until the process is gone; false if it was not within a time.
func (p *Process) gone(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.child.exited:
		return true
	case <-timer.C:
		return false
	}
}

func (p *Process) expectEnd() {
	select {
	case <-p.child.ending:
	default:
		close(p.child.ending)
	}
}
