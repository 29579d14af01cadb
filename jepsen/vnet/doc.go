// Package vnet is a network of processes on one machine whose every link can be made
// bad: cut, slow, lossy, out of order, in one direction or both.
//
//	n, err := vnet.Open(vnet.Config{Here: "clients", Nodes: []string{"n1", "n2", "n3"}})
//	err = n.Do("n1", cmd.Start) // the process lives in n1's network
//	n.Set("n1", "n2", vnet.Link{Loss: 0.3})
//	n.Heal()
//
// Each node has a Linux network namespace of its own, with loopback and one TUN
// device. The other ends of all devices are here, and this process is the router
// between them: it reads IPv4 packets, whatever is in them, and writes them to the
// device they are for. A good link costs a read and a write.
//
// It promises that what a link is set to holds for every packet that is routed after
// Set has returned, that a packet which is delayed already still arrives, and that
// nothing of the machine's own network is touched: the namespaces and devices end with
// the threads that hold them, at Close or with the process.
//
// It refuses to run without root and /dev/net/tun, and to change packets otherwise than
// by flipping a bit (which receivers drop by its checksum).
//
// A Network owns a thread in each node's namespace, a goroutine that reads each
// device, and one that sends what was delayed.
package vnet
