package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for real processes: far more than they need, on a
// busy machine and with the race detector.
const patience = 90 * time.Second

// site is a directory in which the real program is run.
type site struct {
	t   *testing.T
	dir string
}

func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	binary, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), beProgram+"=1")
	return cmd
}

// run runs a command to its end in this process, which is much faster than a
// new one with the race detector, and shows what it leaves behind.
func (s *site) run(stdin string, args ...string) result {
	s.t.Helper()
	s.t.Chdir(s.dir)
	p, stdout, stderr := newProgram(stdin)
	ctx, done := context.WithCancel(s.t.Context()) // a deadline would replace --timeout
	defer done()
	defer time.AfterFunc(patience, done).Stop()
	code := p.run(ctx, args)
	if ctx.Err() != nil {
		s.t.Fatalf("%v: not done after %v\n%s", args, patience, stderr)
	}
	return result{code, stdout.String(), stderr.String()}
}

// exec runs a command to its end in a process of its own.
func (s *site) exec(stdin string, args ...string) result {
	s.t.Helper()
	ctx, done := context.WithTimeout(s.t.Context(), patience)
	defer done()
	cmd := s.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || ctx.Err() != nil {
			s.t.Fatalf("%v: %v\n%s", args, err, &stderr)
		}
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must runs a command that must succeed, and returns what it printed.
func (s *site) must(stdin string, args ...string) string {
	s.t.Helper()
	r := s.run(stdin, args...)
	if r.code != 0 {
		s.t.Fatalf("%v: got exit code %d, want 0\n%s", args, r.code, r.stderr)
	}
	return r.stdout
}

// expect runs a command that must print this and end with this code.
func (s *site) expect(code int, stdout string, args ...string) {
	s.t.Helper()
	if r := s.run("", args...); r.code != code || r.stdout != stdout {
		s.t.Errorf("%v: got exit code %d and %q, want %d and %q\n%s", args, r.code, r.stdout, code, stdout, r.stderr)
	}
}

// pid reads a node's pid file.
func (s *site) pid(node string) int {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, defaultDir, node+".pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// process is a command that runs on.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    transcript
	exited chan struct{}
}

// background starts a command and sees to its end when the test is over.
func (s *site) background(args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: s.command(context.Background(), args...), exited: make(chan struct{})}
	p.out.changed = make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its state says how it ended
		close(p.exited)
	}()
	s.t.Cleanup(func() {
		select {
		case <-p.exited:
			return
		default:
		}
		_ = p.cmd.Process.Kill() // its children die with it
		<-p.exited
	})
	return p
}

// says waits until the process has printed text.
func (p *process) says(text string) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		all, changed := p.out.read()
		if strings.Contains(all, text) {
			return
		}
		select {
		case <-changed:
		case <-p.exited:
			if all, _ := p.out.read(); !strings.Contains(all, text) {
				p.t.Fatalf("it ended without saying %q:\n%s", text, all)
			}
			return
		case <-deadline:
			p.t.Fatalf("it has not said %q after %v:\n%s", text, patience, all)
		}
	}
}

// ends sends a signal and waits for the end.
func (p *process) ends(signal os.Signal) (code int) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	return p.wait()
}

// wait waits until the process ends.
func (p *process) wait() (code int) {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		text, _ := p.out.read()
		p.t.Fatalf("it has not ended after %v:\n%s", patience, text)
	}
	return p.cmd.ProcessState.ExitCode()
}

// transcript is what a process has printed so far.
type transcript struct {
	mu      sync.Mutex
	text    strings.Builder // guarded by mu
	changed chan struct{}   // closed and replaced at every change; guarded by mu
}

func (o *transcript) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(b)
}

func (o *transcript) read() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.changed
}

// gone waits until there is no process of that pid.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there after %v", pid, patience)
		}
		<-time.After(10 * time.Millisecond) // between two looks at a real process
	}
}
