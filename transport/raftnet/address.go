package raftnet

import (
	"fmt"
	"strings"

	"github.com/hashicorp/raft"
)

const (
	// storageDigits is the length of a storage id in an address: 64 bits in
	// hex, padded, because raft compares addresses byte by byte.
	storageDigits = 16
	// maxNodeName is the longest node name a certificate may carry.
	maxNodeName = 63
	// maxAddress is the longest server address.
	maxAddress = maxNodeName + 1 + storageDigits
)

// Address is the raft server address, and server id, of a node with a data
// directory. A node whose disk was replaced is another server: it has
// forgotten its votes and must not speak for the one that gave them.
func Address(node string, storage uint64) raft.ServerAddress {
	return raft.ServerAddress(fmt.Sprintf("%s@%0*x", node, storageDigits, storage))
}

// Node is the node part of a server address; ok is false when addr is not one
// that Address makes.
func Node(addr raft.ServerAddress) (node string, ok bool) {
	node, storage, found := strings.Cut(string(addr), "@")
	if !found || node == "" || len(node) > maxNodeName || len(storage) != storageDigits {
		return "", false
	}
	if strings.Trim(storage, "0123456789abcdef") != "" {
		return "", false
	}
	return node, true
}
