// Package pki makes the certificates of a manykv cluster: a CA, one certificate per node and per client, and the
// gossip key.
//
// It promises files that are complete, synced and private where they must be (keys are mode 0600), and identities in
// the form the transport checks: a URI manykv://<cluster>/<role>/<name>. A client's certificate cannot pose as a node.
//
// It refuses to overwrite any file, and names other than 1 to 63 of a-z, 0-9 and -.
//
// The caller owns the directory and who may read it; the CA key need not stay on any node.
package pki
