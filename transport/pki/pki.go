package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// caLife is ten years: replacing the CA means touching every node and client, so it must outlive them.
	caLife = 10 * 365 * 24 * time.Hour
	// leafLife is one year: a stolen key stops working without anybody revoking it.
	leafLife = 365 * 24 * time.Hour
	// backdate covers clocks that disagree: a certificate must be usable the moment it is copied to another machine.
	backdate = time.Hour
	// gossipKeyBytes is the key size of AES-256, which memberlist takes, and of our HMAC.
	gossipKeyBytes = 32
	// maxName is the longest DNS label, so that a node's name can be its host name.
	maxName = 63
)

const (
	caCertFile    = "ca.crt"
	caKeyFile     = "ca.key"
	gossipKeyFile = "gossip.key"
)

// NewCA makes the certificate authority of a cluster and its gossip key: ca.crt, ca.key and gossip.key in dir.
// It refuses to overwrite any of them: losing a CA key locks the cluster out of new certificates.
func NewCA(dir, cluster string) error {
	if err := checkName("cluster", cluster); err != nil {
		return err
	}
	for _, name := range []string{caCertFile, caKeyFile, gossipKeyFile} {
		if err := mustNotExist(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("pki: CA key: %w", err)
	}
	template, err := newTemplate("manykv CA of "+cluster, caLife)
	if err != nil {
		return err
	}
	template.Subject.Organization = []string{cluster}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("pki: CA certificate: %w", err)
	}
	var gossip [gossipKeyBytes]byte
	rand.Read(gossip[:]) // never fails: it ends the process rather than return weak bytes
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if err := writePair(dir, "ca", der, key); err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, gossipKeyFile), []byte(hex.EncodeToString(gossip[:])+"\n"), 0o600)
}

// IssueNode makes <name>.crt and <name>.key in dir, signed by the CA there. hosts are DNS names or IP addresses put
// beside the identity for other tools to check; manykv itself identifies a node by its name, never by its address.
func IssueNode(dir, name string, hosts []string) error {
	return issue(dir, "node", name, hosts, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth})
}

// IssueClient makes <name>.crt and <name>.key in dir for a client: it cannot be used to pose as a node.
func IssueClient(dir, name string) error {
	return issue(dir, "client", name, nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
}

func issue(dir, role, name string, hosts []string, usage []x509.ExtKeyUsage) error {
	if err := checkName(role, name); err != nil {
		return err
	}
	if name == "ca" || name == "gossip" {
		return fmt.Errorf("pki: %s name %q would overwrite the CA's own files", role, name)
	}
	ca, caKey, cluster, err := readCA(dir)
	if err != nil {
		return err
	}
	for _, suffix := range []string{".crt", ".key"} {
		if err := mustNotExist(filepath.Join(dir, name+suffix)); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("pki: key of %s %q: %w", role, name, err)
	}
	template, err := newTemplate(name, leafLife)
	if err != nil {
		return err
	}
	template.Subject.Organization = []string{cluster}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = usage
	template.BasicConstraintsValid = true
	template.URIs = []*url.URL{{Scheme: "manykv", Host: cluster, Path: "/" + role + "/" + name}}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter // a leaf that outlives its CA fails with a puzzling error
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return fmt.Errorf("pki: certificate of %s %q: %w", role, name, err)
	}
	return writePair(dir, name, der, key)
}

// ReadGossipKey reads a key NewCA wrote.
func ReadGossipKey(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("pki: gossip key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("pki: gossip key %s: want %d bytes in hex: %w", file, gossipKeyBytes, err)
	}
	if len(key) != gossipKeyBytes {
		return nil, fmt.Errorf("pki: gossip key %s: got %d bytes, want %d", file, len(key), gossipKeyBytes)
	}
	return key, nil
}

func newTemplate(commonName string, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("pki: serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), // RFC 5280: positive
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(life),
	}, nil
}

func readCA(dir string) (ca *x509.Certificate, key *ecdsa.PrivateKey, cluster string, err error) {
	certFile, keyFile := filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile)
	der, err := readPEM(certFile, "CERTIFICATE")
	if err != nil {
		return nil, nil, "", err
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, "", fmt.Errorf("pki: %s: %w", certFile, err)
	}
	if !ca.IsCA || len(ca.Subject.Organization) != 1 {
		return nil, nil, "", fmt.Errorf("pki: %s is not a CA certificate of manykv", certFile)
	}
	cluster = ca.Subject.Organization[0]
	if err := checkName("cluster", cluster); err != nil {
		return nil, nil, "", fmt.Errorf("%s: %w", certFile, err)
	}
	if der, err = readPEM(keyFile, "PRIVATE KEY"); err != nil {
		return nil, nil, "", err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, "", fmt.Errorf("pki: %s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, "", fmt.Errorf("pki: %s holds a %T, want an ECDSA key", keyFile, parsed)
	}
	if !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, "", fmt.Errorf("pki: %s is not the key of %s", keyFile, certFile)
	}
	return ca, key, cluster, nil
}

func readPEM(file, kind string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("pki: %s holds no PEM block %q", file, kind)
	}
	return block.Bytes, nil
}

// writePair writes the key first: a certificate without its key looks finished and is not.
func writePair(dir, name string, certDER []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("pki: key of %q: %w", name, err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := writeNew(filepath.Join(dir, name+".key"), keyPEM, 0o600); err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER})
	return writeNew(filepath.Join(dir, name+".crt"), certPEM, 0o644)
}

// writeNew never follows or replaces what is there (O_EXCL), whoever was faster than the check before it.
func writeNew(file string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		// Half a file would keep the next attempt from writing a whole one.
		return fmt.Errorf("pki: write %s: %w", file, errors.Join(err, os.Remove(file)))
	}
	return nil
}

func mustNotExist(file string) error {
	_, err := os.Lstat(file)
	switch {
	case err == nil:
		return fmt.Errorf("pki: %s: %w, and is never overwritten", file, fs.ErrExist)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("pki: %w", err)
	}
}

func checkName(what, name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("pki: %s name %q has %d characters, want 1 to %d", what, name, len(name), maxName)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("pki: %s name %q holds %q, want only a-z, 0-9 and -", what, name, c)
		}
	}
	return nil
}
