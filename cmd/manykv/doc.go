// Command manykv is the one binary of manykv: a node (server), a whole cluster
// on this machine (up), its certificates (cert), its nodes (node, status,
// debug), and everything a user does with the data (bucket, get, set, incr, cas,
// keys, …, import, export, bench).
//
// It promises exit codes a script can rely on: 0 done, 1 failed (or, for
// exists, false), 2 used wrongly, 3 (of cas) the key has another version; results on standard output and everything
// else on standard error; raw bytes out of get; and --json where a script
// wants it.
//
// It refuses to guess: a failed write is reported key by key as applied, not
// applied or unknown; nothing there is overwritten; a cluster that runs already
// is not started again; and what takes copies or data away needs a yes.
//
// A program is one run: main makes it, run parses the arguments and executes
// one command, which owns what it opens until it returns. Every command ends
// when the context does, on SIGINT or SIGTERM. Only main calls os.Exit.
package main
