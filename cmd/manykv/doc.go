// Command manykv is the one binary of manykv: a node (server), a whole cluster
// on this machine (up), its certificates (cert), and everything a user does
// with the data (bucket, get, set, …, import, status, bench).
//
// It promises exit codes a script can rely on: 0 done, 1 failed (or, for
// exists, false), 2 used wrongly; results on standard output and everything
// else on standard error; raw bytes out of get; and --json where a script
// wants it.
//
// It refuses to guess: a failed write is reported key by key as applied, not
// applied or unknown; nothing there is overwritten; and a cluster that runs
// already is not started again.
//
// A program is one run: main makes it, run parses the arguments and executes
// one command, which owns what it opens until it returns. Every command ends
// when the context does, on SIGINT or SIGTERM. Only main calls os.Exit.
package main
