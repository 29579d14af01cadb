package main

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// kernelSlack is how late Linux lets timers be, in nanoseconds, if nobody asks
	// for anything else.
	kernelSlack = 50_000
	// nodeSlack is how late those of a node may be. Go's runtime looks after its
	// threads every 20 µs while any of them runs, which with kernelSlack is up to
	// 13,000 switches a second, and takes the processor from a thread that waits
	// for the disk as soon as it notices. All that a node itself waits for takes
	// milliseconds or more. Decision 0018 has the measurements.
	nodeSlack = 1_000_000
)

// main must be on the process's first thread for coarseTimers: what a parent has asked
// of its child's death (prctl(2), PR_SET_PDEATHSIG) is that thread's.
func init() { runtime.LockOSThread() }

// coarseTimers gives the process the timer slack nodeSlack, unless somebody has chosen
// one already (systemd.exec(5), TimerSlackNSec). A thread has its slack from
// the one that made it, and Go's runtime has made some by now, so the program is
// started once more, in the same process. If that does not work timers stay as they are.
func coarseTimers() {
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || slack != kernelSlack {
		return
	}
	program, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, nodeSlack, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, os.Environ())
}
