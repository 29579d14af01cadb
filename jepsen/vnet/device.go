//go:build linux

package vnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	tunDevice  = "/dev/net/tun"
	deviceName = "vnet0"
	mtu        = 1500
	// queuePackets is how many packets wait in a device to be routed: some bursts of
	// every connection.
	queuePackets = 5000
)

// openDevice makes a TUN device in the network namespace of the thread it is called on.
func openDevice(addr netip.Addr) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	if err := configure(fd, addr); err != nil {
		return nil, fmt.Errorf("device of %v: %w", addr, errors.Join(err, unix.Close(fd)))
	}
	// Only now: Go's poller takes a device that is not attached yet for a broken one.
	return os.NewFile(uintptr(fd), tunDevice), nil
}

func configure(tun int, addr netip.Addr) error {
	ifr, err := unix.NewIfreq(deviceName)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	return withSocket(func(s int) error {
		return setDevice(s, deviceName,
			setting{unix.SIOCSIFADDR, func(ifr *unix.Ifreq) error { return ifr.SetInet4Addr(addr.AsSlice()) }},
			setting{unix.SIOCSIFNETMASK, func(ifr *unix.Ifreq) error { return ifr.SetInet4Addr([]byte{255, 255, 255, 0}) }},
			setting{unix.SIOCSIFMTU, func(ifr *unix.Ifreq) error { ifr.SetUint32(mtu); return nil }},
			setting{unix.SIOCSIFTXQLEN, func(ifr *unix.Ifreq) error { ifr.SetUint32(queuePackets); return nil }},
			setting{unix.SIOCSIFFLAGS, up},
		)
	})
}

func up(ifr *unix.Ifreq) error {
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return nil
}

// loopbackUp brings up the loopback device, which is down in a new namespace.
func loopbackUp() error {
	return withSocket(func(s int) error { return setDevice(s, "lo", setting{unix.SIOCSIFFLAGS, up}) })
}

// setting is one ioctl on a device.
type setting struct {
	request uint
	fill    func(*unix.Ifreq) error
}

func setDevice(socket int, name string, settings ...setting) error {
	for _, s := range settings {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := s.fill(ifr); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(socket, s.request, ifr); err != nil {
			return fmt.Errorf("device %s, ioctl %#x: %w", name, s.request, err)
		}
	}
	return nil
}

func withSocket(f func(socket int) error) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	return f(s)
}

// thread is an OS thread in a network namespace of its own.
type thread struct {
	calls chan func()
	ended chan struct{}
}

// newThread starts one, with a device in it.
func newThread(addr netip.Addr) (*thread, *os.File, error) {
	t := &thread{calls: make(chan func()), ended: make(chan struct{})}
	type made struct {
		device *os.File
		err    error
	}
	ready := make(chan made)
	go func() {
		defer close(t.ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		m := made{err: unix.Unshare(unix.CLONE_NEWNET)}
		if m.err == nil {
			m.err = loopbackUp()
		}
		if m.err == nil {
			m.device, m.err = openDevice(addr)
		}
		ready <- m
		for call := range t.calls {
			call()
		}
	}()
	m := <-ready
	if m.err != nil {
		t.close()
		return nil, nil, fmt.Errorf("network namespace: %w", m.err)
	}
	return t, m.device, nil
}

// do runs f on the thread.
func (t *thread) do(f func() error) error {
	result := make(chan error)
	t.calls <- func() { result <- f() }
	return <-result
}

func (t *thread) close() {
	close(t.calls)
	<-t.ended
}
