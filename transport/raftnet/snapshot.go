package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// InstallSnapshot sends what data holds to target, on a bulk stream, and waits
// until target has installed it. The state may be larger or smaller than
// args.Size says. An error of data breaks the stream off, and target keeps what
// it has.
func (g *Group) InstallSnapshot(_ raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if !g.enter() {
		return raft.ErrTransportShutdown
	}
	defer g.work.Done()
	answer, err := g.sendSnapshot(target, args, data)
	if err != nil {
		select {
		case <-g.stop:
			return raft.ErrTransportShutdown
		default:
			return err
		}
	}
	*resp = *answer
	return nil
}

func (g *Group) sendSnapshot(target raft.ServerAddress, args *raft.InstallSnapshotRequest, data io.Reader) (*raft.InstallSnapshotResponse, error) {
	// Before the turn: a follower that cannot be reached takes none from others.
	conn, err := g.dialSnapshot(target)
	if err != nil {
		return nil, fmt.Errorf("raftnet: snapshot for %s: %w", target, err)
	}
	defer closeStream(conn)
	defer g.atEnd(func() { closeStream(conn) })()
	if err := g.awaitTurn(); err != nil {
		return nil, fmt.Errorf("raftnet: snapshot for %s: %w", target, err)
	}
	defer func() { <-g.net.sending }()

	seq := g.net.seq.Add(1)
	wait := snapshotTimeout
	sendErr := g.stream(conn, target, seq, args, data)
	if errors.Is(sendErr, errSource) {
		return nil, fmt.Errorf("raftnet: snapshot for %s: %w", target, sendErr)
	}
	if sendErr != nil {
		wait = refusalTimeout
	}
	msg, err := g.awaitAnswer(conn, target, seq, wait)
	switch f, refused := msg.(*failure); {
	case refused:
		return nil, fmt.Errorf("raftnet: %s refused: %q", target, f.text)
	case err != nil && sendErr != nil:
		return nil, fmt.Errorf("raftnet: snapshot for %s: %w", target, sendErr)
	case err != nil:
		return nil, fmt.Errorf("raftnet: answer of %s to a snapshot: %w", target, err)
	}
	// An answer counts whatever became of the stream: a target that has everything
	// the snapshot stands for reads no further.
	answer := msg.(*raft.InstallSnapshotResponse) // awaitAnswer lets nothing else through
	if answer.Success {
		g.net.count.snapshotsSent.Add(1)
	}
	return answer, nil
}

func (g *Group) dialSnapshot(target raft.ServerAddress) (net.Conn, error) {
	node, ok := Node(target)
	if !ok {
		return nil, fmt.Errorf("bad server address: got %q, want <node>@<%d hex digits>", target, storageDigits)
	}
	ctx, cancel := context.WithTimeout(context.Background(), snapshotDialTimeout)
	defer cancel()
	defer g.atEnd(cancel)()
	return g.net.dialBulk(ctx, node)
}

// awaitTurn takes one of the places for snapshots that are sent.
func (g *Group) awaitTurn() error {
	timer := time.NewTimer(snapshotSlotTimeout)
	defer timer.Stop()
	select {
	case g.net.sending <- struct{}{}:
		return nil
	case <-g.stop:
		return raft.ErrTransportShutdown
	case <-timer.C:
		return fmt.Errorf("busy: %d snapshots are being sent, none ended within %v", snapshotsOut, snapshotSlotTimeout)
	}
}

// stream writes the whole of a snapshot.
func (g *Group) stream(conn net.Conn, target raft.ServerAddress, seq uint64, args *raft.InstallSnapshotRequest, data io.Reader) error {
	out := &streamWriter{w: conn}
	frame, _ := g.net.encode(target, record{kind: kindInstallSnapshot, shard: g.shard, seq: seq}, args)
	if err := out.envelope(frame); err != nil {
		return err
	}
	err := out.copy(data)
	g.net.count.snapshotBytesSent.Add(out.total)
	return err
}

// awaitAnswer reads the answer to the snapshot with this sequence number: a
// failure or an InstallSnapshotResponse.
func (g *Group) awaitAnswer(conn net.Conn, target raft.ServerAddress, seq uint64, wait time.Duration) (any, error) {
	sent := time.Now()
	if err := conn.SetReadDeadline(sent.Add(wait)); err != nil {
		return nil, err
	}
	in := &streamReader{r: conn}
	source, destination, rec, err := in.envelope()
	if err != nil {
		return nil, err
	}
	if age := time.Since(sent); age > wait { // see call.wait
		g.net.count.late.Add(1)
		return nil, fmt.Errorf("it is %v old, want at most %v", age, wait)
	}
	if string(source) != string(target) || string(destination) != string(g.net.self) || rec.shard != g.shard || rec.seq != seq {
		return nil, badStream("from %q to %q, shard %d, number %d; want %q, %q, %d, %d",
			source, destination, rec.shard, rec.seq, target, g.net.self, g.shard, seq)
	}
	if rec.kind != kindInstallSnapshotAnswer && rec.kind != kindFailure {
		return nil, badStream("message of kind %d, want %d or %d", rec.kind, kindInstallSnapshotAnswer, kindFailure)
	}
	msg, err := decodeMessage(rec.kind, rec.body)
	if err != nil {
		return nil, badStream("%w", err)
	}
	if !headerNames(msg, target) {
		g.net.count.forged.Add(1)
		return nil, badStream("its header does not name %s", target)
	}
	return msg, nil
}

// ReceiveBulk takes one bulk stream that an authenticated node opened; it is
// the transport's Config.Bulk. It returns when the snapshot on it was answered,
// or the stream or the group has ended, and closes conn.
func (n *Net) ReceiveBulk(from transport.Identity, conn net.Conn) {
	defer closeStream(conn)
	in := &streamReader{r: conn}
	source, destination, rec, err := in.envelope()
	if err != nil {
		n.streamFailed(from, err)
		return
	}
	src, ok := n.addressed(from, source, destination)
	if !ok {
		return
	}
	if rec.kind != kindInstallSnapshot {
		n.malformed(from, fmt.Errorf("message of kind %d on a bulk stream, want %d", rec.kind, kindInstallSnapshot))
		return
	}
	msg, err := decodeMessage(rec.kind, rec.body)
	if err != nil {
		n.malformed(from, fmt.Errorf("shard %d: %w", rec.shard, err))
		return
	}
	if !headerNames(msg, src) {
		n.count.forged.Add(1)
		return
	}
	resp, err := n.install(from, rec.shard, msg.(*raft.InstallSnapshotRequest), in, conn)
	if err != nil {
		n.count.snapshotsRefused.Add(1)
		resp = raft.RPCResponse{Error: err}
	}
	n.answerSnapshot(conn, src, rec, resp)
}

// install lets raft read the snapshot, or says why not.
func (n *Net) install(from transport.Identity, shard uint32, req *raft.InstallSnapshotRequest, in *streamReader, conn net.Conn) (raft.RPCResponse, error) {
	g := n.group(shard)
	if g == nil {
		n.count.noGroup.Add(1)
		return raft.RPCResponse{}, fmt.Errorf("no replica of shard %d here", shard)
	}
	if n.holds(shard, req.Term, req.LastLogIndex, req.LastLogTerm) {
		// The leader has not heard how far this replica is, and is told so. raft would
		// go back to the snapshot; refused, the leader would send it again for ever.
		return raft.RPCResponse{Response: &raft.InstallSnapshotResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: req.ProtocolVersion}, Term: req.Term, Success: true}}, nil
	}
	select {
	case n.taking <- struct{}{}:
		defer func() { <-n.taking }()
	default:
		return raft.RPCResponse{}, fmt.Errorf("busy: %d snapshots are being installed, which is the most", snapshotsIn)
	}
	data := newSnapshotReader(in, req, func(bytes int) { n.count.snapshotBytesReceived.Add(uint64(bytes)) })
	resp, err := g.install(req, data, conn)
	if err != nil {
		return resp, err
	}
	if data.err != nil && !errors.Is(data.err, io.EOF) {
		n.streamFailed(from, data.err)
	}
	if answer, ok := resp.Response.(*raft.InstallSnapshotResponse); ok && resp.Error == nil && answer.Success {
		n.count.snapshotsReceived.Add(1)
	}
	return resp, nil
}

// install gives raft a snapshot past the inbox, whose requests raft's main loop
// cannot take while it reads. The end of the group ends conn, and with it what
// raft does.
func (g *Group) install(req *raft.InstallSnapshotRequest, data io.Reader, conn net.Conn) (raft.RPCResponse, error) {
	if err := g.beginInstall(); err != nil {
		return raft.RPCResponse{}, err
	}
	defer g.endInstall()
	defer g.atEnd(func() { closeStream(conn) })()
	answer := make(chan raft.RPCResponse, 1) // raft answers without waiting
	select {
	case g.consumer <- raft.RPC{Command: req, Reader: data, RespChan: answer}:
	case <-g.stop:
		return raft.RPCResponse{}, raft.ErrTransportShutdown
	}
	select {
	case resp := <-answer:
		return resp, nil
	case <-g.stop:
		return raft.RPCResponse{}, raft.ErrTransportShutdown
	}
}

// beginInstall lets one snapshot in at a time: raft would take the second one
// only when it has installed the first, and two streams for one replica are two
// leaders, of which one is not, or one that has given the first stream up.
func (g *Group) beginInstall() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return raft.ErrTransportShutdown
	}
	if g.installing {
		return fmt.Errorf("busy: another snapshot of shard %d is being installed", g.shard)
	}
	g.installing = true
	g.work.Add(1)
	return nil
}

func (g *Group) endInstall() {
	g.mu.Lock()
	g.installing = false
	g.mu.Unlock()
	g.work.Done()
}

func (n *Net) answerSnapshot(conn net.Conn, to raft.ServerAddress, rec record, resp raft.RPCResponse) {
	msg := answerOf(resp)
	frame, _ := n.encode(to, record{kind: messageKind(msg), shard: rec.shard, seq: rec.seq}, msg)
	out := &streamWriter{w: conn}
	if err := out.envelope(frame); err != nil {
		n.log.Debug("answer to a snapshot not sent", slog.String("to", string(to)), slog.Any("error", err))
	}
}

// streamFailed tells a stream that was damaged from one that just ended, with
// its connection or because its sender could not go on.
func (n *Net) streamFailed(from transport.Identity, err error) {
	if errors.Is(err, errBadStream) {
		n.malformed(from, err)
		return
	}
	n.log.Debug("snapshot cut off", slog.String("from", from.String()), slog.Any("error", err))
}

// closeStream ends a stream; that of the transport never fails to.
func closeStream(conn net.Conn) { _ = conn.Close() }
