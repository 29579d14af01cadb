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
behind; it fails, saying what is missing, if that takes too long.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if wait < 0 {
				return usagef("--wait %v, want 0 or more", wait)
			}
			ctx := cmd.Context()
			if wait > 0 {
				p.conn.timeout = wait
				var done context.CancelFunc
				ctx, done = context.WithTimeout(ctx, wait)
				defer done()
			}
			c, err := p.dial(ctx)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			v, whole := view{}, error(nil)
			if wait > 0 {
				v, whole = awaitWhole(ctx, c, func() map[sharding.NodeID]bool { return nil })
			} else {
				statuses, err := c.Status(ctx)
				if err != nil {
					return err
				}
				v = newView(statuses)
			}
			if asJSON {
				return errors.Join(whole, p.stdout.json(v))
			}
			v.print(p.stdout)
			return whole
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait until the cluster is whole, at most so long")
	return p.connects(cmd)
}

// awaitWhole asks until the cluster is whole, or ctx ends: then the error says
// what is missing. dead are nodes not to wait for.
func awaitWhole(ctx context.Context, c statuser, dead func() map[sharding.NodeID]bool) (view, error) {
	var last view
	for {
		statuses, err := c.Status(ctx)
		if err == nil && ctx.Err() == nil {
			last = newView(statuses)
			if len(last.missing(dead())) == 0 {
				return last, nil
			}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			if last.Nodes == nil {
				return last, fmt.Errorf("the cluster is not whole: no node answered in time: %w", context.Cause(ctx))
			}
			return last, fmt.Errorf("the cluster is not whole: %s", strings.Join(last.missing(dead()), "; "))
		}
	}
}
