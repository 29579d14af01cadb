//go:build unix && !linux

package jepsen

import "syscall"

// childAttr leaves a child in our process group, so that a terminal's Ctrl-C
// ends it too: here nothing makes it die with us.
func childAttr() *syscall.SysProcAttr { return nil }
