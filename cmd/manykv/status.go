package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/sharding"
)

// pollEvery is how often a cluster is asked whether it is whole: often enough
// for a script not to notice, seldom enough not to disturb an election.
const pollEvery = 100 * time.Millisecond

// statuser tells how the nodes of a cluster are.
type statuser interface {
	Status(ctx context.Context) ([]client.Status, error)
}

func (p *program) statusCommand() *cobra.Command {
	var asJSON bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, shards, leaders and how far replicas are behind",
		Long: `Show a row for every node (its state, the epoch of its map, how many replicas
it holds and leads) and for every shard (its slots, leader, term, the leader's
commit index, and how many entries each replica is behind it).

--wait asks until every node serves, every shard has a leader and no replica is
behind; it fails, saying what is missing, if that takes too long. It takes at
least one answer, which a node that hangs may delay by a few seconds.

Exit codes: 0 every node answers and every shard has a leader (with --wait: and
the cluster is whole), 1 otherwise, 2 used wrongly.`,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait < 0 {
				return usagef("--wait %v, want 0 or more", wait)
			}
			v, well := p.status(cmd.Context(), wait)
			switch {
			case v.Nodes == nil: // nobody has answered
			case asJSON:
				return errors.Join(well, p.stdout.json(v))
			default:
				v.print(p.stdout)
			}
			return well
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait until the cluster is whole, at most so long")
	return p.connects(cmd)
}

// status asks the cluster how it is, until it is whole if wait is not 0. The
// error says what is not well with it.
func (p *program) status(ctx context.Context, wait time.Duration) (v view, err error) {
	deadline := time.Now().Add(wait)
	dialing, done := ctx, context.CancelFunc(func() {})
	if wait > 0 {
		dialing, done = context.WithDeadline(ctx, deadline)
	}
	c, err := p.dial(dialing)
	done()
	if err != nil {
		return view{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if wait > 0 {
		return awaitWhole(ctx, time.Until(deadline), c, func() map[sharding.NodeID]bool { return nil })
	}
	statuses, err := c.Status(ctx)
	if err != nil {
		return view{}, err
	}
	v = newView(statuses)
	if trouble := v.trouble(nil); len(trouble) > 0 {
		return v, errors.New(strings.Join(trouble, "; "))
	}
	return v, nil
}

// firstAnswer is how long the first answer is waited for at least: the client
// gives a node that hangs two seconds for the map and two for its status.
const firstAnswer = 5 * time.Second

// awaitWhole asks anew until the cluster is whole, or it took too long: then the
// error says what is missing by the last answers. dead are nodes not to wait for.
func awaitWhole(ctx context.Context, within time.Duration, c statuser, dead func() map[sharding.NodeID]bool) (view, error) {
	waiting, done := context.WithTimeout(ctx, within)
	defer done()
	asking, answered := context.WithTimeout(ctx, max(within, firstAnswer))
	defer answered()
	var last view
	for {
		statuses, err := c.Status(asking)
		if err == nil && asking.Err() == nil {
			last = newView(statuses)
			if len(last.missing(dead())) == 0 {
				return last, nil
			}
			asking = waiting // from now on there is something to say at the end
		}
		select {
		case <-time.After(pollEvery):
		case <-waiting.Done():
			if last.Nodes == nil {
				return last, fmt.Errorf("the cluster is not whole: no node answered in time: %w", context.Cause(waiting))
			}
			return last, fmt.Errorf("the cluster is not whole: %s", strings.Join(last.missing(dead()), "; "))
		}
	}
}
