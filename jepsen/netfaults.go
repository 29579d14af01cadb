//go:build unix

package jepsen

import (
	"slices"
	"time"

	"github.com/manykv/manykv/jepsen/vnet"
)

// The faults of the network.

// cut is the link that nothing passes.
var cut = vnet.Link{Cut: true}

// change makes links for a while: what each of them is, f says, in one direction. It
// is told nothing of the links from and to itself.
func (j *injection) change(f func(from, to string) vnet.Link) error {
	if err := j.hold(theNet); err != nil {
		return err
	}
	j.links(f)
	j.wait(shortestCut, longestCut)
	j.n.Net.Heal()
	return nil
}

func (j *injection) links(f func(from, to string) vnet.Link) {
	ends := j.ends()
	for _, from := range ends {
		for _, to := range ends {
			if from != to {
				j.n.Net.Set(from, to, f(from, to))
			}
		}
	}
}

// ends are the names of the nodes and of the clients.
func (j *injection) ends() []string {
	return append(namesOf(j.n.Nodes), Clients)
}

// names returns the names of nodes, which the fault is about.
func (j *injection) names(nodes ...*Node) []string {
	names := namesOf(nodes)
	j.fault.Nodes = append(j.fault.Nodes, names...)
	return names
}

func namesOf(nodes []*Node) (names []string) {
	for _, node := range nodes {
		names = append(names, node.Name)
	}
	return names
}

// apart lets nothing pass between groups. Who is in none of them hears all.
func (j *injection) apart(groups ...[]string) error {
	group := make(map[string]int)
	for i, names := range groups {
		for _, name := range names {
			group[name] = i + 1
		}
	}
	return j.change(func(from, to string) vnet.Link {
		if a, b := group[from], group[to]; a != 0 && b != 0 && a != b {
			return cut
		}
		return vnet.Link{}
	})
}

// halves cuts the nodes in two, by chance the clients with one half.
func (j *injection) halves() error {
	all := j.some(len(j.n.Nodes))
	minority, rest := j.names(all[:len(all)/2]...), namesOf(all[len(all)/2:])
	if j.rand.IntN(2) == 0 {
		j.detail("clients with the majority")
		rest = append(rest, Clients)
	}
	return j.apart(minority, rest)
}

// isolate cuts a leader off from the other nodes; by chance clients still reach it.
func (j *injection) isolate() error {
	_, leader := j.leader()
	alone := j.names(leader)
	rest := slices.DeleteFunc(namesOf(j.n.Nodes), func(name string) bool { return name == leader.Name })
	if j.rand.IntN(3) == 0 {
		j.detail("from clients too")
		rest = append(rest, Clients)
	}
	return j.apart(alone, rest)
}

// ring lets each node hear its neighbours only: each sees a majority, and no two the
// same. Needs five nodes.
func (j *injection) ring() error {
	at := make(map[string]int)
	all := j.some(len(j.n.Nodes))
	for i, name := range j.names(all...) {
		at[name] = i
	}
	return j.change(func(from, to string) vnet.Link {
		if from == Clients || to == Clients {
			return vnet.Link{}
		}
		distance := (at[from] - at[to] + len(all)) % len(all)
		if distance == 1 || distance == len(all)-1 {
			return vnet.Link{}
		}
		return cut
	})
}

// bridge lets two halves hear each other only through a node between them.
func (j *injection) bridge() error {
	all := j.some(len(j.n.Nodes))
	half := len(all) / 2
	left, right := j.names(all[:half]...), j.names(all[half+1:]...)
	j.detail("%s between", all[half].Name)
	return j.apart(left, right)
}

// oneWay lets a node be heard, or hear, but not both.
func (j *injection) oneWay() error {
	name := j.names(j.node())[0]
	deaf := j.rand.IntN(2) == 0
	j.detail("%s", map[bool]string{true: "hears nobody", false: "is heard by nobody"}[deaf])
	return j.change(func(from, to string) vnet.Link {
		if from != Clients && to != Clients && (deaf && to == name || !deaf && from == name) {
			return cut
		}
		return vnet.Link{}
	})
}

// flapping cuts a node off and lets it back, again and again.
func (j *injection) flapping() error {
	const shortest, longest, times = 50 * time.Millisecond, 600 * time.Millisecond, 16
	if err := j.hold(theNet); err != nil {
		return err
	}
	defer j.n.Net.Heal()
	name := j.names(j.node())[0]
	for i := range times {
		j.links(func(from, to string) vnet.Link {
			if i%2 == 0 && (from == name || to == name) {
				return cut
			}
			return vnet.Link{}
		})
		j.wait(shortest, longest)
	}
	return nil
}

// everywhere makes all links alike.
func (j *injection) everywhere(l vnet.Link) error {
	return j.change(func(_, _ string) vnet.Link { return l })
}

func (j *injection) latency() error {
	l := vnet.Link{Latency: between(j.rand, time.Millisecond, 200*time.Millisecond), Jitter: between(j.rand, time.Millisecond, 100*time.Millisecond)}
	j.detail("%v, and up to %v", l.Latency.Round(time.Millisecond), l.Jitter.Round(time.Millisecond))
	return j.everywhere(l)
}

func (j *injection) loss() error {
	l := vnet.Link{Loss: []float64{0.01, 0.05, 0.1, 0.3, 0.5}[j.rand.IntN(5)]}
	j.detail("%.0f %%", 100*l.Loss)
	return j.everywhere(l)
}

func (j *injection) reorder() error {
	return j.everywhere(vnet.Link{Reorder: 0.25, Duplicate: 0.05, Latency: time.Millisecond, Jitter: 10 * time.Millisecond})
}

func (j *injection) corrupt() error {
	l := vnet.Link{Corrupt: []float64{0.001, 0.01, 0.05}[j.rand.IntN(3)]}
	j.detail("%.1f %%", 100*l.Corrupt)
	return j.everywhere(l)
}

func (j *injection) slowLinks() error {
	l := vnet.Link{BytesPerSecond: int64(50_000 << j.rand.IntN(4))}
	j.detail("%d kB/s", l.BytesPerSecond/1000)
	return j.everywhere(l)
}
