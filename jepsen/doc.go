// Package jepsen runs manykv as real processes, breaks them while clients use
// them, and judges what the clients saw.
//
// It promises that a history is called linearizable only when a checker has
// found, for every key, an order of the operations that explains all of them;
// that a write without a definite answer may take effect at any later time, or
// never; that a seed gives the same calls and the same faults, though not what they
// meet; and that a run can be read afterwards: a report, its history and the nodes'
// logs, and if it failed the nodes' data.
//
// It refuses to take a checker that ran out of time for a success, to judge several
// keys at once (batches are not atomic), to corrupt more than one node at a time, and
// to go on past a fault that it could not undo.
//
// The path of a run: Run (run.go) has a Cluster formed (cluster.go), starts the tasks
// (Registers, Adds, Counters, Sessions, Listing, Large) and the Nemesis (nemesis.go;
// fault.go lists the kinds, processfaults.go, netfaults.go and diskfaults.go do them),
// waits until all is well again, judges (check.go, resolve.go and each task), and
// Result.Save writes what came of it (evidence.go, page.go).
//
// History owns the clock that all times are measured with. A caller of a task owns its
// random numbers and its clients; the hot keys are shared behind a lock. Nemesis
// alone touches processes, network and disks while it runs, and leaves all of them
// well. A Process owns its child, which dies with the thread that started it (Linux).
package jepsen
