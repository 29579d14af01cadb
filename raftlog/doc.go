// Package raftlog keeps the Raft logs and the votes of all replicas of one node.
//
// It promises: an entry is acknowledged only after the record that holds it was
// written and synced, and read only then; all shards share one journal, so
// calls that arrive together cost one record and one sync (a call that finds
// nobody else waits for nobody); what was acknowledged is there after a crash,
// with a checksum on every frame; a term and the candidate voted for are one
// record, never a new term beside an old candidate (hashicorp/raft#661).
//
// It refuses: to open a journal with a damaged frame, a missing record or
// records behind a damaged one (the error names record, offset and shard); to
// append below the first index of a log; to delete from the middle of a log; to
// go on after a write or sync failed or hung. That last one is fail-stop: every
// later change gets the same error and Config.Fatal is called once, because a
// sync that failed and is tried again may report success for data that is gone.
// Disk space is not given back here: deleted entries only lose their positions.
// Two processes in one directory are the caller's to prevent, with its lock file.
//
// Who owns what: Log owns the journal, the committer goroutine and the cache; a
// Shard owns the positions of one replica and serialises its changes; Votes
// owns the vote file; each store owns one watchdog goroutine. Lock order:
// Shard.write, Log.mu; ShardVotes.mu, Votes.write. All others are leaves.
//
// # An append that does not continue the log
//
// raft appends at last+1, with two exceptions, and a replay of the journal
// follows the same rules. Beyond a gap: a snapshot was installed that covers
// everything before the new entry, so the log restarts there and what was
// before the gap is forgotten. At or below the last index: the entry replaces
// the one there and cuts everything after it, as the later frame wins; raft
// cuts explicitly first, so this happens only if its cut was not needed. Below
// the first index of a log that is not empty nothing is right, so it is an
// error. A log emptied by cuts or trims may start anywhere.
package raftlog
