//go:build linux

package vnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// reexecEnv tells the child that it is one.
const reexecEnv = "MANYKV_VNET_CHILD"

// Reexec runs this program again, with the same arguments, in a network namespace of
// its own, so that the end of a Network that is Here is apart from the machine's
// network. In the child it returns true at once. In the parent it returns when the
// child has ended, with its exit code; signals are passed on.
func Reexec() (child bool, code int, err error) {
	if os.Getenv(reexecEnv) != "" {
		return true, 0, errors.Join(os.Unsetenv(reexecEnv), loopbackUp())
	}
	if err := possible(); err != nil {
		return false, 1, err
	}
	runtime.LockOSThread() // whose death the child would die with
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), reexecEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A group of its own: a terminal's Ctrl-C reaches it once, by us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return false, 1, fmt.Errorf("vnet: run in a network of its own: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return false, max(exit.ExitCode(), 1), nil // of one that a signal killed it is -1
			}
			return false, 0, err
		}
	}
}

// possible says what is missing for a network.
func possible() error {
	if os.Geteuid() != 0 {
		return errors.New("vnet: network namespaces need root")
	}
	if _, err := os.Stat(tunDevice); err != nil {
		return fmt.Errorf("vnet: %w: links are TUN devices", err)
	}
	return nil
}
