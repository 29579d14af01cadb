// Package sim runs simulations: tests that make every choice from a seed, wait in
// virtual time and touch no socket and no disk, so that thousands of them run in
// a minute and one that fails can be run again.
//
// It promises that a test takes the seeds 1, 2, 3 … unless its flags say
// otherwise, and before them those that have failed once; that it ends at the
// first seed that fails, with the choices made until then and the command that
// runs this seed alone; and that a source of choices depends on the seed and its
// name only, not on who asked before.
//
//	go test ./cluster -run TestSim -sim.seeds 100000 -sim.first 1000
//
// It refuses to make a program deterministic: goroutines that are ready at the
// same moment of virtual time run in any order. A simulation keeps them apart, by
// waits of random nanoseconds, and gives each of them a source of its own. What
// happens before a process dies of a panic in another goroutine than the test's is
// not printed; -v then tells the seed.
//
// A Seed belongs to its simulation; its methods may be called from any goroutine,
// a source it returned from one at a time.
package sim
