// Package jepsen runs manykv as real processes, breaks them while clients use
// them, and judges what the clients saw.
//
// It promises that a history is called linearizable only when a checker has
// found, for every key, an order of the operations that explains all of them;
// that a write without a definite answer may take effect at any later time, or
// never; and that a run can be read afterwards: its seed, its history and the
// nodes' logs are kept when it fails.
//
// It refuses to take a checker that ran out of time for a success, to judge
// several keys at once (batches are not atomic), and to pretend more than
// processes that are killed and paused: the disks, the network and the clocks
// are the machine's own, and honest.
//
// History owns the clock that all times are measured with. A worker owns its
// random numbers and its clients; the hot keys are shared behind a lock. Nemesis
// alone signals the processes while it runs, and leaves all of them running. A
// Process owns its child, which dies with the thread that started it (Linux).
package jepsen
