package transport

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"
)

var (
	// ErrNotSent means that the request certainly did not reach the handler: send it again, here or elsewhere.
	ErrNotSent = errors.New("not sent")
	// ErrLost means that the request may have reached the handler and its answer will not come: outcome unknown.
	ErrLost = errors.New("connection or deadline lost, outcome unknown")
	// ErrIdentity means that one side refused the other's certificate. Trying again will not help. The request was not
	// sent: such an error is an ErrNotSent too.
	ErrIdentity = errors.New("identity refused")
	// ErrClosed means that this transport was closed.
	ErrClosed = errors.New("transport closed")
)

// Code says what became of a call that the other side answered with an error.
type Code byte

// The codes of the transport. A handler may use further ones: they travel as they are.
const (
	// CodeRefused: not run, because the node is over its budget, has too many calls of ours, or shuts down. Try later.
	CodeRefused Code = 1
	// CodeDenied: not run, and never will be: the caller's role may not, or the request is larger than the node accepts.
	CodeDenied Code = 2
	// CodeFailed: the handler ran and returned an error.
	CodeFailed Code = 3
)

func (c Code) String() string {
	switch c {
	case CodeRefused:
		return "refused"
	case CodeDenied:
		return "denied"
	case CodeFailed:
		return "failed"
	default:
		return fmt.Sprintf("code %d", byte(c))
	}
}

// RemoteError is an error that the other side answered with. Returned by a handler, it travels as it is.
type RemoteError struct {
	Code    Code
	Message string
}

func (e *RemoteError) Error() string { return e.Code.String() + ": " + e.Message }

// maxErrorText bounds the text of an error on the wire: it is for people, and a handler may have wrapped a whole value.
const maxErrorText = 4 << 10

// toRemote turns what a handler returned into what travels.
func toRemote(err error) *RemoteError {
	remote, ok := errors.AsType[*RemoteError](err)
	if !ok {
		remote = &RemoteError{Code: CodeFailed, Message: err.Error()}
	}
	if len(remote.Message) > maxErrorText {
		remote = &RemoteError{Code: remote.Code, Message: remote.Message[:maxErrorText]}
	}
	return remote
}

// notSent and lost name the peer and keep the reason, which is often a context's error, within reach of errors.Is.
func notSent(peer string, reason error) error {
	return fmt.Errorf("transport: %s: %w: %w", peer, ErrNotSent, reason)
}

func lost(peer string, reason error) error {
	return fmt.Errorf("transport: %s: %w: %w", peer, ErrLost, reason)
}

// faultError is a certificate that we looked at and refused. It stays distinguishable inside what crypto/tls and
// quic-go wrap around it.
type faultError struct{ reason string }

func (e *faultError) Error() string { return e.reason }

func fault(format string, args ...any) error {
	return &faultError{reason: fmt.Sprintf(format, args...)}
}

// identityError recognises a handshake that failed for good, and says whose certificate was at fault; nil when the
// failure may be gone at the next attempt.
func identityError(err error, self Identity) error {
	if f, ok := errors.AsType[*faultError](err); ok {
		return fmt.Errorf("%w: %s", ErrIdentity, f.reason)
	}
	remote, ok := errors.AsType[*quic.TransportError](err)
	if !ok || !remote.Remote || !remote.ErrorCode.IsCryptoError() {
		return nil
	}
	// RFC 9001, section 4.8: a TLS alert travels as 0x100 plus its number.
	switch alert := tls.AlertError(remote.ErrorCode - 0x100); alert {
	case alertBadCertificate, alertUnsupportedCertificate, alertCertificateRevoked, alertCertificateExpired,
		alertCertificateUnknown, alertUnknownCA, alertAccessDenied, alertCertificateRequired:
		return fmt.Errorf("%w: the server refused our certificate (%s): %w", ErrIdentity, self, alert)
	case alertNoApplicationProtocol:
		return fmt.Errorf("%w: the server does not speak our protocol: %w", ErrIdentity, alert)
	default:
		return nil
	}
}

// The alerts of RFC 8446, section 6, that no further attempt can cure. crypto/tls does not export its own list.
const (
	alertBadCertificate         tls.AlertError = 42
	alertUnsupportedCertificate tls.AlertError = 43
	alertCertificateRevoked     tls.AlertError = 44
	alertCertificateExpired     tls.AlertError = 45
	alertCertificateUnknown     tls.AlertError = 46
	alertUnknownCA              tls.AlertError = 48
	alertAccessDenied           tls.AlertError = 49
	alertCertificateRequired    tls.AlertError = 116
	alertNoApplicationProtocol  tls.AlertError = 120
)
