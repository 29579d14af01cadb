package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/manykv/manykv/client"
)

// Task is clients that use the store in a way of their own while faults are done,
// and know what they should find.
type Task interface {
	// Run works until until is closed, and fails when it saw what must not be, or a
	// call failed in a way that no fault explains.
	Run(ctx context.Context, until <-chan struct{}) error
	// Judge looks once more at everything, when all is well again.
	Judge(ctx context.Context, routes []Route) error
	// Done is how many operations clients made whose results were checked, or will be.
	Done() int
	// String says what it did.
	String() string
}

// Dial opens a client: of all nodes, or through one if node is 0 or more.
type Dial func(ctx context.Context, node int) (*client.Client, error)

// anyNode is all nodes, for Dial.
const anyNode = -1

// nodeName is the name of a node, of which the first is 0.
func nodeName(node int) string { return fmt.Sprintf("n%d", node+1) }

// route opens a client, and a bucket through it.
func (d Dial) route(ctx context.Context, node int, bucket string) (*client.Client, Route, error) {
	one, err := d(ctx, node)
	if err != nil {
		return nil, Route{}, err
	}
	b, err := one.Bucket(ctx, bucket)
	if err != nil {
		return nil, Route{}, errors.Join(err, one.Close())
	}
	name := "leaders"
	if node != anyNode {
		name = nodeName(node)
	}
	return one, Route{name, b}, nil
}

// ended says whether a channel is closed.
func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// rest waits for d, or until until is closed.
func rest(until <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-until:
	}
}

// caller is one client of a task, which changes its way to the store now and then, by
// a new connection.
type caller struct {
	dial   Dial
	nodes  int
	bucket string
	rand   *rand.Rand

	client *client.Client
	route  Route
}

// callsOfAClient is how many calls are made, on average, before a caller connects
// anew.
const callsOfAClient = 200

// change connects anew, to leaders or through any node.
func (c *caller) change(ctx context.Context) error {
	next, route, err := c.dial.route(ctx, c.rand.IntN(c.nodes+1)-1, c.bucket)
	if err != nil {
		return err
	}
	err = c.close()
	c.client, c.route = next, route
	return err
}

func (c *caller) close() error {
	if c.client == nil {
		return nil
	}
	err := c.client.Close()
	c.client = nil
	return err
}

// get returns a bucket to call. It connects anew now and then, and after an error.
func (c *caller) get(ctx context.Context, again bool) (*client.Bucket, error) {
	if c.client == nil || again || c.rand.IntN(callsOfAClient) == 0 {
		if err := c.change(ctx); err != nil {
			return nil, err
		}
	}
	return c.route.Bucket, nil
}

// tolerated says whether faults explain an error of a call, or of connecting.
func tolerated(err error) bool {
	return explained(err) || errors.Is(err, context.DeadlineExceeded)
}
