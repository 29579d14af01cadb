package coordinator

import (
	"errors"
	"fmt"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// sentOutcome says what is known of a write whose request got no answer.
func sentOutcome(err error) kv.Outcome {
	var remote *transport.RemoteError
	switch {
	case errors.Is(err, transport.ErrNotSent):
		return kv.OutcomeNotApplied
	case errors.As(err, &remote) && (remote.Code == transport.CodeRefused || remote.Code == transport.CodeDenied):
		return kv.OutcomeNotApplied // the handler was not run
	default:
		return kv.OutcomeUnknown
	}
}

// noAnswer names the reaction to a request that got no answer. lost is the
// class when it may have been run.
func noAnswer(err, lost error) error {
	var remote *transport.RemoteError
	class := lost
	switch {
	case errors.As(err, &remote) && remote.Code == transport.CodeDenied:
		class = kv.ErrAccessDenied
	case errors.As(err, &remote) && remote.Code == transport.CodeRefused:
		class = kv.ErrBusy
	case errors.Is(err, transport.ErrNotSent):
		class = kv.ErrUnavailable
	}
	return fmt.Errorf("%w: %w", class, err)
}

// asUnknown is the error of something that may have been done.
func asUnknown(err error) error {
	if errors.Is(err, kv.ErrUnknown) {
		return err
	}
	return fmt.Errorf("%w: %w", kv.ErrUnknown, err)
}

// readError is the error of a refused read. Nothing about a read is unknown: a
// code that says so, or that this version does not know, is one of no answer.
func readError(code kv.Code, detail string) error {
	if err := code.Err(detail); !errors.Is(err, kv.ErrUnknown) {
		return err
	}
	return kv.CodeUnavailable.Err(detail)
}

// notLeading says what a node that does not lead knows of who does.
func notLeading(group string, asked, leader sharding.NodeID) error {
	if leader == "" {
		return fmt.Errorf("%s has no leader that node %s knows of: no majority of its replicas is there, or one is being elected", group, asked)
	}
	if leader == asked {
		return fmt.Errorf("node %s leads %s and is not ready: it was only just elected, or no majority answers it", asked, group)
	}
	return fmt.Errorf("node %s does not lead %s, it says node %s does", asked, group, leader)
}

// cause returns the cause of a failed batch without its counts, which the
// other side makes again.
func cause(err error) error {
	var batch *kv.BatchError
	if errors.As(err, &batch) {
		return batch.Err
	}
	return err
}
