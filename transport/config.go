package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// Lane is one of the two queues of one-way messages to a node. Each keeps its order; they do not wait for each other.
type Lane uint8

// The lanes.
const (
	LaneControl Lane = iota // small and urgent: heartbeats, votes
	LaneData                // entries
	laneCount
)

const (
	defaultMaxMessage = 72 << 20  // the largest answer the product gives, 64 MiB, and its framing
	defaultInflight   = 256 << 20 // three of the largest requests, or a thousand of 256 KiB
	gossipKeyBytes    = 32

	// defaultBulkRate fills half of a gigabit network, and leaves a disk that writes 200 MB/s time for the journal.
	defaultBulkRate = 64 << 20
	// minBulkRate keeps a piece of a bulk write well below bulkWait also when several streams share the rate: below it
	// the other side would take us for dead.
	minBulkRate = 64 << 10

	// maxClientCalls bounds what one client has at work: enough to keep a node busy, too little to fill its memory.
	maxClientCalls = 256
	// maxNodeCalls is higher because a node forwards for many clients.
	maxNodeCalls = 4096
	// maxAccepted bounds connections of others. Each costs some 100 KiB of stacks and read buffers.
	maxAccepted = 4096
	// maxHandshakes per second are done at once; past it callers must first prove their address (a QUIC Retry, one
	// more round trip), so that forged ones cost us no signature.
	maxHandshakes = 128

	// dialWait bounds one attempt: a handshake takes two round trips, and a lost packet of it is sent again after
	// 200 ms at first.
	dialWait = time.Second
	// firstBackoff to lastBackoff separate attempts while somebody wants the peer: a restarted peer is found within
	// a quarter of a second, a dead one costs four small packets a second.
	firstBackoff = 25 * time.Millisecond
	lastBackoff  = 250 * time.Millisecond
	// keepAlive and idleWait: silence of a peer ends the connection 2.5 to 3 s after its last sign of life. The side
	// that dialled asks, the other one only answers, which is half the packets.
	keepAlive = 500 * time.Millisecond
	idleWait  = 2500 * time.Millisecond
	// helloWait is how long a new stream may take to say what it is. The opener writes that at once.
	helloWait = 2 * time.Second
	// closeWait is how long Close lets running handlers finish and their answers leave, before it cuts them off.
	closeWait = 500 * time.Millisecond

	// maxIncomingStreams leaves room for gossip streams beside the long-lived ones.
	maxIncomingStreams = 256
	// callStreams per connection: a lost packet holds up the calls of one of them only.
	callStreams = 4
	// maxCallStreams is what we accept, should a later version want more.
	maxCallStreams = 16
)

// Windows: what may be under way to a reader that is busy. A stream's is worth 4 MiB per round trip; the connection's
// lets all long-lived streams have theirs, so that one whose reader is slow does not stop the others.
const (
	firstStreamWindow = 1 << 20
	maxStreamWindow   = 4 << 20
	firstConnWindow   = 4 << 20
	maxConnWindow     = 24 << 20
)

// Config is what Open needs. The zero value of an optional field means its default.
type Config struct {
	Listen string // UDP address, "127.0.0.1:7400"; "" = ":0"

	// PEM files. The certificate decides who we are: cluster, role and name.
	CAFile, CertFile, KeyFile string

	// Accept takes connections of others, which needs a node's certificate. false: dial only.
	Accept bool

	// Handle answers a call, in a goroutine of its own. ctx ends with the connection, when the caller gives up, and at
	// the caller's deadline. req belongs to the handler; the answer must not change once returned. nil: calls are
	// denied.
	Handle func(ctx context.Context, from Identity, method byte, req []byte) ([]byte, error)

	// Release takes back what Handle answered, once no byte of it is needed any more, for Handle to answer in again. It is
	// called under a lock and must not call the transport. nil: nobody wants it. Not every answer comes back.
	Release func(method byte, answer []byte)

	// Receive takes one-way messages of nodes. It is called on the goroutine that reads the stream, in order per lane,
	// and must not block. msg belongs to it. nil: they are dropped.
	Receive func(from Identity, msg []byte)

	// Resolve says where a node is now. Required for Call, Send and DialBulk.
	Resolve func(node string) (addr string, ok bool)

	// Bulk takes the bulk streams that other nodes open, each in a goroutine of its own. conn is its to use until it
	// returns; what it has written by then still arrives. Close makes conn fail and waits for it. nil: they are refused.
	Bulk func(from Identity, conn net.Conn)

	// BulkBytesPerSecond bounds what this node sends on all its bulk streams together; default 64 MiB, least 64 KiB.
	BulkBytesPerSecond int64

	GossipKey []byte // 32 bytes; nil: no gossip plane

	// ResetKey makes peers notice at once that this process was restarted, if it is kept from one run to the next;
	// otherwise they wait for their idle timeout. Zero: random.
	ResetKey [32]byte

	MaxMessageBytes int   // largest message sent or accepted; default 72 MiB
	InflightBytes   int64 // requests being received or handled, all connections; default 256 MiB

	// ConnectWait is how long a call waits for a connection before it fails with ErrNotSent, so that its caller may
	// turn to another node; default: as long as its context allows.
	ConnectWait time.Duration

	Logger *slog.Logger // nil: none
}

// withDefaults returns the configuration with every optional field set, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Listen == "" {
		c.Listen = ":0"
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = defaultMaxMessage
	}
	if c.InflightBytes == 0 {
		c.InflightBytes = defaultInflight
	}
	if c.BulkBytesPerSecond == 0 {
		c.BulkBytesPerSecond = defaultBulkRate
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxMessageBytes < 0 || int64(c.MaxMessageBytes) > maxMessageLimit {
		return c, fmt.Errorf("MaxMessageBytes %d, want 1 to %d", c.MaxMessageBytes, int64(maxMessageLimit))
	}
	if c.InflightBytes < 0 {
		return c, fmt.Errorf("InflightBytes %d, want at least 1", c.InflightBytes)
	}
	if c.BulkBytesPerSecond < minBulkRate {
		return c, fmt.Errorf("BulkBytesPerSecond %d, want at least %d", c.BulkBytesPerSecond, minBulkRate)
	}
	if c.ConnectWait < 0 {
		return c, fmt.Errorf("ConnectWait %s, want at least 0", c.ConnectWait)
	}
	if c.GossipKey != nil && len(c.GossipKey) != gossipKeyBytes {
		return c, fmt.Errorf("GossipKey has %d bytes, want %d", len(c.GossipKey), gossipKeyBytes)
	}
	if c.CAFile == "" || c.CertFile == "" || c.KeyFile == "" {
		return c, errors.New("CAFile, CertFile and KeyFile are required")
	}
	if c.ResetKey == ([32]byte{}) {
		rand.Read(c.ResetKey[:]) // never fails: it ends the process instead
	}
	return c, nil
}

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           dialWait,
		MaxIdleTimeout:                 idleWait,
		InitialStreamReceiveWindow:     firstStreamWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		InitialConnectionReceiveWindow: firstConnWindow,
		MaxConnectionReceiveWindow:     maxConnWindow,
		MaxIncomingStreams:             -1,
		MaxIncomingUniStreams:          -1,
	}
}

func dialConfig() *quic.Config {
	c := quicConfig()
	c.KeepAlivePeriod = keepAlive
	return c
}

func acceptConfig() *quic.Config {
	c := quicConfig()
	c.MaxIncomingStreams = maxIncomingStreams
	return c
}
