package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/manykv/manykv/kv"
)

// golden lines, and the pair that each is.
var goldenRecords = []struct {
	line string
	pair kv.Pair
}{
	{`{"key":"k","value":"text"}`, kv.Pair{Key: "k", Value: []byte("text")}},
	{`{"key":"","value":""}`, kv.Pair{Key: "", Value: []byte{}}},
	{`{"key":"<&>","value":"ü\n\u0000"}`, kv.Pair{Key: "<&>", Value: []byte("ü\n\x00")}},
	{`{"key":"k","value_base64":"AP8="}`, kv.Pair{Key: "k", Value: []byte{0x00, 0xff}}},
	{`{"key":"😀","value":"😀"}`, kv.Pair{Key: "😀", Value: []byte("😀")}},
}

func TestRecordsArePrintedAndReadAsDocumented(t *testing.T) {
	for _, g := range goldenRecords {
		pair, err := parseRecord([]byte(g.line))
		if err != nil || pair.Key != g.pair.Key || !bytes.Equal(pair.Value, g.pair.Value) {
			t.Errorf("%s: got %q, %v, want %q", g.line, pair, err, g.pair)
		}
		var out bytes.Buffer
		if err := (&printer{w: &out}).json(recordOf(&g.pair)); err != nil || out.String() != g.line+"\n" {
			t.Errorf("%q: got %s, %v, want %s", g.pair, &out, err, g.line)
		}
	}
}

func TestOtherSpellingsOfARecordAreRead(t *testing.T) {
	for _, c := range []struct{ line, key, value string }{
		{` { "value" : "v" , "key" : "k" } `, "k", "v"},
		{`{"key":"\u00fc","value":"\ud83d\ude00"}`, "ü", "😀"},
		{`{"key":"\\ud800","value":"\"\/"}`, `\ud800`, `"/`},
		{`{"key":"k","value_base64":""}`, "k", ""},
	} {
		pair, err := parseRecord([]byte(c.line))
		if err != nil || pair.Key != c.key || string(pair.Value) != c.value {
			t.Errorf("%s: got %q, %v, want %q=%q", c.line, pair, err, c.key, c.value)
		}
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	for _, c := range []struct{ line, says string }{
		{`null`, `no "key"`},
		{`{}`, `no "key"`},
		{`[]`, "cannot unmarshal array"},
		{`{"key":"k"}`, "either"},
		{`{"key":"k","value":null}`, "either"},
		{`{"key":"k","value":"v","value_base64":"dg=="}`, "either"},
		{`{"key":7,"value":"v"}`, "cannot unmarshal number"},
		{`{"key":"k","value":"v","ttl":3}`, `unknown field "ttl"`},
		{`{"key":"k","value":"v"}{"key":"l","value":"v"}`, "bytes after the object"},
		{`{"key":"k","value_base64":"AP8"}`, "value_base64"},
		{`{"key":"k","value":"v"`, "unexpected EOF"},
		{"{\"key\":\"k\",\"value\":\"\xff\"}", "not valid UTF-8"},
		{`{"key":"\ud83d","value":"v"}`, "lone surrogate"},
		{`{"key":"k","value":"\ude00\ud83d"}`, "lone surrogate"},
		{`{"key":"k","value":"\ud83dx"}`, "lone surrogate"},
		{`{"key":"k","value":"\ud83d\u0041"}`, "lone surrogate"},
	} {
		if pair, err := parseRecord([]byte(c.line)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %q, %v, want an error that says %q", c.line, pair, err, c.says)
		}
	}
}

// FuzzParseRecord: what is read is printed and read again as the same, and
// nothing is replaced on the way.
func FuzzParseRecord(f *testing.F) {
	for _, g := range goldenRecords {
		f.Add([]byte(g.line))
	}
	f.Add([]byte(`{"key":"\ud83d\ude00","value":"\ufffd\\u\ud83d"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		pair, err := parseRecord(text)
		if err != nil {
			return
		}
		if !utf8.ValidString(pair.Key) {
			t.Fatalf("got key %q, want UTF-8", pair.Key)
		}
		replaced := strings.Contains(pair.Key, "\uFFFD")
		if replaced && !bytes.Contains(text, []byte("\uFFFD")) && !bytes.Contains(bytes.ToLower(text), []byte(`\ufffd`)) {
			t.Fatalf("%q: got key %q with a replacement character that was not there", text, pair.Key)
		}
		printed, err := json.Marshal(recordOf(&pair))
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseRecord(printed)
		if err != nil || again.Key != pair.Key || !bytes.Equal(again.Value, pair.Value) {
			t.Fatalf("got %q, %v again, want %q", again, err, pair)
		}
	})
}

func TestLinesAreReadUntilTheFirstError(t *testing.T) {
	input := "{\"key\":\"a\",\"value\":\"1\"}\r\n\n{\"key\":\"b\",\"value\":\"2\"}\nnonsense\n{\"key\":\"c\",\"value\":\"3\"}\n"
	var keys []string
	var failed error
	for pair, err := range readPairs(strings.NewReader(input)) {
		if err != nil {
			failed = err
			continue
		}
		keys = append(keys, pair.Key)
	}
	if strings.Join(keys, " ") != "a b" || failed == nil || !strings.HasPrefix(failed.Error(), "line 4: ") {
		t.Errorf("got %q, then %v, want a and b, then an error of line 4", keys, failed)
	}
}

func TestEveryLineIsAKey(t *testing.T) {
	var keys []string
	for key, err := range readKeys(strings.NewReader("a\n\n b \r\nc")) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if got := strings.Join(keys, "|"); got != "a|| b |c" {
		t.Errorf("got %q, want a, the empty key, b with its blanks, and c", got)
	}
}

// endless is a line without end.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	e.read += len(b)
	return len(b), nil
}

func TestALineWithoutEndIsRefused(t *testing.T) {
	in := &endless{}
	for _, err := range readKeys(in) {
		if !errors.Is(err, kv.ErrTooLarge) {
			t.Errorf("got %v, want %v", err, kv.ErrTooLarge)
		}
	}
	if in.read > maxLine {
		t.Errorf("got %d bytes read, want at most %d", in.read, maxLine)
	}
}

func TestAnInputThatBreaksIsAnError(t *testing.T) {
	broken := errors.New("broken")
	in := io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(broken))
	var got error
	for _, err := range readKeys(in) {
		got = err
	}
	if !errors.Is(got, broken) {
		t.Errorf("got %v, want %v", got, broken)
	}
}
