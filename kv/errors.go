package kv

import (
	"errors"
	"fmt"
)

// Errors are named by what the caller should do about them. Compare with
// errors.Is; the errors returned wrap these with what was wrong.
var (
	// ErrNoSuchStore: no bucket of that name. Do not retry.
	ErrNoSuchStore = errors.New("no such store")
	// ErrExists: there is a bucket, or a node, of that name already. Do not retry.
	ErrExists = errors.New("already exists")
	// ErrAccessDenied: the caller may not do this. Do not retry.
	ErrAccessDenied = errors.New("access denied")
	// ErrInvalid: the request is malformed (a key that is not UTF-8, a bad
	// bucket name). Do not retry.
	ErrInvalid = errors.New("invalid")
	// ErrTooLarge: a key, value, batch or answer is over its limit. Do not retry.
	ErrTooLarge = errors.New("too large")
	// ErrBusy: the node is at its limit of work; nothing was applied. Back off
	// and retry.
	ErrBusy = errors.New("busy")
	// ErrUnavailable: no leader or no quorum until the deadline. A read did not
	// happen; for a write see each key's Outcome.
	ErrUnavailable = errors.New("unavailable")
	// ErrConflict: the key has another version than the caller expected (or the
	// map another epoch), and nothing was applied. Read it again.
	ErrConflict = errors.New("conflict")
	// ErrUnknown: the write may or may not have been applied. The same client
	// may send it again without applying it twice.
	ErrUnknown = errors.New("outcome unknown")
)

// Code is an error's form on the wire. The numbers are part of the protocol.
type Code uint8

// One code for each of the errors above, and 0 for none.
const (
	CodeOK           Code = 0
	CodeNoSuchStore  Code = 1
	CodeExists       Code = 2
	CodeAccessDenied Code = 3
	CodeInvalid      Code = 4
	CodeTooLarge     Code = 5
	CodeBusy         Code = 6
	CodeUnavailable  Code = 7
	CodeUnknown      Code = 8
	CodeConflict     Code = 9
)

// coded is the one table between errors and their codes. An error that is
// several of them has the code of the first: ErrUnknown comes before all, so
// that a write whose outcome is unknown because a node was busy, say, is not
// taken for one that was not applied.
var coded = []struct {
	code Code
	err  error
}{
	{CodeUnknown, ErrUnknown},
	{CodeNoSuchStore, ErrNoSuchStore},
	{CodeExists, ErrExists},
	{CodeAccessDenied, ErrAccessDenied},
	{CodeInvalid, ErrInvalid},
	{CodeTooLarge, ErrTooLarge},
	{CodeBusy, ErrBusy},
	{CodeUnavailable, ErrUnavailable},
	{CodeConflict, ErrConflict},
}

// CodeOf returns the code of err: CodeOK for nil, CodeUnknown for an error
// that is none of this package's, because nothing can be said about it.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	for _, c := range coded {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CodeUnknown
}

// Err returns the error of a code, with detail after it when there is one;
// nil for CodeOK, ErrUnknown for a code this version does not know.
func (c Code) Err(detail string) error {
	if c == CodeOK {
		return nil
	}
	base := ErrUnknown
	for _, e := range coded {
		if e.code == c {
			base = e.err
		}
	}
	if detail == "" || detail == base.Error() {
		return base
	}
	return fmt.Errorf("%w: %s", base, Detail(base, detail))
}

// Detail takes base's own text off the front of an error's text, so that an
// error that crossed the network does not say its class twice.
func Detail(base error, text string) string {
	prefix := base.Error() + ": "
	if len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return text
}

// BatchError is how a batch write fails: the outcome of every key, in the
// caller's order, and the first cause. errors.Is sees the cause; when any
// outcome is unknown the cause is an ErrUnknown, so that nobody who looks at
// the class alone takes a write for not applied.
type BatchError struct {
	Op       string    // "set-many", "delete-many", "increment", "compare-and-swap"
	Outcomes []Outcome // one for each key of the call
	// Call is the number of the call in its client's session: with it the client
	// can send the same write again (client.Client.Retry). 0: it cannot.
	Call uint64
	Err  error
}

func (e *BatchError) Error() string {
	var n [3]int
	for _, o := range e.Outcomes {
		if o > OutcomeApplied { // of a later version: nothing is known about it
			o = OutcomeUnknown
		}
		n[o]++
	}
	return fmt.Sprintf("%s of %d keys: %d applied, %d not applied, %d unknown: %v",
		e.Op, len(e.Outcomes), n[OutcomeApplied], n[OutcomeNotApplied], n[OutcomeUnknown], e.Err)
}

func (e *BatchError) Unwrap() error { return e.Err }
