package raftnet

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The golden bytes were checked by hand against the comments in codec.go and
// frame.go. "03026e31026e32" is a header: version 3, id "n1", address "n2".
var goldenMessages = []struct {
	name string
	msg  any
	hex  string
}{
	{
		"append entries", &raft.AppendEntriesRequest{
			RPCHeader: shortHeader, Term: 300, Leader: []byte("n2"), PrevLogEntry: 4, PrevLogTerm: 5, LeaderCommitIndex: 3,
			Entries: []*raft.Log{
				{Index: 5, Term: 300, Type: raft.LogNoop},
				{
					Index: 6, Term: 300, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"),
					AppendedAt: time.Unix(1, 2).UTC(),
				},
			},
		},
		"03026e31026e32" + "ac02" + "026e32" + "04" + "05" + "03" + "02" +
			"05" + "ac02" + "01" + "00" + "00" + "00" +
			"06" + "ac02" + "00" + "01" + "0000000000000001" + "00000002" + "0464617461" + "03657874",
	},
	{
		"heartbeat", &raft.AppendEntriesRequest{RPCHeader: shortHeader, Term: 1, Leader: []byte("n2")},
		"03026e31026e32" + "01" + "026e32" + "00000000",
	},
	{
		"append entries answer", &raft.AppendEntriesResponse{RPCHeader: shortHeader, Term: 1, LastLog: 128, NoRetryBackoff: true},
		"03026e31026e32" + "01" + "8001" + "02",
	},
	{
		"append entries success", &raft.AppendEntriesResponse{RPCHeader: shortHeader, Term: 1, LastLog: 2, Success: true},
		"03026e31026e32" + "01" + "02" + "01",
	},
	{
		"vote", &raft.RequestVoteRequest{
			RPCHeader: shortHeader, Term: 1, Candidate: []byte("n2"), LastLogIndex: 2, LastLogTerm: 3, LeadershipTransfer: true,
		},
		"03026e31026e32" + "01" + "026e32" + "02" + "03" + "01",
	},
	{
		"vote answer", &raft.RequestVoteResponse{RPCHeader: shortHeader, Term: 1, Peers: []byte("p"), Granted: true},
		"03026e31026e32" + "01" + "0170" + "01",
	},
	{
		"pre-vote", &raft.RequestPreVoteRequest{RPCHeader: shortHeader, Term: 1, LastLogIndex: 2, LastLogTerm: 3},
		"03026e31026e32" + "01" + "02" + "03",
	},
	{
		"pre-vote answer", &raft.RequestPreVoteResponse{RPCHeader: shortHeader, Term: 1, Granted: true},
		"03026e31026e32" + "01" + "01",
	},
	{"timeout now", &raft.TimeoutNowRequest{RPCHeader: shortHeader}, "03026e31026e32"},
	{"timeout now answer", &raft.TimeoutNowResponse{}, "000000"},
	{"failure", &failure{text: "no"}, "6e6f"},
	{
		"install snapshot", &raft.InstallSnapshotRequest{
			RPCHeader: shortHeader, SnapshotVersion: 1, Term: 300, Leader: []byte("n2"), LastLogIndex: 7, LastLogTerm: 5,
			Peers: []byte("p"), Configuration: oneServer, ConfigurationIndex: 3, Size: 1000,
		},
		"03026e31026e32" + "01" + "ac02" + "026e32" + "07" + "05" + "0170" +
			"26" + oneServerHex + "03" + "e807",
	},
	{
		"install snapshot answer", &raft.InstallSnapshotResponse{RPCHeader: shortHeader, Term: 1, Success: true},
		"03026e31026e32" + "01" + "01",
	},
}

// oneServer is raft's encoding of a configuration: msgpack of one voter with id
// "n1" and address "n2".
var oneServer = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n2"}}})

const oneServerHex = "81a7" + "53657276657273" + "9183" +
	"a7" + "41646472657373" + "a26e32" + "a2" + "4944" + "a26e31" + "a8" + "5375666672616765" + "00"

var shortHeader = raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1"), Addr: []byte("n2")}

func TestMessagesHaveGoldenBytes(t *testing.T) {
	for _, c := range goldenMessages {
		t.Run(c.name, func(t *testing.T) {
			if got := hex.EncodeToString(appendMessage(nil, c.msg)); got != c.hex {
				t.Fatalf("encoded:\n got %s\nwant %s", got, c.hex)
			}
			got, err := decodeMessage(messageKind(c.msg), unhex(t, c.hex))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.msg) {
				t.Fatalf("decoded:\n got %+v\nwant %+v", got, c.msg)
			}
		})
	}
}

// Every field of raft's messages is carried: a field added to raft, or
// forgotten here, does not survive the way.
func TestEveryFieldIsCarried(t *testing.T) {
	for _, msg := range []any{
		&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}, &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{},
		&raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{}, &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{},
		&raft.InstallSnapshotRequest{}, &raft.InstallSnapshotResponse{},
	} {
		fill(t, reflect.ValueOf(msg).Elem())
		if m, ok := msg.(*raft.InstallSnapshotRequest); ok {
			m.Configuration = oneServer // others are refused
		}
		got, err := decodeMessage(messageKind(msg), appendMessage(nil, msg))
		if err != nil {
			t.Fatalf("%T: %v", msg, err)
		}
		if !reflect.DeepEqual(got, msg) {
			t.Errorf("%T:\n got %+v\nwant %+v", msg, got, msg)
		}
	}
}

// fill gives every field of a message a value that is not zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = time.Unix(1_700_000_000, 999_999_999).UTC()
		return
	case *raft.LogType:
		*p = raft.LogBarrier
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(200)
	default:
		t.Fatalf("field of kind %v: this test must learn it", v.Kind())
	}
}

func TestBadMessagesAreRefused(t *testing.T) {
	const head = "03026e31026e32" // as in goldenMessages
	const before = head + "01" + "00" + "00" + "00" + "00"
	snapshot := func(version, configuration, size string) string {
		return head + version + "01" + "00" + "01" + "01" + "00" + configuration + "01" + size
	}
	for _, c := range []struct {
		name string
		kind kind
		hex  string
		want string
	}{
		{"unknown kind", 9, "", "unknown message kind"},
		{"empty", kindVote, "", "ends early"},
		{"cut short", kindPreVote, head + "01", "bad varint"},
		{"bytes after the end", kindTimeoutNow, head + "00", "bytes after"},
		{"long varint", kindPreVoteAnswer, head + "8100" + "00", "bad varint"},
		{"varint over 64 bits", kindPreVoteAnswer, head + "ffffffffffffffffffff01" + "00", "bad varint"},
		{"unknown flag", kindPreVoteAnswer, head + "01" + "02", "unknown flags"},
		{"string beyond the end", kindTimeoutNow, "03" + "ffffffffffffffffff01", "ends early"},
		{"count beyond the input", kindAppendEntries, before + "02" + strings.Repeat("00", 11), "too many entries"},
		{"count above the limit", kindAppendEntries, before + "8108" + strings.Repeat("00", 7000), "too many entries"},
		{"unknown entry type", kindAppendEntries, before + "01" + "0101" + "06" + "00" + "00" + "00", "unknown type"},
		{"peer list of old raft", kindAppendEntries, before + "01" + "0101" + "02" + "00" + "00" + "00", "unknown type"},
		{"bad configuration", kindAppendEntries, before + "01" + "0101" + "05" + "00" + "01c1" + "00", "bad configuration"},
		{"empty configuration", kindAppendEntries, before + "01" + "0101" + "05" + "00" + "00" + "00", "bad configuration"},
		{"nanoseconds", kindAppendEntries, before + "01" + "0101" + "00" + "01" + "00000000000000003b9aca00" + "0000", "bad time"},
		{"zero time", kindAppendEntries, before + "01" + "0101" + "00" + "01" + "fffffff1886e090000000000" + "0000", "zero time"},
		{"snapshot of version 0", kindInstallSnapshot, snapshot("00", "26"+oneServerHex, "00"), "unknown snapshot version"},
		{"snapshot without servers", kindInstallSnapshot, snapshot("01", "00", "00"), "bad configuration"},
		{"snapshot with bad servers", kindInstallSnapshot, snapshot("01", "01c1", "00"), "bad configuration"},
		{"snapshot of negative size", kindInstallSnapshot, snapshot("01", "26"+oneServerHex, "80808080808080808001"), "bad snapshot size"},
		{"snapshot cut short", kindInstallSnapshot, head + "01", "bad varint"},
		{"long failure", kindFailure, strings.Repeat("00", maxFailureText+1), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			msg, err := decodeMessage(c.kind, unhex(t, c.hex))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %+v, error %v; want an error with %q", msg, err, c.want)
			}
		})
	}
}

func TestConfigurationEntryIsKept(t *testing.T) {
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}}
	want := &raft.AppendEntriesRequest{
		RPCHeader: shortHeader, Term: 1,
		Entries: []*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)}},
	}
	got, err := decodeMessage(kindAppendEntries, appendMessage(nil, want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

// A configuration that claims more servers than its bytes can hold must not be
// believed: msgpack's array32 of 2^32-1 servers in 14 bytes.
func TestConfigurationClaimsAreNotAllocated(t *testing.T) {
	claim := unhex(t, "81"+"a7"+hex.EncodeToString([]byte("Servers"))+"ddffffffff")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := checkConfiguration(claim)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("got no error, want one")
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("allocated %d bytes for a configuration of %d", got, len(claim))
	}
}

func TestFrameHasGoldenBytes(t *testing.T) {
	const want = "01" + "02" + "6e31" + "02" + "6e32" +
		"07" + "01" + "00000102" + "0000000000000305" + "00000003" + "000000" +
		"0a" + "00" + "00000001" + "0000000000000002" + "00000002" + "6e6f"
	frame := appendFrameHeader(nil, "n1", "n2")
	frame = appendRecord(frame, record{kind: kindTimeoutNow, lazy: true, shard: 258, seq: 773}, &raft.TimeoutNowRequest{})
	frame = appendRecord(frame, record{kind: kindFailure, shard: 1, seq: 2}, &failure{text: "no"})
	if got := hex.EncodeToString(frame); got != want {
		t.Fatalf("encoded:\n got %s\nwant %s", got, want)
	}
	source, destination, r, err := readFrameHeader(frame)
	if err != nil || string(source) != "n1" || string(destination) != "n2" {
		t.Fatalf("header: got %q, %q, %v; want n1, n2", source, destination, err)
	}
	for _, want := range []record{
		{kind: kindTimeoutNow, lazy: true, shard: 258, seq: 773, body: []byte{0, 0, 0}},
		{kind: kindFailure, shard: 1, seq: 2, body: []byte("no")},
	} {
		got, err := readRecord(r)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("record: got %+v, %v; want %+v", got, err, want)
		}
	}
	if len(r.b) != 0 {
		t.Fatalf("got %d bytes left, want none", len(r.b))
	}
}

// One allocation per message: the hint covers what is encoded.
func TestSizeHintCovers(t *testing.T) {
	long := []byte(Address(strings.Repeat("n", maxNodeName), 1<<64-1))
	h := raft.RPCHeader{ProtocolVersion: 3, ID: long, Addr: long}
	l := raft.Log{Index: 1<<64 - 1, Term: 1<<64 - 1, Data: make([]byte, 300), Extensions: make([]byte, 300), AppendedAt: time.Unix(1, 1)}
	for _, msg := range []any{
		&raft.AppendEntriesRequest{
			RPCHeader: h, Leader: long, Term: 1<<64 - 1, PrevLogEntry: 1<<64 - 1, PrevLogTerm: 1<<64 - 1,
			LeaderCommitIndex: 1<<64 - 1, Entries: []*raft.Log{&l, &l, &l, &l},
		},
		&raft.RequestVoteRequest{RPCHeader: h, Candidate: long, Term: 1<<64 - 1, LastLogIndex: 1<<64 - 1, LastLogTerm: 1<<64 - 1},
		&failure{text: strings.Repeat("x", maxFailureText)},
		&raft.InstallSnapshotRequest{
			RPCHeader: h, SnapshotVersion: 1, Term: 1<<64 - 1, Leader: long, LastLogIndex: 1<<64 - 1, LastLogTerm: 1<<64 - 1,
			Peers: make([]byte, 300), Configuration: make([]byte, 300), ConfigurationIndex: 1<<64 - 1, Size: 1<<63 - 1,
		},
	} {
		if got := len(appendMessage(nil, msg)); got > sizeHint(msg) {
			t.Errorf("%T: encoded %d bytes, hint %d", msg, got, sizeHint(msg))
		}
	}
}

func TestFittingBounds(t *testing.T) {
	for _, c := range []struct {
		name        string
		count, size int
		want        int
	}{
		{"none", 0, 0, 0},
		{"all of a small batch", 64, 1 << 10, 64},
		{"four of the largest size", 64, 256 << 10, 4},
		{"exactly the bound", 2, maxAppendBytes / 2, 2},
		{"one byte over", 2, maxAppendBytes/2 + 1, 1},
		{"one above the bound goes alone", 3, maxAppendBytes + 1, 1},
	} {
		if got := fitting(entries("n1", 0, c.count, c.size).Entries); got != c.want {
			t.Errorf("%s: got %d of %d entries, want %d", c.name, got, c.count, c.want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, c := range goldenMessages {
		f.Add(byte(messageKind(c.msg)), unhex(f, c.hex))
	}
	conf := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}})
	f.Add(byte(kindAppendEntries), appendMessage(nil, &raft.AppendEntriesRequest{
		Entries: []*raft.Log{{Type: raft.LogConfiguration, Data: conf}},
	}))
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		msg, err := decodeMessage(kind(k), body)
		if err != nil {
			return
		}
		if messageKind(msg) != kind(k) {
			t.Fatalf("kind %d decoded as %T", k, msg)
		}
		if m, ok := msg.(*raft.AppendEntriesRequest); ok && len(m.Entries)*minEntryBytes > len(body) {
			t.Fatalf("got %d entries of %d bytes", len(m.Entries), len(body))
		}
		if again := appendMessage(nil, msg); !bytes.Equal(again, body) {
			t.Fatalf("got another encoding of one message:\n%x\n%x", body, again)
		}
	})
}

func FuzzFrame(f *testing.F) {
	frame := appendFrameHeader(nil, "n1", "n2")
	for _, c := range goldenMessages {
		frame = appendRecord(frame, record{kind: messageKind(c.msg), shard: 1, seq: 2}, c.msg)
	}
	f.Add(frame)
	f.Add(frame[:40])
	f.Fuzz(func(t *testing.T, frame []byte) {
		source, destination, r, err := readFrameHeader(frame)
		if err != nil {
			return
		}
		again := appendFrameHeader(nil, raft.ServerAddress(source), raft.ServerAddress(destination))
		for len(r.b) > 0 {
			rec, err := readRecord(r)
			if err != nil {
				return
			}
			again = appendRecord(again, rec, &failure{text: string(rec.body)})
		}
		if !bytes.Equal(again, frame) {
			t.Fatalf("got another encoding of one frame:\n%x\n%x", frame, again)
		}
	})
}

// FuzzReceive gives a Net whatever an authenticated node could send.
func FuzzReceive(f *testing.F) {
	frame := appendFrameHeader(nil, server("n2"), server("n1"))
	frame = appendRecord(frame, record{kind: kindAppendEntries, shard: 1, seq: 1}, entries("n2", 1, 2, 3))
	frame = appendRecord(frame, record{kind: kindTimeoutNowAnswer, shard: 1, seq: 1}, &raft.TimeoutNowResponse{})
	f.Add(frame)
	f.Fuzz(func(t *testing.T, frame []byte) {
		n := newNetwork().open(t, "n1")
		answerAll(n.Group(1), follower("n1"))
		n.Receive(identity("n2"), frame)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
