package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

// Why a connection was ended, as the other side sees it.
const (
	codeClosed    quic.ApplicationErrorCode = 0
	codeForgotten quic.ApplicationErrorCode = 1 // the dialler has another address for this peer
	codeBadFrame  quic.ApplicationErrorCode = 2
	codeStalled   quic.ApplicationErrorCode = 3 // the other side does not read
)

// Transport is one end: a UDP socket, who we are, and the connections there are.
type Transport struct {
	cfg   Config
	creds *credentials
	udp   *net.UDPConn
	quic  *quic.Transport
	gate  *gate
	pace  *rate.Limiter // of what leaves on bulk streams
	stats counters

	packets  chan Packet
	streams  chan net.Conn
	refusals logLimiter

	ctx    context.Context // ends with Close, with cause ErrClosed
	cancel context.CancelCauseFunc
	group  sync.WaitGroup // every goroutine
	once   sync.Once

	mu       sync.Mutex
	closed   bool
	byName   map[string]*link
	byAddr   map[string]*link
	bulk     map[string]*link // by name; only for bulk streams
	accepted map[*accepted]struct{}
}

// Open takes the UDP port and starts. It does not dial anybody yet.
func Open(cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	creds, err := loadCredentials(cfg.CAFile, cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	if cfg.Accept && creds.self.Role != RoleNode {
		return nil, fmt.Errorf("transport: certificate %s is for %s, want a node: only nodes accept connections",
			cfg.CertFile, creds.self)
	}
	udp, err := listenUDP(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("transport: listen on %s: %w", cfg.Listen, err)
	}
	t := &Transport{
		cfg:      cfg,
		creds:    creds,
		udp:      udp,
		gate:     newGate(cfg.InflightBytes),
		pace:     rate.NewLimiter(rate.Limit(cfg.BulkBytesPerSecond), bulkBurst),
		byName:   make(map[string]*link),
		byAddr:   make(map[string]*link),
		bulk:     make(map[string]*link),
		accepted: make(map[*accepted]struct{}),
	}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	if err := t.start(); err != nil {
		t.cancel(err)
		return nil, errors.Join(fmt.Errorf("transport: %w", err), t.quic.Close(), udp.Close())
	}
	return t, nil
}

func listenUDP(addr string) (*net.UDPConn, error) {
	local, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	return net.ListenUDP("udp", local)
}

func (t *Transport) start() error {
	// quic-go asks for 7 MiB of socket buffers and prints a line when the kernel gives less; our documentation says
	// what to set. This variable is its only switch, read once per socket.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		return err
	}
	resetKey := quic.StatelessResetKey(t.cfg.ResetKey)
	handshakes := &meter{limit: maxHandshakes}
	t.quic = &quic.Transport{
		Conn:                t.udp,
		StatelessResetKey:   &resetKey,
		VerifySourceAddress: func(net.Addr) bool { return handshakes.exceeded() },
		ConnContext:         t.watchHandshake,
	}
	if t.cfg.Accept {
		listener, err := t.quic.Listen(t.creds.server(), acceptConfig())
		if err != nil {
			return err
		}
		t.group.Go(func() { t.acceptConns(listener) })
	}
	if t.cfg.GossipKey != nil {
		t.packets = make(chan Packet, packetQueue)
		t.streams = make(chan net.Conn, streamQueue)
		t.primePackets()
		t.group.Go(t.readPackets)
	}
	return nil
}

// Addr returns the local address, with the port that was chosen if none was asked for.
func (t *Transport) Addr() *net.UDPAddr { return t.udp.LocalAddr().(*net.UDPAddr) }

// Self returns the identity our certificate proves.
func (t *Transport) Self() Identity { return t.creds.self }

// Close lets running handlers finish for half a second and their answers leave, then ends every connection, telling
// the peers, waits for every handler and goroutine, and closes the channels of the gossip plane.
func (t *Transport) Close() error {
	var err error
	t.once.Do(func() { err = t.close() })
	return err
}

func (t *Transport) close() error {
	grace, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	select {
	case <-t.gate.close():
	case <-grace.Done():
	}

	t.mu.Lock()
	t.closed = true
	links := make([]*link, 0, len(t.byName)+len(t.byAddr)+len(t.bulk))
	for _, m := range []map[string]*link{t.byName, t.byAddr, t.bulk} {
		for _, l := range m {
			links = append(links, l)
		}
		clear(m)
	}
	conns := make([]*accepted, 0, len(t.accepted))
	for a := range t.accepted {
		conns = append(conns, a)
	}
	t.mu.Unlock()

	t.cancel(ErrClosed) // no dialling, no accepting
	var closing sync.WaitGroup
	for _, l := range links {
		closing.Go(func() { l.close(codeClosed, "closed") })
	}
	for _, a := range conns {
		closing.Go(func() { a.drain(grace) })
	}
	closing.Wait()

	err := t.quic.Close()
	err = errors.Join(err, t.udp.Close())
	t.group.Wait()
	if t.packets != nil {
		close(t.packets)
		close(t.streams)
	}
	if err != nil {
		return fmt.Errorf("transport: close: %w", err)
	}
	return nil
}

// goUnlessClosed starts f as one of the goroutines that Close waits for. Under the mutex, because a wait that has begun
// must not meet a group that grows from zero.
func (t *Transport) goUnlessClosed(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.group.Go(f)
	return true
}
