// Package disk is a file system on which a node under test keeps its data, and which
// can lose what was not synced, fail, fill up, be slow, and flip bits.
//
//	d, err := disk.Open(disk.Config{Mount: "data/n1", Store: "data/n1.disk"})
//	d.SetFault(disk.Fault{SyncError: syscall.EIO})
//	d.ClearFaults()
//	lost, err := d.PowerCut() // the program that used it is dead
//
// It is served by this process through FUSE. Every file is kept twice, by number: as
// programs see it, and as it is durable. It promises, as a journalling file system on
// an honest disk does, and no more:
//
//   - fsync and fdatasync of a file make its data and size durable, but not its name;
//   - changes of directories (create, unlink, rename, mkdir, rmdir, link) are atomic
//     each and become durable in their order; fsync of a directory makes all durable up
//     to the last one in it;
//   - at a power cut a random first part of the other changes survives, and of each
//     file's unsynced data any blocks of 4 KiB, some of them torn at 512 bytes; a size
//     may survive without the data, which reads as zeros then;
//   - after a sync that failed, what was to be synced is not durable, even if a later
//     sync succeeds, unless it is written again (as on Linux: fsyncgate).
//
// It refuses symbolic links, devices, extended attributes, and to be used by the
// process that serves it while that holds locks of its own: a program under test is
// another process. Permissions and times are not kept.
//
// A Disk owns its mount and the files below Store; one mutex guards all of it, and is
// not held while a fault delays a call.
package disk
