package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Golden bytes: what is on the wire between versions of the product. A round trip would hide an error made both ways.
var goldenHeaders = []struct {
	name   string
	header header
	hex    string
}{
	{"request", header{kind: frameRequest, method: 7, length: 5, id: 0x0102030405060708, total: 0x00010005, deadline: 1500},
		"00000005" + "01" + "07" + "0000" + "0102030405060708" + "00010005" + "000005dc"},
	{"response", header{kind: frameResponse, length: 0x40000, id: 2, total: 0x4000000},
		"00040000" + "02" + "00" + "0000" + "0000000000000002" + "04000000" + "00000000"},
	{"error", header{kind: frameError, method: byte(CodeDenied), length: 3, id: 3, total: 3},
		"00000003" + "03" + "02" + "0000" + "0000000000000003" + "00000003" + "00000000"},
	{"one-way", header{kind: frameOneWay},
		"00000000" + "04" + "00" + "0000" + "0000000000000000" + "00000000" + "00000000"},
	{"more", header{kind: frameMore, length: 1, id: 255},
		"00000001" + "05" + "00" + "0000" + "00000000000000ff"},
	{"cancel", header{kind: frameCancel, id: 1 << 63},
		"00000000" + "06" + "00" + "0000" + "8000000000000000"},
}

func TestHeaderGolden(t *testing.T) {
	for _, g := range goldenHeaders {
		if got := hex.EncodeToString(g.header.append(nil)); got != g.hex {
			t.Errorf("%s: got %s, want %s", g.name, got, g.hex)
		}
		wire, err := hex.DecodeString(g.hex)
		must(t, err)
		got, err := readerOf(wire).readHeader()
		if err != nil || got != g.header {
			t.Errorf("%s: read %+v, %v, want %+v", g.name, got, err, g.header)
		}
	}
}

func TestHelloGolden(t *testing.T) {
	for kind, want := range map[streamKind]string{
		streamControl: "6d6b0101", streamData: "6d6b0102", streamCall: "6d6b0103", streamGossip: "6d6b0104",
		streamBulk: "6d6b0105",
	} {
		hello := kind.hello()
		if got := hex.EncodeToString(hello[:]); got != want {
			t.Errorf("kind %d: got %s, want %s", kind, got, want)
		}
		if got, err := parseHello(hello); err != nil || got != kind {
			t.Errorf("kind %d: read %d, %v", kind, got, err)
		}
	}
	for _, bad := range [][helloBytes]byte{{}, {'m', 'k', 1, 0}, {'m', 'k', 1, 6}, {'m', 'k', 2, 1}, {'k', 'm', 1, 1}} {
		if kind, err := parseHello(bad); err == nil {
			t.Errorf("% x: got kind %d, want an error", bad, kind)
		}
	}
}

// readerOf reads frames from memory and admits what is not larger than a megabyte.
func readerOf(wire []byte) *inbox {
	return newInbox(bytes.NewReader(wire), new(counters), admitSmall,
		frameRequest, frameResponse, frameError, frameOneWay)
}

const testLimit = 1 << 20

func admitSmall(h header) (bool, error) { return h.total <= testLimit, nil }

func TestBadHeaders(t *testing.T) {
	reserved := header{kind: frameCancel}.append(nil)
	reserved[7] = 1
	for what, test := range map[string]struct {
		wire  []byte
		words string
	}{
		"kind 0":                 {header{}.append(nil), "frame kind 0"},
		"kind 7":                 {header{kind: 7}.append(nil), "frame kind 7"},
		"too long":               {header{kind: frameMore, length: maxFrameBytes + 1}.append(nil), "262145 bytes"},
		"method of a response":   {header{kind: frameResponse, method: 1}.append(nil), "has method 1"},
		"deadline of a response": {header{kind: frameResponse, deadline: 1}.append(nil), "has a deadline"},
		"cancel with payload":    {header{kind: frameCancel, length: 1}.append(nil), "cancel frame of 1 bytes"},
		"empty more":             {header{kind: frameMore}.append(nil), "empty continuation"},
		"more than total":        {header{kind: frameOneWay, length: 2, total: 1}.append(nil), "begins a message of 1"},
		"empty beginning":        {header{kind: frameOneWay, total: 1}.append(nil), "empty frame begins"},
		"reserved bytes":         {reserved, "reserved bytes 00 01"},
	} {
		_, _, err := readerOf(test.wire).next()
		if !errors.Is(err, errBadFrame) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %v, want a bad frame with %q", what, err, test.words)
		}
	}
}

func TestInboxPutsMessagesTogether(t *testing.T) {
	var wire []byte
	frame := func(h header, payload string) {
		h.length = uint32(len(payload))
		wire = append(h.append(wire), payload...)
	}
	frame(header{kind: frameRequest, method: 1, id: 1, total: 6}, "abc")
	frame(header{kind: frameRequest, method: 2, id: 2, total: 4}, "wx")
	frame(header{kind: frameRequest, method: 3, id: 3, total: testLimit + 1}, "not admitted")
	frame(header{kind: frameMore, id: 3}, "neither")
	frame(header{kind: frameRequest, method: 4, id: 4, total: 9}, "given up")
	frame(header{kind: frameCancel, id: 4}, "")
	frame(header{kind: frameMore, id: 2}, "yz")
	frame(header{kind: frameMore, id: 4}, "!")
	frame(header{kind: frameMore, id: 1}, "def")
	in := readerOf(wire)
	for _, want := range []struct {
		kind frameKind
		id   uint64
		body string
	}{{frameCancel, 4, ""}, {frameRequest, 2, "wxyz"}, {frameRequest, 1, "abcdef"}} {
		h, body, err := in.next()
		if err != nil || h.kind != want.kind || h.id != want.id || string(body) != want.body {
			t.Fatalf("got %+v with %q and %v, want %+v", h, body, err, want)
		}
	}
	if _, _, err := in.next(); err != io.EOF {
		t.Fatalf("at the end: got %v, want io.EOF", err)
	}
	if len(in.open) != 0 {
		t.Fatalf("%d messages are still open", len(in.open))
	}
}

func TestInboxEndsInsideAMessage(t *testing.T) {
	wire := append(header{kind: frameRequest, length: 3, total: 3}.append(nil), "abc"...)
	for n := 1; n < len(wire); n++ {
		if _, _, err := readerOf(wire[:n]).next(); err != io.ErrUnexpectedEOF {
			t.Fatalf("after %d bytes: got %v, want io.ErrUnexpectedEOF", n, err)
		}
	}
}

func TestInboxAllocatesWhatArrived(t *testing.T) {
	const announced = 64 << 20
	wire := append(header{kind: frameRequest, length: 1, total: announced}.append(nil), 'x')
	in := newInbox(bytes.NewReader(wire), new(counters), func(header) (bool, error) { return true, nil }, frameRequest)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := in.next()
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Fatal("got a message, want its end to be missing")
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > maxFrameBytes {
		t.Fatalf("allocated %d bytes for one byte of an announced %d", got, announced)
	}
}

func TestInboxGivesUpOnStalledMessages(t *testing.T) {
	begin := append(header{kind: frameRequest, length: 1, total: 1 << 20}.append(nil), 'x')
	for what, test := range map[string]struct {
		more  []byte
		every time.Duration
		want  time.Duration
		words string
	}{
		"nothing follows":     {nil, 0, frameWait, "did not come within"},
		"half a frame":        {[]byte("x"), 0, frameWait, "did not come within"},
		"a byte now and then": {append(header{kind: frameMore, length: 1}.append(nil), 'x'), frameWait / 2, messageWait, "takes"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				var sender sync.WaitGroup
				sender.Go(func() { trickle(theirs, begin, test.more, test.every) })
				defer sender.Wait()
				defer func() { must(t, ours.Close()) }()
				in := newInbox(ours, new(counters), admitSmall, frameRequest)
				began := time.Now()
				_, _, err := in.next()
				if !errors.Is(err, errBadFrame) || !strings.Contains(err.Error(), test.words) {
					t.Fatalf("got %v, want a bad frame with %q", err, test.words)
				}
				if took := time.Since(began); took < test.want || took > test.want+frameWait {
					t.Fatalf("gave up after %s, want about %s", took, test.want)
				}
			})
		})
	}
}

// trickle begins a message and sends more of it once, or again and again until nobody reads.
func trickle(to io.Writer, begin, more []byte, every time.Duration) {
	_, err := to.Write(begin)
	for err == nil && more != nil {
		_, err = to.Write(more)
		if every == 0 {
			return
		}
		time.Sleep(every) // of the bubble's clock
	}
}

// An idle stream waits for ever, also after a message in several frames.
func TestInboxIsPatientBetweenMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		whole := append(header{kind: frameRequest, length: 1, total: 2}.append(nil), 'x')
		whole = append(header{kind: frameMore, length: 1}.append(whole), 'y')
		go func() {
			_, _ = theirs.Write(whole)
			time.Sleep(100 * messageWait) // of the bubble's clock
			_, _ = theirs.Write(whole)
		}()
		in := newInbox(ours, new(counters), admitSmall, frameRequest)
		for range 2 {
			_, body, err := in.next()
			if err != nil || string(body) != "xy" {
				t.Fatalf("got %q, %v, want \"xy\"", body, err)
			}
		}
		must(t, ours.Close())
	})
}

func FuzzHeader(f *testing.F) {
	for _, g := range goldenHeaders {
		f.Add(g.header.append(nil))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wire []byte) {
		h, err := readerOf(wire).readHeader()
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.Equal(again, wire[:len(again)]) {
			t.Fatalf("%x was read as %+v, which is written as %x", wire, h, again)
		}
	})
}

// FuzzInbox reads arbitrary bytes as a stream. Whatever comes out must have been in there, within the limits.
func FuzzInbox(f *testing.F) {
	var all []byte
	for _, g := range goldenHeaders {
		all = append(g.header.append(all), "payload"...)
		f.Add(append(g.header.append(nil), "payload"...))
	}
	f.Add(all)
	two := append(header{kind: frameRequest, length: 1, total: 2, id: 1}.append(nil), 'x')
	f.Add(append(header{kind: frameMore, length: 1, id: 1}.append(two), 'y'))
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := readerOf(wire)
		var got int
		for {
			h, body, err := in.next()
			if err != nil {
				break
			}
			if h.kind != frameCancel && (len(body) != int(h.total) || len(body) > testLimit) {
				t.Fatalf("message of %d bytes announced as %d", len(body), h.total)
			}
			got += len(body) + shortHeader
		}
		for _, p := range in.open {
			if cap(p.body) > 2*len(wire)+maxFrameBytes {
				t.Fatalf("%d bytes kept for a message of which %d came", cap(p.body), len(wire))
			}
		}
		if got > len(wire) {
			t.Fatalf("%d bytes of messages out of %d bytes", got, len(wire))
		}
	})
}
