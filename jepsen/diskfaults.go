//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/manykv/manykv/jepsen/disk"
)

// The faults of disks.

// Disk is what a nemesis does to a node's disk: see jepsen/disk.
type Disk interface {
	PowerCut() (disk.Lost, error)
	SetFault(disk.Fault)
	ClearFaults()
	FlipBits(match string, n int) ([]disk.Flip, error)
	Wipe() error
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
	var all disk.Lost
	for _, node := range nodes {
		lost, err := node.Disk.PowerCut()
		if err != nil {
			return fmt.Errorf("power cut of node %s: %w", node.Name, err)
		}
		all.Add(lost)
	}
	j.detail("%v", all)
	j.wait(shortestDown, longestDown)
	return startTogether(nodes...)
}

// failing has a node's disk fail for a while. The node may stop, as it should when a
// write or a sync fails, or hang: afterwards it is killed and started again. If power
// is lost with it, what a failed sync left unsynced is gone as well.
func (j *injection) failing(f disk.Fault) error {
	node := j.node()
	if err := j.hold(diskOf(node)); err != nil {
		return err
	}
	if err := j.holdNodes(node); err != nil {
		return err
	}
	node.expectEnd()
	before := node.Disk.Stats()
	node.Disk.SetFault(f)
	j.wait(shortestCut, longestCut)
	stopped, after := node.gone(0), node.Disk.Stats()
	err := errors.Join(node.Signal(syscall.SIGKILL))
	node.Disk.ClearFaults() // what hangs in a sync can die now
	if err := errors.Join(err, killTogether(node)); err != nil {
		return err
	}
	power := j.rand.IntN(2) == 0
	if power {
		if _, err := node.Disk.PowerCut(); err != nil {
			return err
		}
	}
	j.detail("%d calls failed, %d took longer; the node %s; power lost: %v", after.Failed-before.Failed, after.Delayed-before.Delayed,
		map[bool]string{true: "stopped", false: "went on"}[stopped], power)
	return node.Start()
}

// journals are the files whose failures matter most.
const journals = "journal/*"

func (j *injection) writeError() error {
	return j.failing(disk.Fault{WriteError: syscall.EIO, Times: j.rand.IntN(2)}) // once, or always
}

func (j *injection) syncError() error {
	return j.failing(disk.Fault{SyncError: syscall.EIO, Times: j.rand.IntN(2)})
}

func (j *injection) diskFull() error { return j.failing(disk.Fault{Full: true}) }

func (j *injection) hungSync() error { return j.failing(disk.Fault{HangSync: true}) }

// slowSync makes each sync of a node take long, but not so long that it gives up.
func (j *injection) slowSync() error {
	node := j.node()
	if err := j.hold(diskOf(node)); err != nil {
		return err
	}
	j.fault.Nodes = []string{node.Name}
	delay := between(j.rand, time.Millisecond, 500*time.Millisecond)
	j.detail("%v more each", delay.Round(time.Millisecond))
	node.Disk.SetFault(disk.Fault{SyncDelay: delay})
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
	where := []string{journals, "votes.db", "store/*"}[j.rand.IntN(3)]
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
	node.expectEnd() // it may not be refused for ever, but is until it is replaced
	return j.n.Replace(context.WithoutCancel(j.ctx), node)
}
