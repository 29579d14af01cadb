package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// One port serves two kinds of callers; the protocol name says which rules hold for a connection.
const (
	protoPeer   = "manykv-peer/1"   // a node, to a node
	protoClient = "manykv-client/1" // a client, or a tool with a node's certificate, to a node
)

// credentials is who we are and whom we believe. Immutable.
type credentials struct {
	self Identity
	cert tls.Certificate
	ca   *x509.CertPool
}

func loadCredentials(caFile, certFile, keyFile string) (*credentials, error) {
	caPEM, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	c := &credentials{ca: x509.NewCertPool()}
	if !c.ca.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("CA certificate: %s holds no certificate in PEM", caFile)
	}
	if c.cert, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certFile, err)
	}
	chain := make([]*x509.Certificate, len(c.cert.Certificate))
	for i, der := range c.cert.Certificate {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", certFile, err)
		}
	}
	if c.self, err = identify(chain); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certFile, err)
	}
	// What peers will check, checked where the message helps most. Nodes serve and call, clients call.
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if c.self.Role == RoleNode {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	for _, usage := range usages {
		if err := c.verifyChain(chain, usage); err != nil {
			return nil, fmt.Errorf("certificate %s of %s does not stand under %s: %w", certFile, c.self, caFile, err)
		}
	}
	return c, nil
}

// server is the TLS configuration of the listener. Sessions are never resumed: crypto/tls does not look at the chain
// again on resumption (golang/go#77217), and 0-RTT data would come before any certificate.
func (c *credentials) server() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.cert},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              c.ca,
		NextProtos:             []string{protoPeer, protoClient},
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := c.verifyCaller(state)
			return err
		},
	}
}

// client is the TLS configuration for one dial; name is the node we expect, "" for any node of our cluster.
func (c *credentials) client(proto, name string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.cert},
		NextProtos:             []string{proto},
		SessionTicketsDisabled: true,
		// Nodes change their address, so host names prove nothing here: VerifyConnection checks the whole chain
		// against our CA, and the name the certificate was made for.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := c.verifyNode(state, name)
			return err
		},
	}
}

// verifyCaller checks who dialled us.
func (c *credentials) verifyCaller(state tls.ConnectionState) (Identity, error) {
	id, err := c.verify(state, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return Identity{}, err
	}
	if state.NegotiatedProtocol == protoPeer && id.Role != RoleNode {
		return Identity{}, fault("%s %q speaks %s, which only nodes may", id.Role, id.Name, protoPeer)
	}
	return id, nil
}

// verifyNode checks whom we dialled.
func (c *credentials) verifyNode(state tls.ConnectionState, name string) (Identity, error) {
	id, err := c.verify(state, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return Identity{}, err
	}
	if id.Role != RoleNode {
		return Identity{}, fault("certificate of the server is for %s %q, want a node", id.Role, id.Name)
	}
	if name != "" && id.Name != name {
		return Identity{}, fault("certificate of the server is for node %q, want %q", id.Name, name)
	}
	return id, nil
}

func (c *credentials) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (Identity, error) {
	chain := state.PeerCertificates
	if len(chain) == 0 {
		return Identity{}, fault("peer sent no certificate")
	}
	if err := c.verifyChain(chain, usage); err != nil {
		return Identity{}, fault("certificate of %q: %v", chain[0].Subject.CommonName, err)
	}
	id, err := identify(chain)
	if err != nil {
		return Identity{}, fault("certificate of %q: %v", chain[0].Subject.CommonName, err)
	}
	if id.Cluster != c.self.Cluster {
		return Identity{}, fault("certificate of %s %s is for cluster %q, want %q",
			id.Role, id.Name, id.Cluster, c.self.Cluster)
	}
	return id, nil
}

func (c *credentials) verifyChain(chain []*x509.Certificate, usage x509.ExtKeyUsage) error {
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         c.ca,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	return err
}

// identify reads the one identity of a certificate. Two would let the holder choose.
func identify(chain []*x509.Certificate) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, errors.New("no certificate")
	}
	if uris := chain[0].URIs; len(uris) != 1 {
		return Identity{}, fmt.Errorf("got %d identity URIs, want one %scluster/role/name", len(uris), identityScheme)
	}
	return ParseIdentity(chain[0].URIs[0].String())
}
