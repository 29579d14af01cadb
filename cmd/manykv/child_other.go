//go:build !linux

package main

import "syscall"

// childAttr keeps a terminal's Ctrl-C from a child: we stop it in our own way.
// Where there is no Pdeathsig, children outlive a parent that is killed.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
