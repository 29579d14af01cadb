package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/manykv/manykv/kv"
)

// maxLine bounds a line of input. The largest value is 8 MiB, and JSON may
// spell a byte with six.
const maxLine = 64 << 20

// record is a pair as a line of JSON. A value that is not UTF-8 travels as
// base64, because JSON has no bytes.
type record struct {
	Key    *string `json:"key"`
	Value  *string `json:"value,omitempty"`
	Base64 *string `json:"value_base64,omitempty"`
}

// parseRecord reads one line. It is strict: what it cannot keep exactly is an
// error, where encoding/json would put U+FFFD in its place.
func parseRecord(line []byte) (kv.Pair, error) {
	if !utf8.Valid(line) {
		return kv.Pair{}, errors.New("not valid UTF-8; write other bytes as value_base64")
	}
	if loneSurrogate(line) {
		return kv.Pair{}, errors.New(`a lone surrogate (\ud800 to \udfff), which is no character`)
	}
	var r record
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return kv.Pair{}, err
	}
	if rest := bytes.TrimSpace(line[d.InputOffset():]); len(rest) > 0 {
		return kv.Pair{}, fmt.Errorf("%s after the object, want one object a line", count(len(rest), "byte", "bytes"))
	}
	switch {
	case r.Key == nil:
		return kv.Pair{}, errors.New(`no "key"`)
	case (r.Value == nil) == (r.Base64 == nil):
		return kv.Pair{}, errors.New(`want either "value" or "value_base64"`)
	case r.Value != nil:
		return kv.Pair{Key: *r.Key, Value: []byte(*r.Value)}, nil
	}
	value, err := base64.StdEncoding.DecodeString(*r.Base64)
	if err != nil {
		return kv.Pair{}, fmt.Errorf("value_base64: %w", err)
	}
	return kv.Pair{Key: *r.Key, Value: value}, nil
}

// loneSurrogate says whether JSON text holds half of a surrogate pair.
func loneSurrogate(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		i++ // whatever is escaped, it begins no escape itself
		switch unit := escapedUnit(text[i:]); {
		case unit >= 0xdc00 && unit < 0xe000:
			return true
		case unit >= 0xd800 && unit < 0xdc00:
			i += len("uXXXX")
			if i >= len(text) || text[i] != '\\' {
				return true
			}
			if low := escapedUnit(text[i+1:]); low < 0xdc00 || low >= 0xe000 {
				return true
			}
			i += len("uXXXX")
		}
	}
	return false
}

// escapedUnit reads uXXXX; 0 if there is something else.
func escapedUnit(text []byte) uint64 {
	if len(text) < 5 || text[0] != 'u' {
		return 0
	}
	unit, err := strconv.ParseUint(string(text[1:5]), 16, 16)
	if err != nil {
		return 0
	}
	return unit
}

// recordOf is the pair as parseRecord reads it.
func recordOf(p *kv.Pair) record {
	if utf8.Valid(p.Value) {
		return record{Key: &p.Key, Value: new(string(p.Value))}
	}
	return record{Key: &p.Key, Base64: new(base64.StdEncoding.EncodeToString(p.Value))}
}

// input is a pair and where it was read.
type input struct {
	kv.Pair
	place
}

// readInput reads one record a line, from the place after another on; empty
// lines are skipped. It ends with the first error.
func readInput(r io.Reader, after place) iter.Seq2[input, error] {
	return func(yield func(input, error) bool) {
		for line, err := range readLines(r, after) {
			if err != nil {
				yield(input{}, err)
				return
			}
			if len(bytes.TrimSpace(line.text)) == 0 {
				continue
			}
			pair, err := parseRecord(line.text)
			if err != nil {
				yield(input{}, fmt.Errorf("line %d: %w", line.Line, err))
				return
			}
			if !yield(input{pair, line.place}, nil) {
				return
			}
		}
	}
}

// readPairs are the pairs of an input.
func readPairs(r io.Reader) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		for in, err := range readInput(r, place{}) {
			if !yield(in.Pair, err) {
				return
			}
		}
	}
}

// keyLine is a key as a line of text that readKeys reads: as it is, or, if that
// would not be one line, or would look like it, as a JSON string.
func keyLine(key string) (string, error) {
	odd := strings.HasPrefix(key, `"`) || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' })
	if !odd {
		return key, nil
	}
	return jsonString(key)
}

// jsonString is text as a JSON string.
func jsonString(text string) (string, error) {
	var b strings.Builder
	err := (&printer{w: &b}).json(text)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// parseKey reads a line of keyLine.
func parseKey(line []byte) (key string, err error) {
	if !bytes.HasPrefix(line, []byte(`"`)) {
		return string(line), nil
	}
	if !utf8.Valid(line) || loneSurrogate(line) {
		return "", errors.New("the JSON string is not valid Unicode")
	}
	if err := json.Unmarshal(line, &key); err != nil {
		return "", fmt.Errorf("a line that begins with '\"' must be a JSON string: %w", err)
	}
	return key, nil
}

// readKeys reads one key a line. An empty line is the empty key, which is a
// key like any other.
func readKeys(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for line, err := range readLines(r, place{}) {
			key := ""
			if err == nil {
				if key, err = parseKey(line.text); err != nil {
					err = fmt.Errorf("line %d: %w", line.Line, err)
				}
			}
			if !yield(key, err) || err != nil {
				return
			}
		}
	}
}

// place is where a line of an input ends.
type place struct {
	Line   int   `json:"line"`   // its number, from 1
	Offset int64 `json:"offset"` // bytes up to its end
}

type line struct {
	place
	text []byte // until the next line
}

// readLines reads what comes after a place of an input.
func readLines(r io.Reader, at place) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxLine) // grows with what arrives
		s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
			advance, token, err := bufio.ScanLines(data, atEOF)
			at.Offset += int64(advance)
			return advance, token, err
		})
		n := at.Line + 1
		for ; s.Scan(); n++ {
			at.Line = n
			if !yield(line{at, s.Bytes()}, nil) {
				return
			}
		}
		switch err := s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(line{}, fmt.Errorf("line %d: %w: more than %d bytes", n, kv.ErrTooLarge, maxLine))
		case err != nil:
			yield(line{}, fmt.Errorf("line %d: %w", n, err))
		}
	}
}
