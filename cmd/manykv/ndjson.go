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
	"unicode/utf8"

	"github.com/manykv/manykv/kv"
)

// maxLine bounds a line of input. The largest value is 4 MiB, and JSON may
// spell a byte with six.
const maxLine = 32 << 20

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

// readPairs reads one record a line; empty lines are skipped. It ends with the
// first error.
func readPairs(r io.Reader) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		for line, err := range readLines(r) {
			if err != nil {
				yield(kv.Pair{}, err)
				return
			}
			if len(bytes.TrimSpace(line.text)) == 0 {
				continue
			}
			pair, err := parseRecord(line.text)
			if err != nil {
				yield(kv.Pair{}, fmt.Errorf("line %d: %w", line.number, err))
				return
			}
			if !yield(pair, nil) {
				return
			}
		}
	}
}

// readKeys reads one key a line. An empty line is the empty key, which is a
// key like any other.
func readKeys(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for line, err := range readLines(r) {
			if !yield(string(line.text), err) || err != nil {
				return
			}
		}
	}
}

type line struct {
	number int
	text   []byte // until the next line
}

func readLines(r io.Reader) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxLine) // grows with what arrives
		n := 1
		for ; s.Scan(); n++ {
			if !yield(line{n, s.Bytes()}, nil) {
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
