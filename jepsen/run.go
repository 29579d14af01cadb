//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
)

// Config says what a run does. The zero value of a field is its default.
type Config struct {
	Setup
	// Length is how long faults are done; default 10 minutes.
	Length time.Duration
	// Faults are the kinds to do, by name; default all that can be.
	Faults []string
	// AtOnce is how many faults overlap at most; default 3.
	AtOnce int
	// First is the kind of the first fault; default any.
	First string
	// Tasks are what clients do, by name: registers, adds, counters, sessions, listing,
	// large; default all.
	Tasks []string
	// Pace is how many calls the registers' workers make a second; default 400.
	Pace int
	// Points are the names of places at which Binary can be made to die.
	Points []string
	// Progress is where a line is written now and then; default nowhere.
	Progress io.Writer
	// Replay is the command that does the same again.
	Replay string
}

const (
	// registerWorkers is how many call at a time; every other one through single nodes.
	registerWorkers = 16
	runPace         = 400
	progressEvery   = 10 * time.Second
)

// TaskNames are what clients can do.
var TaskNames = []string{"registers", "adds", "counters", "sessions", "listing", "large"}

func (c Config) withDefaults() (Config, error) {
	if c.Length == 0 {
		c.Length = 10 * time.Minute
	}
	if c.AtOnce == 0 {
		c.AtOnce = 3
	}
	if c.Pace == 0 {
		c.Pace = runPace
	}
	if c.Tasks == nil {
		c.Tasks = TaskNames
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	for _, name := range c.Tasks {
		if !slices.Contains(TaskNames, name) {
			return c, fmt.Errorf("jepsen: no task is named %q; there are %q", name, TaskNames)
		}
	}
	if c.Length < 0 || c.AtOnce < 0 || c.Pace < 0 || c.Nodes < 1 {
		return c, fmt.Errorf("jepsen: Length %v, AtOnce %d, Pace %d, Nodes %d: want none below 0, and a node", c.Length, c.AtOnce, c.Pace, c.Nodes)
	}
	return c, nil
}

// run is a run under way.
type run struct {
	cfg     Config
	cluster *Cluster
	history *History
	tally   *Tally
	tasks   map[string]Task
	// registers is the task of that name; nil if it is not among them.
	registers *Registers
	nemesis   *Nemesis
	prober    *Prober
	clients   []*client.Client
	before    []client.Status // when nothing had happened

	// broken says that a fault could not be undone, or a node ended by itself: what
	// there is is judged at once.
	broken atomic.Bool

	mu     sync.Mutex // guards checks
	checks []Check
}

// Check is one thing that must hold.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Result is what became of a run.
type Result struct {
	Checks     []Check
	Operations int // of clients, checked
	Faults     []Fault
	Skipped    int // faults that found what they needed taken
	Took       time.Duration
	history    []Operation
	verdict    Verdict
	tally      *Tally
	probes     []int64
}

// Err says what did not hold; nil if everything did.
func (r *Result) Err() error {
	var errs []error
	for _, c := range r.Checks {
		if !c.OK {
			errs = append(errs, fmt.Errorf("%s: %s", c.Name, c.Detail))
		}
	}
	return errors.Join(errs...)
}

// Run forms a cluster, has clients use it while faults are done, and judges what they
// saw. An error says that the run itself failed; what did not hold stands in the
// result.
func Run(ctx context.Context, cfg Config) (_ *Result, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	r := &run{cfg: cfg, history: NewHistory(), tally: NewTally(), tasks: make(map[string]Task)}
	if r.cluster, err = Form(ctx, cfg.Setup); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.cluster.Close()) }()
	defer func() { err = errors.Join(err, r.hangUp()) }()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.load(ctx); err != nil && !r.broken.Load() {
		return nil, err
	}
	if !r.broken.Load() {
		r.heal(ctx)
		r.after(ctx)
	}
	result := r.judge(ctx)
	result.Took = time.Since(began)
	return result, nil
}

// hangUp closes the run's own clients.
func (r *run) hangUp() error {
	var errs []error
	for _, one := range r.clients {
		errs = append(errs, one.Close())
	}
	r.clients = nil
	return errors.Join(errs...)
}

// route opens a client for calls to a bucket, that is closed in the end.
func (r *run) route(ctx context.Context, node int, bucket string) (Route, error) {
	one, route, err := Dial(r.cluster.Dial).route(ctx, node, bucket)
	if err == nil {
		r.clients = append(r.clients, one)
	}
	return route, err
}

// routes opens one to the leaders and one through each node.
func (r *run) routes(ctx context.Context, bucket string) ([]Route, error) {
	var routes []Route
	for node := anyNode; node < len(r.cluster.Nodes); node++ {
		route, err := r.route(ctx, node, bucket)
		if err != nil {
			return nil, err
		}
		routes = append(routes, route)
	}
	return routes, nil
}

// prepare makes the buckets, the tasks and the nemesis.
func (r *run) prepare(ctx context.Context) error {
	asking, err := r.cluster.Dial(ctx, anyNode)
	if err != nil {
		return err
	}
	r.clients = append(r.clients, asking)
	for _, name := range r.cfg.Tasks {
		if err := createBucket(ctx, asking, name); err != nil {
			return err
		}
		if err := r.addTask(ctx, name); err != nil {
			return err
		}
	}
	if r.before, err = asking.Status(ctx); err != nil {
		return err
	}
	probing, err := r.route(ctx, anyNode, probeBucket)
	if err != nil {
		return err
	}
	r.prober = &Prober{Bucket: probing.Bucket, Now: r.history.Now}
	r.nemesis = &Nemesis{
		Nodes: r.cluster.Nodes, Points: r.cfg.Points, Clock: r.cfg.Clock, History: r.history, Seed: r.cfg.Seed,
		Leaders: leadersBy(asking), Replace: r.cluster.Replace, Recovered: r.prober.Await, Kinds: r.cfg.Faults, AtOnce: r.cfg.AtOnce, First: r.cfg.First,
	}
	if r.cluster.net != nil {
		r.nemesis.Net = r.cluster.net
	}
	return nil
}

// addTask makes a task by its name, which is its bucket's too.
func (r *run) addTask(ctx context.Context, name string) error {
	nodes, seed, dial := len(r.cluster.Nodes), r.cfg.Seed, r.cluster.Dial
	switch name {
	case "registers":
		r.registers = &Registers{History: r.history, Tally: r.tally, Seed: seed, Pace: r.cfg.Pace}
		leaders, err := r.route(ctx, anyNode, name)
		if err != nil {
			return err
		}
		for i := range registerWorkers {
			routes := []Route{leaders}
			if i%2 == 1 {
				if routes, err = r.routes(ctx, name); err != nil {
					return err
				}
			}
			r.registers.Workers = append(r.registers.Workers, routes)
		}
	case "adds":
		r.tasks[name] = &Adds{Dial: dial, Nodes: nodes, Bucket: name, Callers: 4, Crowd: 12, Pace: 100 * time.Millisecond}
	case "counters":
		r.tasks[name] = &Counters{Dial: dial, Nodes: nodes, Bucket: name, Callers: 4, Pace: 20 * time.Millisecond}
	case "sessions":
		r.tasks[name] = &Sessions{Dial: dial, Nodes: nodes, Bucket: name, Callers: 4, Seed: seed}
	case "listing":
		r.tasks[name] = &Listing{Dial: dial, Nodes: nodes, Bucket: name, Seed: seed}
	case "large":
		r.tasks[name] = &Large{Dial: dial, Nodes: nodes, Bucket: name, Callers: 2, Seed: seed}
	}
	return nil
}

// load runs the tasks and the nemesis.
func (r *run) load(ctx context.Context) error {
	given := ctx
	faulty, stop := context.WithTimeout(ctx, r.cfg.Length)
	defer stop()
	until := make(chan struct{}) // closed when all is well again: calls under way then end well
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	all, ctx := errgroup.WithContext(ctx)
	// A task that fails ends the run early: there is something to look at.
	judged := func(name string, err error) error {
		if err != nil {
			stop()
		}
		return r.judged(given, name, err)
	}
	if r.registers != nil {
		all.Go(func() error { return judged("registers: calls", r.registers.Run(ctx, until)) })
	}
	for name, task := range r.tasks {
		all.Go(func() error { return judged(name+": calls", task.Run(ctx, until)) })
	}
	all.Go(func() error {
		defer close(until)
		_, err := r.nemesis.Run(faulty)
		time.AfterFunc(endTime, func() { giveUp(errStuck) })
		if err != nil {
			r.broken.Store(true)
			r.check("nodes and faults", err, "")
		}
		return err
	})
	probing, stopProbing := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { r.prober.Run(probing) })
	background.Go(func() { r.progress(probing) })
	err := all.Wait()
	stopProbing()
	background.Wait()
	return err
}

// endTime is how long tasks may take to end their last calls when all is well again.
const endTime = time.Minute

var errStuck = errors.New("not answered a minute after the last fault")

// judged makes a check of what a task said while it ran.
func (r *run) judged(ctx context.Context, name string, err error) error {
	if err != nil && (ctx.Err() != nil || r.broken.Load()) {
		return err
	}
	r.check(name, err, "no call failed in a way that no fault explains, and none saw what must not be")
	return nil
}

// check enters what holds, or why it does not.
func (r *run) check(name string, err error, good string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := Check{Name: name, OK: err == nil, Detail: good}
	if err != nil {
		c.Detail = err.Error()
		fmt.Fprintf(r.cfg.Progress, "FAILED  %s: %v\n", name, err)
	}
	r.checks = append(r.checks, c)
}

// progress says how it is going.
func (r *run) progress(ctx context.Context) {
	began := time.Now()
	for wait(ctx, progressEvery) {
		operations := r.history.Len()
		for _, t := range r.tasks {
			operations += t.Done()
		}
		faults, now := r.nemesis.Now()
		fmt.Fprintf(r.cfg.Progress, "%6s  %8d operations  %4d faults  now: %s\n",
			time.Since(began).Round(time.Second), operations, faults, strings.Join(now, ", "))
	}
}

// heal waits until every shard takes writes, and every node has everything.
func (r *run) heal(ctx context.Context) {
	began := time.Now()
	healing, done := context.WithTimeout(ctx, healTime)
	defer done()
	err := r.prober.Await(healing)
	r.check("every shard takes writes", err, fmt.Sprintf("%v after the last fault; %v are allowed", time.Since(began).Round(time.Millisecond), healTime))
	catching, done := context.WithTimeout(ctx, catchUpTime)
	defer done()
	err = Whole(catching, r.clients[0])
	r.check("every node has everything", err, fmt.Sprintf("%v after the last fault; %v are allowed", time.Since(began).Round(time.Millisecond), catchUpTime))
	if err == nil {
		r.check("replicas are alike", SameHashes(catching, r.clients[0]), "the replicas of each shard hold the same at the same entry")
	}
}

// after has each task look once more at everything, on each route, and looks for what
// nodes still hold.
func (r *run) after(ctx context.Context) {
	const afterTime = 2 * time.Minute
	ctx, done := context.WithTimeout(ctx, afterTime)
	defer done()
	if r.registers != nil {
		routes, err := r.routes(ctx, "registers")
		for _, route := range routes {
			err = errors.Join(err, r.registers.ReadAll(ctx, route))
		}
		r.check("registers: final reads", err, "every key was read on every route")
	}
	for name, task := range r.tasks {
		routes, err := r.routes(ctx, name)
		if err == nil {
			err = task.Judge(ctx, routes)
		}
		r.check(name+": in the end", err, task.String())
	}
	now, err := r.clients[0].Status(ctx)
	if err == nil {
		err = leaked(r.before, now)
	}
	r.check("nothing leaked", err, figuresOf(now))
}

// judge stops the nodes and judges the history.
func (r *run) judge(ctx context.Context) *Result {
	r.check("nodes ended well", errors.Join(r.hangUp(), r.cluster.Stop()), "every node ended with exit status 0 on SIGTERM, and none by itself")
	operations := r.history.Operations()
	resolved, note := r.resolve(ctx, operations)
	result := &Result{Faults: r.nemesis.faults, Skipped: r.nemesis.Skipped(), tally: r.tally, history: resolved, probes: r.prober.Succeeded(), Operations: len(operations)}
	if r.registers != nil {
		result.verdict = CheckHistory(resolved)
		v := &result.verdict
		r.check("registers: linearizable", v.Err(), fmt.Sprintf("%d operations on %d keys, checked in %v; %s", v.Operations, v.Keys, v.Took.Round(time.Millisecond), note))
		r.check("registers: versions", Versions(resolved), "each value had one version, wherever it was read")
	}
	for _, t := range r.tasks {
		result.Operations += t.Done()
	}
	result.Checks = r.checks
	if result.Err() != nil {
		r.check("data kept", r.cluster.keep(ctx), "the nodes' data as they left it")
		result.Checks = r.checks
	}
	return result
}
