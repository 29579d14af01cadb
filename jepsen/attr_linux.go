package jepsen

import "syscall"

// childAttr makes a child die with us, however we end, and keeps a terminal's
// Ctrl-C from it: it ends when we say so.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
