// Package mutant names defects that can be put into manykv on purpose, to prove that
// the fault tests see them.
//
// On(name) is false in an ordinary build, and what depends on it is not compiled.
// Built with the tag mutants, the one defect is on that the environment variable
// MANYKV_MUTANT names. Each is a mistake that somebody could make, or has made in
// another system, at the place where it would be made.
package mutant

// Name is a defect's.
type Name string

// The defects.
const (
	AckBeforeQuorum     Name = "ack-before-quorum"
	ReadUnconfirmed     Name = "read-unconfirmed"
	VerifyLeader        Name = "verify-leader"
	JoinSentMessage     Name = "join-sent-message"
	ReadOwnReplica      Name = "read-own-replica"
	ReadBeforeOwnTerm   Name = "read-before-own-term"
	JournalNotSynced    Name = "journal-not-synced"
	VotesNotSynced      Name = "votes-not-synced"
	IgnoreLogError      Name = "ignore-log-error"
	SnapshotNotFlushed  Name = "snapshot-not-flushed"
	SnapshotNoSessions  Name = "snapshot-without-sessions"
	InstallNotFlushed   Name = "install-not-flushed"
	NoDedupe            Name = "no-dedupe"
	UnknownAsNotApplied Name = "unknown-as-not-applied"
	LostPart            Name = "lost-part"
	CursorSkips         Name = "cursor-skips"
	DeleteForgotten     Name = "delete-forgotten"
	CacheForgotten      Name = "cache-forgotten"
	BundleCutShort      Name = "bundle-cut-short"
)

// All says what each does.
var All = map[Name]string{
	AckBeforeQuorum:     "a leader acknowledges a write 20 ms after it was proposed, committed or not",
	ReadUnconfirmed:     "a leader answers reads without asking a majority whether it still leads",
	VerifyLeader:        "a leader confirms reads by raft's VerifyLeader, which counts answers to older messages",
	JoinSentMessage:     "a read joins a confirmation whose message was sent before the read arrived",
	ReadOwnReplica:      "a node that coordinates reads its own replica without asking the leader",
	ReadBeforeOwnTerm:   "a new leader answers reads before it has applied an entry of its own term",
	JournalNotSynced:    "the journal's syncs do nothing",
	VotesNotSynced:      "terms and votes are written without a sync",
	IgnoreLogError:      "a failed write of the journal is taken for a success",
	SnapshotNotFlushed:  "a snapshot is recorded, and the log cut, without flushing the store",
	SnapshotNoSessions:  "a snapshot that is sent to a follower has no sessions in it",
	InstallNotFlushed:   "an installed snapshot is not flushed before it counts",
	NoDedupe:            "an entry that was applied is applied again when it is sent again",
	UnknownAsNotApplied: "a write whose leader was deposed is called not applied",
	LostPart:            "a part of a batch of which nothing is known is called applied",
	CursorSkips:         "a listing's next page begins a little too late",
	CacheForgotten:      "values that are cached are not let go by writes",
	BundleCutShort:      "of more than two writes that share an entry the last one is not applied",
	DeleteForgotten:     "every 50th delete of a key in a batch does nothing",
}
