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

// watchEvery is how often --watch looks again unless it says: often enough to see
// a shard move, and next to no work for a node.
const watchEvery = 2 * time.Second

// statuser tells how the nodes of a cluster are, and what shall become of them.
type statuser interface {
	Status(ctx context.Context) ([]client.Status, error)
	Nodes(ctx context.Context) (*sharding.Map, error)
}

// look asks once. The map is only known where somebody answers.
func look(ctx context.Context, c statuser) (view, error) {
	statuses, err := c.Status(ctx)
	if err != nil {
		return view{}, err
	}
	m, err := c.Nodes(ctx)
	if err != nil {
		return view{}, err
	}
	return newView(statuses, m), nil
}

func (p *program) statusCommand() *cobra.Command {
	var asJSON bool
	var wait, watch time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, shards, leaders and how far replicas are behind",
		Long: `Show a row for every node (its state, the epoch of its map, how many replicas
it holds and leads, and what its log, its data and its memory take) and for every
shard (its slots, leader, term, the leader's commit index and that of its last
snapshot, and how many entries each replica is behind the leader; +n4=7 is a
replica that is being filled and does not vote yet). Below them are the moves of
shards under way, and why replicas do not take part. --json has more.

--wait asks until every node serves, every shard has a leader, every replica has
applied what was committed a moment ago and none is moving; it fails, saying what
is missing, if that takes too long. It takes at least one answer, which a node
that hangs may delay by a few seconds.

--watch shows it again and again, every 2s or as often as --watch=5s says, until
Ctrl-C, with exit code 0: in place on a terminal, below each other elsewhere.

Exit codes: 0 every node answers and every shard has a leader (with --wait: and
the cluster is whole), 1 otherwise, 2 used wrongly.`,
		Args: asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case wait < 0:
				return usagef("--wait %v, want 0 or more", wait)
			case cmd.Flags().Changed("watch") && watch <= 0:
				return usagef("--watch %v, want more than 0", watch)
			case watch > 0 && wait > 0:
				return usagef("either --watch or --wait")
			case watch > 0:
				return p.watchStatus(cmd.Context(), watch, asJSON)
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
	cmd.Flags().DurationVar(&watch, "watch", 0, "show it again and again until Ctrl-C, `every` so often, as --watch=5s")
	cmd.Flags().Lookup("watch").NoOptDefVal = watchEvery.String()
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
	if v, err = look(ctx, c); err != nil {
		return view{}, err
	}
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
	var last, before view
	for {
		v, err := look(asking, c)
		if err == nil && asking.Err() == nil {
			before, last = last, v
			if len(last.missing(dead(), &before)) == 0 {
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
			return last, fmt.Errorf("the cluster is not whole: %s", strings.Join(last.missing(dead(), &before), "; "))
		}
	}
}

// watchStatus shows the cluster until ctx ends.
func (p *program) watchStatus(ctx context.Context, every time.Duration, asJSON bool) (err error) {
	c, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return p.showAgain(ctx, c, every, asJSON)
}

// showAgain asks and shows, again and again. Nobody may answer for a while: then
// it shows that.
func (p *program) showAgain(ctx context.Context, c statuser, every time.Duration, asJSON bool) error {
	shown := screen{p: p}
	for {
		v, err := look(ctx, c)
		switch {
		case ctx.Err() != nil:
			return nil
		case asJSON && err == nil:
			err = p.stdout.json(v)
		case asJSON:
			p.stderr.printf("manykv: %v\n", err)
			err = nil
		default:
			err = shown.draw(&v, err)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
}

// screen is where a view is drawn again and again: in the same place on a
// terminal, below the last elsewhere.
type screen struct {
	p     *program
	drawn bool
}

const (
	clearScreen = "\x1b[2J"
	cursorHome  = "\x1b[H"
	clearLine   = "\x1b[K" // from the cursor on
	clearBelow  = "\x1b[J"
)

// draw shows a view, or why there is none, in one write: it does not flicker.
func (s *screen) draw(v *view, failed error) error {
	var text strings.Builder
	out := &printer{w: &text}
	out.printf("%s\n\n", time.Now().Format(time.TimeOnly))
	if failed != nil {
		out.printf("%v\n", failed)
	} else {
		v.print(out)
		if trouble := v.trouble(nil); len(trouble) > 0 {
			out.printf("\n%s\n", strings.Join(trouble, "\n"))
		}
	}
	shown := text.String()
	switch {
	case s.p.screen:
		shown = cursorHome + strings.ReplaceAll(shown, "\n", clearLine+"\n") + clearBelow
		if !s.drawn {
			shown = clearScreen + shown
		}
	case s.drawn:
		shown = "\n" + shown
	}
	s.drawn = true
	_, err := s.p.stdout.Write([]byte(shown))
	return err
}
