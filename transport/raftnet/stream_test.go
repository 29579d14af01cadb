package raftnet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/raft"
)

// The golden stream is a snapshot of six bytes in two chunks. Its checksums
// were computed bit by bit by a program in another language.
const (
	goldenHead = "03" + "13" + n1Hex + "13" + n1Hex // a header of n1
	n1Hex      = "6e314030303030303030303030303030303031"
	n2Hex      = "6e324030303030303030303030303030303031"

	goldenEnvelope = "000000a6" + "01" + "13" + n1Hex + "13" + n2Hex +
		"0b" + "00" + "00000001" + "0000000000000002" + "0000006b" +
		goldenHead + "01" + "07" + "13" + n1Hex + "09" + "05" + "00" + "26" + oneServerHex + "03" + "00"
	goldenStream = goldenEnvelope + "c84d96d4" +
		"00000005" + "68656c6c6f" + "6d2c94df" +
		"00000001" + "21" + "f84b0f44" +
		"00000000" + "0000000000000006" + "99f885b3"
	goldenAnswer = "00000040" + "01" + "13" + n2Hex + "13" + n1Hex +
		"0c" + "00" + "00000001" + "0000000000000002" + "00000005" +
		"000000" + "07" + "01" + "1067cb64"
)

func goldenRequest() *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{
		RPCHeader: header("n1"), SnapshotVersion: 1, Term: 7, Leader: []byte(server("n1")),
		LastLogIndex: 9, LastLogTerm: 5, Configuration: oneServer, ConfigurationIndex: 3,
	}
}

// writeStream writes a snapshot whose chunks are these.
func writeStream(t testing.TB, frame []byte, chunks ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &streamWriter{w: &b}
	if err := w.envelope(frame); err != nil {
		t.Fatal(err)
	}
	for _, data := range chunks {
		room := make([]byte, lengthBytes+len(data)+checksumBytes)
		copy(room[lengthBytes:], data)
		if err := w.chunk(room, len(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestStreamHasGoldenBytes(t *testing.T) {
	frame := frameOf(server("n1"), server("n2"), record{shard: 1, seq: 2}, goldenRequest())
	if got := hex.EncodeToString(writeStream(t, frame, "hello", "!")); got != goldenStream {
		t.Fatalf("written:\n got %s\nwant %s", got, goldenStream)
	}
	in := &streamReader{r: bytes.NewReader(unhex(t, goldenStream))}
	source, destination, rec, err := in.envelope()
	if err != nil || string(source) != string(server("n1")) || string(destination) != string(server("n2")) || rec.shard != 1 || rec.seq != 2 {
		t.Fatalf("envelope: got %q, %q, %+v, %v", source, destination, rec, err)
	}
	msg, err := decodeMessage(rec.kind, rec.body)
	if err != nil || !reflect.DeepEqual(msg, goldenRequest()) {
		t.Fatalf("request: got %+v, %v, want %+v", msg, err, goldenRequest())
	}
	req, counted := msg.(*raft.InstallSnapshotRequest), 0
	data, err := io.ReadAll(newSnapshotReader(in, req, func(n int) { counted += n }))
	if err != nil || string(data) != "hello!" || req.Size != 6 || counted != 6 {
		t.Fatalf("got %q, %v, size %d, counted %d; want \"hello!\" and 6", data, err, req.Size, counted)
	}
}

func TestAnswerHasGoldenBytes(t *testing.T) {
	p := newNetwork()
	n2 := p.open(t, "n2")
	defer n2.Close()
	answerAll(n2.Group(1), func(command any) (any, error) {
		return &raft.InstallSnapshotResponse{Term: 7, Success: true}, nil
	})
	conn := &tape{plays: bytes.NewReader(unhex(t, goldenStream))}
	n2.ReceiveBulk(identity("n1"), conn)
	if got := hex.EncodeToString(conn.recorded); got != goldenAnswer {
		t.Fatalf("got  %s\nwant %s", got, goldenAnswer)
	}
}

// take reads a stream to its end as raft does, and says what it would install.
func take(wire []byte) (state []byte, err error) {
	in := &streamReader{r: bytes.NewReader(wire)}
	_, _, rec, err := in.envelope()
	if err != nil {
		return nil, err
	}
	msg, err := decodeMessage(rec.kind, rec.body)
	if err != nil {
		return nil, err
	}
	req, ok := msg.(*raft.InstallSnapshotRequest)
	if !ok {
		return nil, errors.New("no snapshot")
	}
	r := newSnapshotReader(in, req, func(int) {})
	state, err = io.ReadAll(r)
	if err != nil {
		if again, sameErr := r.Read(make([]byte, 1)); again != 0 || sameErr != err {
			return nil, errors.New("the reader went on after an error")
		}
		return nil, err
	}
	if int64(len(state)) != req.Size {
		return nil, errors.New("short read")
	}
	return state, nil
}

func TestDamagedStreamsAreNeverTaken(t *testing.T) {
	frame := frameOf(server("n1"), server("n2"), record{shard: 1, seq: 2}, goldenRequest())
	whole := writeStream(t, frame, "one", strings.Repeat("two", 50), "one", "x")
	if got, err := take(whole); err != nil || string(got) != "one"+strings.Repeat("two", 50)+"onex" {
		t.Fatalf("undamaged: got %q, %v", got, err)
	}
	for i := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			if got, err := take(damaged); err == nil {
				t.Fatalf("bit %d of byte %d flipped: got %q, want an error", bit, i, got)
			}
		}
		if got, err := take(whole[:i]); err == nil || err == io.EOF {
			t.Fatalf("cut off after %d bytes: got %q, %v, want an error", i, got, err)
		}
		for _, other := range []byte{0, 0xff, whole[i] + 1} {
			damaged := bytes.Clone(whole)
			damaged[i] = other
			if got, err := take(damaged); err == nil && other != whole[i] {
				t.Fatalf("byte %d became %#02x: got %q, want an error", i, other, got)
			}
		}
	}
}

// pieces cuts a stream where its writer does: the envelope, chunks and end.
func pieces(wire []byte) (cut [][]byte) {
	for len(wire) > 0 {
		n := int(binary.BigEndian.Uint32(wire))
		if n == 0 {
			n = totalBytes
		}
		n += lengthBytes + checksumBytes
		cut = append(cut, wire[:n])
		wire = wire[n:]
	}
	return cut
}

func TestRearrangedStreamsAreNeverTaken(t *testing.T) {
	frame := frameOf(server("n1"), server("n2"), record{shard: 1, seq: 2}, goldenRequest())
	// All chunks are as long as the others, and two are the same.
	whole := pieces(writeStream(t, frame, "aaaa", "bbbb", "aaaa", "cccc"))
	join := func(order ...int) (wire []byte) {
		for _, i := range order {
			wire = append(wire, whole[i]...)
		}
		return wire
	}
	if _, err := take(join(0, 1, 2, 3, 4, 5)); err != nil {
		t.Fatal(err)
	}
	for what, order := range map[string][]int{
		"doubled":       {0, 1, 1, 2, 3, 4, 5},
		"last doubled":  {0, 1, 2, 3, 4, 4, 5},
		"left out":      {0, 1, 2, 4, 5},
		"first missing": {0, 2, 3, 4, 5},
		"last missing":  {0, 1, 2, 3, 5},
		"exchanged":     {0, 2, 1, 3, 4, 5},
		"same again":    {0, 3, 2, 1, 4, 5}, // the data is what was sent, the checksums are not
		"only the end":  {0, 5},
		"begins twice":  {0, 0, 1, 2, 3, 4, 5},
		"two of it":     {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5},
	} {
		if got, err := take(join(order...)); err == nil {
			t.Errorf("%s: got %q, want an error", what, got)
		}
	}
	// Of another snapshot, whose chunks have their places in it.
	other := pieces(writeStream(t, frame, "dddd", "bbbb", "aaaa", "cccc"))
	if got, err := take(bytes.Join([][]byte{whole[0], whole[1], other[2], whole[3], whole[4], whole[5]}, nil)); err == nil {
		t.Errorf("a chunk of another snapshot: got %q, want an error", got)
	}
}

func TestSnapshotsOfEverySize(t *testing.T) {
	for _, size := range []int{0, 1, maxChunkBytes - 1, maxChunkBytes, maxChunkBytes + 1, 3*maxChunkBytes + 17} {
		state := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(state)
		for what, data := range map[string]io.Reader{
			"at once":         bytes.NewReader(state),
			"in halves":       iotest.HalfReader(bytes.NewReader(state)),
			"end with data":   iotest.DataErrReader(bytes.NewReader(state)),
			"byte after byte": iotest.OneByteReader(bytes.NewReader(state)),
		} {
			var b bytes.Buffer
			w := &streamWriter{w: &b}
			frame := frameOf(server("n1"), server("n2"), record{shard: 1}, goldenRequest())
			if err := errors.Join(w.envelope(frame), w.copy(data)); err != nil {
				t.Fatalf("%d bytes %s: %v", size, what, err)
			}
			if got, err := take(b.Bytes()); err != nil || !bytes.Equal(got, state) {
				t.Errorf("%d bytes %s: got %d, %v", size, what, len(got), err)
			}
			if chunks := len(pieces(b.Bytes())) - 2; chunks != (size+maxChunkBytes-1)/maxChunkBytes {
				t.Errorf("%d bytes %s: got %d chunks", size, what, chunks)
			}
		}
	}
}

// A snapshot that cannot be read to its end has no end on the wire, whatever
// the error is.
func TestFailedSourceEndsTheStreamWithoutAnEnd(t *testing.T) {
	for _, fault := range []error{io.ErrNoProgress, io.ErrUnexpectedEOF, fmt.Errorf("table 7: %w", io.EOF)} {
		for _, before := range []int{0, 10, maxChunkBytes, maxChunkBytes + 10} {
			var b bytes.Buffer
			w := &streamWriter{w: &b}
			frame := frameOf(server("n1"), server("n2"), record{shard: 1}, goldenRequest())
			if err := w.envelope(frame); err != nil {
				t.Fatal(err)
			}
			err := w.copy(io.MultiReader(bytes.NewReader(make([]byte, before)), failingReader{fault}))
			if !errors.Is(err, errSource) || !errors.Is(err, fault) {
				t.Errorf("%v after %d bytes: got %v, want it", fault, before, err)
			}
			if got, err := take(b.Bytes()); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v after %d bytes: the other side got %d, %v; want it cut off", fault, before, len(got), err)
			}
		}
	}
}

// What a stream claims is checked before memory is taken for it.
func TestStreamClaimsAreNotAllocated(t *testing.T) {
	good := unhex(t, goldenStream)
	head := len(unhex(t, goldenEnvelope)) + checksumBytes
	var before, after runtime.MemStats
	for what, wire := range map[string][]byte{
		"message": unhex(t, "ffffffff"),
		"chunk":   append(bytes.Clone(good[:head]), 0xff, 0xff, 0xff, 0xff),
		"limit":   append(bytes.Clone(good[:head]), 0, 4, 0, 1),
	} {
		runtime.ReadMemStats(&before)
		_, err := take(wire)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, errBadStream) || !strings.Contains(err.Error(), "want at most") {
			t.Errorf("%s: got %v, want the length to be refused", what, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 2*maxChunkBytes {
			t.Errorf("%s: allocated %d bytes", what, got)
		}
	}
	w := &streamWriter{w: io.Discard}
	if err := w.envelope(make([]byte, maxEnvelopeBytes+1)); err == nil {
		t.Error("writer: got no error for a message that is too large, want one")
	}
}

// FuzzStream takes arbitrary bytes as a stream. What is taken must be what its
// writer writes, byte for byte.
func FuzzStream(f *testing.F) {
	whole := unhex(f, goldenStream)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(unhex(f, goldenAnswer))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := &streamReader{r: bytes.NewReader(wire)}
		source, destination, rec, err := in.envelope()
		if err != nil {
			return
		}
		msg, err := decodeMessage(rec.kind, rec.body)
		if err != nil {
			return
		}
		var chunks []string
		b := make([]byte, maxChunkBytes)
		for err == nil {
			var data []byte
			if data, err = in.chunk(b); err == nil {
				chunks = append(chunks, string(data))
			}
		}
		if err != io.EOF {
			return
		}
		frame := frameOf(raft.ServerAddress(source), raft.ServerAddress(destination), rec, msg)
		if again := writeStream(t, frame, chunks...); !bytes.Equal(again, wire[:len(again)]) {
			t.Fatalf("got another encoding of one stream:\n%x\n%x", wire, again)
		}
	})
}

// FuzzReceiveBulk gives a Net whatever an authenticated node could send.
func FuzzReceiveBulk(f *testing.F) {
	f.Add(unhex(f, goldenStream))
	f.Add(unhex(f, goldenEnvelope))
	f.Fuzz(func(t *testing.T, wire []byte) {
		n := newNetwork().open(t, "n2")
		var state []byte
		g := n.Group(1)
		installer(g, func(got []byte) { state = got })
		conn := &tape{plays: bytes.NewReader(wire)}
		n.ReceiveBulk(identity("n1"), conn)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := take(wire); state != nil && (err != nil || !bytes.Equal(got, state)) {
			t.Fatalf("installed %q of a stream that holds %q, %v", state, got, err)
		}
	})
}
