package transport

import (
	"fmt"
	"strings"
)

// Role is what kind of process a certificate was made for.
type Role string

// The roles there are. A client may call nodes; only nodes may be called, send one-way messages and gossip.
const (
	RoleNode   Role = "node"
	RoleClient Role = "client"
)

const (
	identityScheme = "manykv://"
	// maxNameBytes is the longest DNS label, so that a node's name can be its host name.
	maxNameBytes = 63
)

// Identity is what a certificate proves, written in it as the URI manykv://<cluster>/<role>/<name>.
type Identity struct {
	Cluster string
	Role    Role
	Name    string
}

// String returns the URI.
func (id Identity) String() string {
	return identityScheme + id.Cluster + "/" + string(id.Role) + "/" + id.Name
}

// ParseIdentity reads the URI of a certificate. It accepts exactly what String returns for a valid identity.
func ParseIdentity(uri string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, identityScheme)
	if !ok {
		return Identity{}, fmt.Errorf("identity %q: want it to begin with %q", uri, identityScheme)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return Identity{}, fmt.Errorf("identity %q: got %d parts, want cluster/role/name", uri, len(parts))
	}
	id := Identity{Cluster: parts[0], Role: Role(parts[1]), Name: parts[2]}
	if err := checkName(id.Cluster); err != nil {
		return Identity{}, fmt.Errorf("identity %q: cluster %w", uri, err)
	}
	if err := checkName(id.Name); err != nil {
		return Identity{}, fmt.Errorf("identity %q: name %w", uri, err)
	}
	if id.Role != RoleNode && id.Role != RoleClient {
		return Identity{}, fmt.Errorf("identity %q: got role %q, want %q or %q", uri, id.Role, RoleNode, RoleClient)
	}
	return id, nil
}

// checkName keeps names usable as host names and free of anything a log or a URI would have to escape.
func checkName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("%q has %d characters, want 1 to %d", name, len(name), maxNameBytes)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%q holds %q, want only a-z, 0-9 and -", name, c)
		}
	}
	return nil
}
