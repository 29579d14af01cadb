package kv_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
)

// defaults are the documented limits; docs and clients rely on them.
var defaults = kv.Limits{
	KeyBytes:    4096,
	ValueBytes:  8388608,
	BatchKeys:   10000,
	BatchBytes:  33554432,
	AnswerBytes: 67108864,
	EntryBytes:  262144,
}

func TestDefaultsFillOnlyWhatIsZero(t *testing.T) {
	if got := (kv.Limits{}).WithDefaults(); got != defaults {
		t.Errorf("defaults are %+v, want %+v", got, defaults)
	}
	set := kv.Limits{KeyBytes: 1, ValueBytes: 2, BatchKeys: 3, BatchBytes: 4, AnswerBytes: 5, EntryBytes: 6}
	if got := set.WithDefaults(); got != set {
		t.Errorf("defaults changed %+v to %+v", set, got)
	}
}

func TestValidateKnowsTheLastLegalValue(t *testing.T) {
	field := func(l *kv.Limits, name string) *int {
		return map[string]*int{
			"key bytes": &l.KeyBytes, "value bytes": &l.ValueBytes, "batch keys": &l.BatchKeys,
			"batch bytes": &l.BatchBytes, "answer bytes": &l.AnswerBytes, "entry bytes": &l.EntryBytes,
		}[name]
	}
	for _, c := range []struct {
		name string
		max  int
	}{
		{"key bytes", 64 << 10},
		{"value bytes", 8 << 20},
		{"batch keys", 1 << 20},
		{"batch bytes", 64 << 20},
		{"answer bytes", 64 << 20},
		{"entry bytes", 256 << 10},
	} {
		for _, v := range []struct {
			got   int
			legal bool
		}{{1, true}, {c.max, true}, {0, false}, {-1, false}, {c.max + 1, false}} {
			l := defaults
			*field(&l, c.name) = v.got
			err := l.Validate()
			if v.legal && err != nil {
				t.Errorf("%s of %d: %v, want no error", c.name, v.got, err)
			}
			want := fmt.Sprintf("invalid: the limit of %s is %d, want 1 to %d", c.name, v.got, c.max)
			if !v.legal && (!errors.Is(err, kv.ErrInvalid) || err.Error() != want) {
				t.Errorf("%s of %d: %v, want %q", c.name, v.got, err, want)
			}
		}
	}
	if err := (kv.Limits{}).WithDefaults().Validate(); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
}

// Whatever limits are valid: a pair that fits one command does, in every kind of
// command, a piece of the size PieceBytes says does, and a value cut into such
// pieces is not cut for ever.
func TestWhatFitsOneCommandDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := kv.Limits{
			KeyBytes:   rapid.IntRange(1, 64<<10).Draw(t, "most key bytes"),
			EntryBytes: rapid.IntRange(1, kv.MaxCommandBytes).Draw(t, "entry bytes"),
		}.WithDefaults()
		if err := l.Validate(); err != nil {
			t.Fatal(err)
		}
		key := strings.Repeat("k", rapid.IntRange(0, l.KeyBytes).Draw(t, "key bytes"))
		piece := l.PieceBytes(key)
		if piece < 1<<10 {
			t.Fatalf("pieces of %d bytes, want at least 1 KiB", piece)
		}
		largest := 0 // the largest value that fits
		for step := kv.MaxCommandBytes; step > 0; step /= 2 {
			if l.PairFits(kv.Pair{Key: key, Value: make([]byte, largest+step)}) {
				largest += step
			}
		}
		if largest < min(piece, 1<<10) || largest > kv.MaxCommandBytes {
			t.Fatalf("a value of %d bytes fits one command beside a key of %d", largest, len(key))
		}
		o := kv.Origin{Client: 1<<64 - 1, Seq: 1<<64 - 1, Acked: 1<<64 - 2, Entry: 1<<32 - 1}
		for kind, command := range everyKind(o, 1<<64-1, kv.Pair{Key: key, Value: make([]byte, max(largest, piece))}) {
			if _, err := l.CheckWrite(command); err != nil {
				t.Fatalf("a key of %d and a value of %d bytes, kind %d: %v", len(key), max(largest, piece), kind, err)
			}
			if most := max(l.EntryBytes, len(key)+1<<10+kv.CommandOverhead); len(command) > most {
				t.Fatalf("a command of %d bytes, kind %d, want at most %d", len(command), kind, most)
			}
		}
	})
}

// The limits of one command, as they are by default.
func TestPairsAndPiecesAtTheirLimits(t *testing.T) {
	pair := func(keyBytes, valueBytes int) kv.Pair {
		return kv.Pair{Key: strings.Repeat("k", keyBytes), Value: make([]byte, valueBytes)}
	}
	small := kv.Limits{EntryBytes: 1}.WithDefaults()
	for _, c := range []struct {
		l     kv.Limits
		pair  kv.Pair
		fits  bool
		piece int
	}{
		{defaults, pair(0, 0), true, 262144 - 96},
		{defaults, pair(0, 262144-96), true, 262144 - 96},
		{defaults, pair(0, 262144-95), false, 262144 - 96},
		{defaults, pair(4096, 262144-96-4096), true, 262144 - 96 - 4096},
		{defaults, pair(4096, 262144-95-4096), false, 262144 - 96 - 4096},
		{small, pair(4096, 1024), true, 1024},
		{small, pair(0, 1025), false, 1024},
	} {
		fits, piece := c.l.PairFits(c.pair), c.l.PieceBytes(c.pair.Key)
		if fits != c.fits || piece != c.piece {
			t.Errorf("a key of %d and a value of %d bytes in entries of %d: fits %v, pieces of %d, want %v, %d",
				len(c.pair.Key), len(c.pair.Value), c.l.EntryBytes, fits, piece, c.fits, c.piece)
		}
	}
}

func TestBatchesAtTheirLimitsAndOnePast(t *testing.T) {
	l := kv.Limits{KeyBytes: 4, ValueBytes: 6, BatchKeys: 3, BatchBytes: 10}.WithDefaults()
	pair := func(key string, valueBytes int) kv.Pair { return kv.Pair{Key: key, Value: make([]byte, valueBytes)} }
	for _, c := range []struct {
		name  string
		pairs []kv.Pair
		want  string // "" for legal
	}{
		{"nothing", nil, ""},
		{"an empty key", []kv.Pair{pair("", 0)}, ""},
		{"the longest key", []kv.Pair{pair("kkkk", 0)}, ""},
		{"a key one byte longer", []kv.Pair{pair("a", 0), pair("kkkkk", 0)}, "1 of 2: too large: a key of 5 bytes, at most 4 are allowed"},
		{"a key not UTF-8", []kv.Pair{pair("k\xff", 0)}, `0 of 1: invalid: key "k\xff" is not valid UTF-8`},
		{"most keys", []kv.Pair{pair("a", 0), pair("b", 0), pair("c", 0)}, ""},
		{"one key more", []kv.Pair{pair("a", 0), pair("b", 0), pair("c", 0), pair("d", 0)}, "too large: a batch of 4 keys, at most 3 are allowed"},
		{"most bytes", []kv.Pair{pair("kkkk", 0), pair("kkkk", 0), pair("kk", 0)}, ""},
		{"one byte more", []kv.Pair{pair("kkkk", 0), pair("kkkk", 0), pair("kkk", 0)}, "too large: a batch of 11 bytes, at most 10 are allowed"},
	} {
		keys := make([]string, len(c.pairs))
		for i := range keys {
			keys[i] = c.pairs[i].Key
		}
		for kind, err := range map[string]error{"key": l.CheckKeys(keys), "pair": l.CheckPairs(c.pairs)} {
			want := c.want
			if want != "" && want[0] <= '9' {
				want = kind + " " + want
			}
			if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
				t.Errorf("%ss, %s: %v, want %q", kind, c.name, err, want)
			}
		}
	}
	for _, c := range []struct {
		name  string
		pairs []kv.Pair
		want  string
	}{
		{"the largest value", []kv.Pair{pair("kkkk", 6)}, ""},
		{"a value one byte larger", []kv.Pair{pair("k", 7)}, `pair 0 of 1: too large: the value of key "k" has 7 bytes, at most 6 are allowed`},
		{"values count", []kv.Pair{pair("kkkk", 6), pair("", 1)}, "too large: a batch of 11 bytes, at most 10 are allowed"},
	} {
		if err := l.CheckPairs(c.pairs); fmt.Sprint(err) != c.want && (err != nil || c.want != "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestLongKeysAreShortenedBetweenCharacters(t *testing.T) {
	const prefix = `pair 0 of 1: too large: the value of key "`
	for _, c := range []struct{ name, key, want string }{
		{"64 bytes", strings.Repeat("k", 64), strings.Repeat("k", 64)},
		{"65 bytes", strings.Repeat("k", 65), strings.Repeat("k", 64) + "…"},
		{"a character over the cut", strings.Repeat("k", 63) + "€uro", strings.Repeat("k", 63) + "…"},
		{"a character of four bytes over the cut", strings.Repeat("k", 61) + "🔑s", strings.Repeat("k", 61) + "…"},
		{"a character up to the cut", strings.Repeat("k", 61) + "€uro", strings.Repeat("k", 61) + "€…"},
	} {
		l := kv.Limits{ValueBytes: 1}.WithDefaults()
		err := l.CheckPairs([]kv.Pair{{Key: c.key, Value: []byte("12")}})
		if want := prefix + c.want + `" has 2 bytes, at most 1 are allowed`; err == nil || err.Error() != want {
			t.Errorf("%s: got  %v\nwant %s", c.name, err, want)
		}
	}
	noCharacters := strings.Repeat("\x80", 100)
	want := `invalid: key "` + strings.Repeat(`\x80`, 60) + `…" is not valid UTF-8`
	if err := defaults.CheckKey(noCharacters); err == nil || err.Error() != want {
		t.Errorf("no characters: got  %v\nwant %s", err, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		text, noise := rapid.String().Draw(t, "text"), rapid.SliceOf(rapid.Byte()).Draw(t, "noise")
		key := text + string(noise) + "\xff"
		err := kv.Limits{KeyBytes: 1 << 10}.WithDefaults().CheckKey(key)
		if err == nil || !utf8.ValidString(err.Error()) || len(err.Error()) > 4*64+100 {
			t.Fatalf("error %v for a key of %d bytes, want a short text in valid UTF-8", err, len(key))
		}
	})
}

func TestBucketNames(t *testing.T) {
	for _, c := range []struct {
		name, want string
	}{
		{"a", ""},
		{"default", ""},
		{"mit Leerzeichen und Ümlaut/…", ""},
		{strings.Repeat("b", 255), ""},
		{strings.Repeat("é", 127) + "e", ""},
		{"", "invalid: an empty bucket name, 1 to 255 bytes are allowed"},
		{strings.Repeat("b", 256), "invalid: a bucket name of 256 bytes, 1 to 255 are allowed"},
		{strings.Repeat("é", 128), "invalid: a bucket name of 256 bytes, 1 to 255 are allowed"},
		{"a:b", `invalid: bucket name "a:b" holds ':'; control characters and ':' are not allowed`},
		{"a\nb", `invalid: bucket name "a\nb" holds '\n'; control characters and ':' are not allowed`},
		{"\x00", `invalid: bucket name "\x00" holds '\x00'; control characters and ':' are not allowed`},
		{"\x7f", `invalid: bucket name "\x7f" holds '\x7f'; control characters and ':' are not allowed`},
		{"\u0085", `invalid: bucket name "\u0085" holds '\u0085'; control characters and ':' are not allowed`},
		{"b\xff", `invalid: bucket name "b\xff" is not valid UTF-8`},
	} {
		err := kv.CheckBucketName(c.name)
		if c.want == "" {
			if err != nil {
				t.Errorf("%q: %v, want no error", c.name, err)
			}
			continue
		}
		if !errors.Is(err, kv.ErrInvalid) || err.Error() != c.want {
			t.Errorf("%q: %v, want %q", c.name, err, c.want)
		}
	}
}
