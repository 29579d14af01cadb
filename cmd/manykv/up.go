package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/sharding"
)

// startTimeout is how long a local cluster may take to serve: far more than
// the elections of a new one or the replay of an old one's logs.
const startTimeout = 60 * time.Second

const upHelp = `Run a cluster on this machine until Ctrl-C: one process a node, with
certificates of its own. The directory holds all of it:

  client.toml         what data commands connect with
  certs/              the CA, and a certificate for each node and for the client
  n1.toml n1/ n1.log  a node's configuration, data and log; n1.pid while it runs
  up.toml             what was chosen; the next start does the same again

Running it again restarts the cluster on the same data. A node that dies is
reported and not restarted; the others go on, and 'manykv server' with its
configuration starts it again. A node that runs already is left alone.`

// upOptions are the flags of up.
type upOptions struct {
	dir                 string
	nodes, shards, port int
	http                int
}

func (p *program) upCommand() *cobra.Command {
	var o upOptions
	port, err := strconv.Atoi(cluster.DefaultPort)
	if err != nil {
		panic(err) // a constant
	}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster on this machine",
		Long:  upHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.nodes < 1 || o.nodes > mostLocalNodes:
				return usagef("--nodes %d, want 1 to %d", o.nodes, mostLocalNodes)
			case o.shards < 0 || o.shards > sharding.MaxShards:
				return usagef("--shards %d, want 0 to %d", o.shards, sharding.MaxShards)
			case o.port < 1 || o.port > lastPort:
				return usagef("--port %d, want 1 to %d", o.port, lastPort)
			case o.http < 0 || o.http+o.nodes-1 > lastPort:
				return usagef("--http %d with %s, want 1 to %d, or 0 for none", o.http, count(o.nodes, "node", "nodes"), lastPort-o.nodes+1)
			}
			return p.up(cmd.Context(), &o, cmd.Flags().Changed)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", defaultDir, "directory of the cluster; made if there is none")
	f.IntVar(&o.nodes, "nodes", 3, "number of nodes of a new cluster")
	f.IntVar(&o.shards, "shards", 0, "shards of a new cluster; 0: two for each node")
	f.IntVar(&o.port, "port", port, "first UDP port of a new cluster; the next free ones are taken")
	f.IntVar(&o.http, "http", 0, "TCP port of the first node's metrics and health, the next ones for the others; 0: they are not served")
	return cmd
}

func (p *program) up(ctx context.Context, o *upOptions, given func(flag string) bool) (err error) {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	lock, err := lockDir(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	pl, err := loadPlan(o.dir)
	if err != nil {
		return err
	}
	fresh := pl == nil
	if fresh {
		if pl, err = makePlan(o.dir, o); err != nil {
			return fmt.Errorf("make a cluster in %s: %w", o.dir, err)
		}
	} else if err := pl.checkSame(o.dir, o, given); err != nil {
		return err
	}
	// A child is killed when the thread that started it ends (Pdeathsig).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := &local{p: p, dir: o.dir, fresh: fresh, ended: make(chan *child, pl.Nodes)}
	if err := l.start(pl); err != nil {
		_, stopErr := stop(l.children, stopTimeout)
		return errors.Join(err, stopErr)
	}
	return l.run(ctx)
}

// lockDir keeps a second `up` out of dir until the file is closed.
func lockDir(dir string) (*os.File, error) {
	file := filepath.Join(dir, "up.lock")
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		pid, readErr := os.ReadFile(file)
		return nil, errors.Join(fmt.Errorf("another 'manykv up' (pid %s) runs in %s", strings.TrimSpace(string(pid)), dir), readErr, f.Close())
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
	}
	return f, nil
}

// local is a cluster of child processes.
type local struct {
	p        *program
	dir      string
	fresh    bool // it was just made
	children []*child
	ended    chan *child // room for all of them
}

func (l *local) start(pl *plan) error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range pl.Nodes {
		c := newChild(l.dir, pl, i)
		err := c.start(binary, l.ended)
		if c.cmd != nil && c.cmd.Process != nil {
			l.children = append(l.children, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run waits until the cluster serves, says so, and stops it when ctx ends.
func (l *local) run(ctx context.Context) error {
	v, err := l.awaitServing(ctx)
	if ctx.Err() != nil {
		err = fmt.Errorf("before the cluster served: %w", context.Cause(ctx))
	}
	if err == nil {
		l.announce(&v)
		err = l.attend(ctx)
	}
	running := 0
	for _, c := range l.children {
		if c.running() {
			running++
		}
	}
	killed, stopErr := stop(l.children, stopTimeout)
	l.p.stderr.printf("stopped %s", count(running, "node", "nodes"))
	if killed > 0 {
		l.p.stderr.printf(", %d by force after %v", killed, stopTimeout)
	}
	l.p.stderr.printf("\n")
	return errors.Join(err, stopErr)
}

// awaitServing waits until all nodes that live serve. A node that dies while a
// new cluster is formed ends the waiting: it could not be formed.
func (l *local) awaitServing(ctx context.Context) (view, error) {
	ctx, done := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("more than %v", startTimeout))
	defer done()
	type answer struct {
		v   view
		err error
	}
	answers := make(chan answer, 1)
	start := time.Now()
	shown := startProgress(l.p.stderr, l.p.terminal, func() string {
		return fmt.Sprintf("waiting for %s to serve: %.0f s", count(len(l.children), "node", "nodes"), time.Since(start).Seconds())
	})
	defer shown.Close()
	go func() {
		v, err := l.poll(ctx)
		answers <- answer{v, err}
	}()
	for dead := 0; ; {
		select {
		case a := <-answers:
			return a.v, a.err
		case c := <-l.ended:
			err := l.reportDead(ctx, c)
			if dead++; err == nil && (l.fresh || dead == len(l.children)) {
				err = fmt.Errorf("node %s ended before the cluster served", c.name)
			}
			if err != nil {
				done()
				<-answers
				return view{}, err
			}
		}
	}
}

func (l *local) poll(ctx context.Context) (v view, err error) {
	cfg, err := client.LoadConfig(filepath.Join(l.dir, clientFile))
	if err != nil {
		return view{}, err
	}
	c, err := client.Open(ctx, cfg) // with the time that ctx has
	if err != nil {
		return view{}, fmt.Errorf("the cluster does not serve: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return awaitWhole(ctx, startTimeout, c, l.dead)
}

func (l *local) dead() map[sharding.NodeID]bool {
	dead := make(map[sharding.NodeID]bool)
	for _, c := range l.children {
		if !c.running() {
			dead[c.name] = true
		}
	}
	return dead
}

// announce prints the table of nodes and how to talk to them.
func (l *local) announce(v *view) {
	leads := make(map[sharding.NodeID]string)
	for _, n := range v.Nodes {
		if n.State != stateUnreachable {
			leads[n.Node] = strconv.Itoa(n.Leads)
		}
	}
	rows := [][]string{{"NODE", "PID", "ADDRESS", "DATA", "LEADS"}}
	for _, c := range l.children {
		row := []string{string(c.name), "-", c.addr, c.data, cmp.Or(leads[c.name], "-")}
		if c.running() {
			row[1] = strconv.Itoa(c.pid())
		}
		rows = append(rows, row)
	}
	l.p.stdout.table(false, rows)
	flag := ""
	if l.dir != defaultDir {
		flag = " --config " + filepath.Join(l.dir, clientFile)
	}
	l.p.stdout.printf(`
The cluster serves, until Ctrl-C. Try, from another shell in this directory:
  manykv set files readme.txt hello --create%[1]s
  manykv get files readme.txt%[1]s
  manykv status%[1]s
`, flag)
}

// attend reports nodes that die, until ctx ends or none is left.
func (l *local) attend(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-l.ended:
			if err := l.reportDead(ctx, c); err != nil {
				return err
			}
			if len(l.dead()) == len(l.children) {
				return errors.New("no node is left")
			}
		}
	}
}

// reportDead says why a node ended or, if it did not say, how to start it again.
func (l *local) reportDead(ctx context.Context, c *child) error {
	if why := c.reason(); why != "" {
		l.p.stderr.printf("node %s (pid %d) ended, see %s: %s\n", c.name, c.pid(), c.log, why)
		if !l.fresh && l.runsAlready(ctx, c) {
			l.p.stderr.printf("%s runs already, not under this 'up'\n", c.name)
		}
		return c.forget()
	}
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	l.p.stderr.printf("node %s (pid %d) ended: %s; the last of %s:\n", c.name, c.pid(), how, c.log)
	for _, line := range c.lastWords() {
		l.p.stderr.printf("  %s\n", line)
	}
	l.p.stderr.printf("this starts it again: manykv server --config %s\n", c.config)
	return c.forget()
}

// answerTimeout is how long a node that may run already has to answer: it is on
// this machine.
const answerTimeout = 2 * time.Second

// runsAlready says whether a node of this cluster answers at the address of a
// child that is dead.
func (l *local) runsAlready(ctx context.Context, dead *child) bool {
	ctx, done := context.WithTimeout(ctx, answerTimeout)
	defer done()
	cfg, err := client.LoadConfig(filepath.Join(l.dir, clientFile))
	if err != nil {
		return false
	}
	cfg.Addrs = []string{dead.addr}
	c, err := client.Open(ctx, cfg)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
