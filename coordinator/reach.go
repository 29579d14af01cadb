package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/manykv/manykv/transport"
)

// CallReachable makes a call that waits for its answer until ctx ends, because
// giving up would leave its outcome unknown, but not that long for a connection:
// package transport dials a dead node until ctx ends. While no answer comes, the
// node is asked something that changes nothing, by reach, every half patience;
// when that cannot be sent either, the call is taken back. Its error says, as
// always, whether it had left.
func CallReachable(
	ctx context.Context, patience time.Duration, call func(context.Context) ([]byte, error), reach func(context.Context) error,
) ([]byte, error) {
	ctx, takeBack := context.WithCancelCause(ctx)
	defer takeBack(nil)
	watched := make(chan struct{})
	watch := time.AfterFunc(patience/2, func() {
		defer close(watched)
		for reachable(ctx, patience/2, reach) {
			if !sleep(ctx, patience/2) {
				return
			}
		}
		takeBack(errUnreachable)
	})
	answer, err := call(ctx)
	takeBack(nil)
	if !watch.Stop() {
		<-watched
	}
	return answer, err
}

// errUnreachable is why a call was taken back.
var errUnreachable = errors.New("the node cannot be reached")

func reachable(ctx context.Context, within time.Duration, reach func(context.Context) error) bool {
	ctx, done := context.WithTimeout(ctx, within)
	defer done()
	return !errors.Is(reach(ctx), transport.ErrNotSent)
}
