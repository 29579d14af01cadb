// Package disk is a file system for fault tests that can lose what was not
// synced. A program under test keeps its data directory on it; the test cuts its
// power, makes it fail, stall or run full, and flips bits in its files. It is
// served by this process through FUSE and needs Linux, root and /dev/fuse.
//
// It promises:
//
//   - fsync and fdatasync of a file make its data and its size durable, fsync of
//     a directory makes durable every operation on names (create, link, rename,
//     remove) up to the last one in that directory, in the order in which they
//     were done, and nothing else does: not closing, not waiting, not syncing a
//     file whose name is new, not sync(2) or syncfs(2), of which FUSE hears
//     nothing.
//   - After [Disk.PowerCut] every synced byte and name is there. Of the other
//     operations on names some first ones are, as on a journalling file system; of
//     the other data any blocks of 4 KiB, some of them torn at 512 bytes; a
//     truncation is there or not. Holes are zeros. The cut shows nothing that
//     a power cut could not leave behind.
//   - A failed sync ([Fault]) leaves the data of that file that was not durable
//     as it is on Linux: readers see it, later syncs pass over it and
//     succeed, and only writing a block again makes it durable.
//   - Readers, writers and shared mappings see one another at once: the kernel's
//     page cache is used, write-through, and is dropped when bits are flipped and
//     when the power is cut.
//   - All random choices come from Config.Seed: the same operations in the same
//     order lose the same blocks.
//   - ClearFaults, PowerCut and Close end every operation that a fault holds.
//     Close and PowerCut do not wait for programs that have files open: they see
//     ENOTCONN from then on.
//
// It refuses symbolic links, device nodes, extended attributes, O_TMPFILE and
// the exchange of two names. Modes, owners and times are durable at once. A
// mapping's writes count as written when the kernel writes them (msync, fsync, the
// end of the mapping), and are lost if the power is cut before.
//
// Open starts the disk, Close ends it. The Disk owns the mount point and the
// store: one folder with what readers see and one with what would be there after
// a cut, each with a file for every file that was written. Memory holds the names
// and one bit for every unsynced block. What a process leaves behind that ends
// without Close is a dead mount, which the next Open there takes away, and the
// store.
//
// This process may read and write below its own mount with ordinary calls. It
// must not map files of it: a page fault stops the runtime that would serve it.
package disk
