// Package raftlog keeps the Raft logs and the votes of all replicas of one node.
//
// It promises: an entry is acknowledged only after the record that holds it was
// written and synced, and read only then, also if another process wrote it and was
// killed; all shards share one journal, so
// calls that arrive together cost one record and one sync (a call that finds
// nobody else waits for nobody); what was acknowledged is there after a crash,
// with a checksum on every frame; a term and the candidate voted for are one
// record, never a new term beside an old candidate (hashicorp/raft#661), and stay
// when a replica leaves; a replica that comes back does not meet the entries of
// its earlier stay; after Reclaim the journal has at most half of
// Config.JournalBytes, or 5/4 of what raft keeps if that is more.
//
// It refuses: to open a journal with a damaged frame, a missing record or
// records behind a damaged one (the error names record, offset and shard); to
// append below the first index of a log; to delete from the middle of a log; to
// go on after a write or sync failed or hung. That last one is fail-stop: every
// later change gets the same error and Config.Fatal is called once, because a
// sync that failed and is tried again may report success for data that is gone.
// It makes raft free nothing: Full says when the caller has to, before a Reclaim.
// Two processes in one directory are the caller's to prevent, with its lock file.
//
// Who owns what: Log owns the journal, the committer goroutine, which makes every
// change of the journal, and the cache; a Shard owns the positions of one replica
// and serialises its changes; Votes owns the vote file; each store owns one
// watchdog goroutine. Reclaim runs on its caller's goroutine. Lock order:
// Log.reclaiming, Shard.write, Log.mu, Shard.mu; ShardVotes.mu, Votes.write. All
// others are leaves.
//
// # An append that does not continue the log
//
// raft appends at last+1, with two exceptions. Beyond a gap: a snapshot was
// installed that covers everything before the new entry, so the log restarts
// there; a trim, in the same record, says that what was before is forgotten. At
// or below the last index: the entry replaces the one there and cuts everything
// after it, as the later frame wins; raft cuts explicitly first, so this happens
// only if its cut was not needed. Below the first index of a log that is not
// empty nothing is right, so it is an error. A log emptied by cuts or trims may
// start anywhere.
//
// # Giving back the beginning of the journal
//
// The journal drops records only from its beginning, and an idle replica frees
// nothing. So Reclaim carries forward what is live in the records that are to go:
// it writes these entries again, as frames that replace no other index. Then it
// writes a head, which says up to where records may be missing, and deletes them.
//
// A replay of what is left finds the same logs wherever a crash came in between,
// and whatever was appended, cut or trimmed meanwhile. Each frame says what it
// does whatever the log had before: an entry removes all indexes from its own on
// and adds it, a carried one adds its index, a cut or a trim removes those on one
// side of it. So after any frame the replay has exactly those indexes of the real
// log whose latest frame it has seen, and at the end, when no live entry is in a
// missing record, all of them. On the way there may be holes. A replay from
// record 1 on has no holes, and there a frame that does not fit is an error.
//
// Cuts, trims and drops are not carried: all they remove is older than they are,
// and goes with them. When the last frame of a shard is gone, so is its
// generation, and the next stay counts from 1: there is nothing left to meet.
package raftlog
