// Package crash names the places where a process may be made to die, so that
// tests can prove what a restart finds there.
//
// Point(name) does nothing in an ordinary build. Built with the tag crashpoints
// it ends the process with SIGKILL, as a failing machine would, if the
// environment variable MANYKV_CRASH is "name" or "name:n" and this is the first,
// or the n-th, time that the process comes by.
//
// A killed process leaves its writes in the page cache: what a crash point
// proves is the order of steps, not that a sync happened.
package crash
