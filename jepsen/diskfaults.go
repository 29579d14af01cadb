//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/manykv/manykv/jepsen/disk"
)

// The faults of disks.

// Disk is what a nemesis does to a node's disk: see jepsen/disk.
type Disk interface {
	PowerCut() (disk.Lost, error)
	SetFault(disk.Fault) error
	SetLimit(bytes int64) error
	ClearFaults()
	FlipBits(match string, n int) ([]disk.Flip, error)
	Stats() disk.Stats
}

func (j *injection) powerOne() error { return j.powerCut(j.node()) }

func (j *injection) powerAll() error { return j.powerCut(j.n.Nodes...) }

// powerCut kills nodes, takes from their disks what was not synced, and starts them.
func (j *injection) powerCut(nodes ...*Node) error {
	var disks []string
	for _, node := range nodes {
		disks = append(disks, diskOf(node))
	}
	if err := j.hold(disks...); err != nil {
		return err
	}
	if err := j.holdNodes(nodes...); err != nil {
		return err
	}
	if err := killTogether(nodes...); err != nil {
		return err
	}
	var lots []string
	for _, node := range nodes {
		lost, err := node.Disk.PowerCut()
		if err != nil {
			return fmt.Errorf("power cut of node %s: %w", node.Name, err)
		}
		lots = append(lots, lost.String())
	}
	j.detail("%s", strings.Join(lots, "; "))
	j.wait(shortestDown, longestDown)
	return startTogether(nodes...)
}

// failing has a node's disk fail for a while. The node may stop, as it should when a
// write or a sync fails, or hang: afterwards it is killed and started again. If power
// is lost with it, what a failed sync left unsynced is gone as well.
func (j *injection) failing(begin func(d Disk) error) error {
	node := j.node()
	if err := j.hold(diskOf(node)); err != nil {
		return err
	}
	if err := j.holdNodes(node); err != nil {
		return err
	}
	node.expectEnd()
	before := node.Disk.Stats()
	if err := begin(node.Disk); err != nil {
		return err
	}
	j.wait(shortestCut, longestCut)
	stopped, after := node.gone(0), node.Disk.Stats()
	err := node.Signal(syscall.SIGKILL)
	node.Disk.ClearFaults() // what hangs in a sync can die now
	if err := errors.Join(err, node.Disk.SetLimit(0), killTogether(node)); err != nil {
		return err
	}
	power := j.rand.IntN(2) == 0
	if power {
		if _, err := node.Disk.PowerCut(); err != nil {
			return err
		}
	}
	j.detail("%d calls met it; the node %s; power lost: %v", after.Faults-before.Faults,
		map[bool]string{true: "stopped", false: "went on"}[stopped], power)
	return node.Start()
}

// setting is a fault of a disk, to be begun.
func setting(f disk.Fault) func(Disk) error { return func(d Disk) error { return d.SetFault(f) } }

func (j *injection) writeError() error {
	return j.failing(setting(disk.Fault{On: disk.OnWrite, Err: syscall.EIO, First: j.rand.IntN(2)})) // once, or always
}

func (j *injection) syncError() error {
	return j.failing(setting(disk.Fault{On: disk.OnSync, Err: syscall.EIO, First: j.rand.IntN(2)}))
}

// diskFull leaves a little room.
func (j *injection) diskFull() error {
	room := j.rand.Int64N(1 << 20)
	return j.failing(func(d Disk) error { return d.SetLimit(d.Stats().Used + room) })
}

func (j *injection) hungSync() error {
	return j.failing(setting(disk.Fault{On: disk.OnSync, Hang: true}))
}

// slowSync makes each sync of a node take long, but not so long that it gives up.
func (j *injection) slowSync() error {
	node := j.node()
	if err := j.hold(diskOf(node)); err != nil {
		return err
	}
	j.fault.Nodes = []string{node.Name}
	delay := between(j.rand, time.Millisecond, 500*time.Millisecond)
	j.detail("%v more each", delay.Round(time.Millisecond))
	if err := node.Disk.SetFault(disk.Fault{On: disk.OnSync, Delay: delay}); err != nil {
		return err
	}
	j.wait(shortestCut, longestCut)
	node.Disk.ClearFaults()
	return nil
}

// flippedBits changes bits in files of a node that does not run. When it runs again it
// may stop, or leave out a replica, but nothing wrong may be read. Then it is emptied
// and takes its own place again. One node at a time: a majority must be right.
func (j *injection) flippedBits() error {
	const most = 8
	node := j.node()
	if err := j.hold(theCorrupted, diskOf(node)); err != nil {
		return err
	}
	if err := j.holdNodes(node); err != nil {
		return err
	}
	if err := killTogether(node); err != nil {
		return err
	}
	where := []string{"journal/*", "votes.db", "store/*"}[j.rand.IntN(3)]
	flips, err := node.Disk.FlipBits(where, 1+j.rand.IntN(most))
	if err != nil {
		return err
	}
	if err := node.Start(); err != nil {
		return err
	}
	node.expectEnd()
	j.wait(shortestCut, longestCut)
	j.detail("%d in %s; the node %s", len(flips), where, map[bool]string{true: "stopped", false: "went on"}[node.gone(0)])
	if err := killTogether(node); err != nil {
		return err
	}
	if err := errors.Join(node.wipe(), node.Start()); err != nil {
		return err
	}
	if err := j.n.Replace(context.WithoutCancel(j.ctx), node); err != nil {
		return err
	}
	if j.rand.IntN(2) == 0 {
		return nil
	}
	// What it was given must be on its disk.
	if err := killTogether(node); err != nil {
		return err
	}
	if _, err := node.Disk.PowerCut(); err != nil {
		return err
	}
	j.detail("%s; power lost when it was whole again", j.fault.Detail)
	return node.Start()
}
