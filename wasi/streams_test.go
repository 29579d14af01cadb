package wasi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"
)

// copying is a program that writes what it reads, 1,000 bytes at a time: a vector of
// address and length at 0, the number of bytes at 8.
func copying() []byte {
	var m moduleWriter
	vectors := m.typeOf([]api.ValueType{i32, i32, i32, i32}, oneWord)
	m.importFunc(preview1, "fd_read", vectors)
	m.importFunc(preview1, "fd_write", vectors)
	store := func(at byte, value ...byte) []byte {
		return append(append([]byte{opI32Const, at}, value...), 0x36, 2, 0)
	}
	var code []byte
	code = append(code, store(0, opI32Const, 16)...)
	code = append(code, opLoop, formEmpty)
	code = append(code, store(4, opI32Const, 0xe8, 0x07)...)
	code = append(code, opI32Const, 0, opI32Const, 0, opI32Const, 1, opI32Const, 8, opCall, 0, opDrop)
	code = append(code, opI32Const, 8, 0x28, 2, 0, 0x45, opIf, formEmpty, 0x0f, opEnd) // nothing: return
	code = append(code, store(4, opI32Const, 8, 0x28, 2, 0)...)
	code = append(code, opI32Const, 1, opI32Const, 0, opI32Const, 1, opI32Const, 8, opCall, 1, opDrop)
	code = append(code, 0x0c, 0, opEnd)
	m.export(startName, coreFunc, m.define(m.typeOf(nil, nil), body(code)))
	m.memory = true
	m.export(memoryName, coreMemory, 0)
	return m.bytes()
}

func TestStreams(t *testing.T) {
	g := compile(t, openHost(t, Config{}), copying())
	text := strings.Repeat("0123456789", 12345)
	var out bytes.Buffer
	must(t, g.Run(t.Context(), Process{Stdin: strings.NewReader(text), Stdout: &out}))
	if out.String() != text {
		t.Errorf("%d bytes came of %d, or others", out.Len(), len(text))
	}
}

// A guest that waits for its input, or for somebody to take its output, ends with its
// context.
func TestStreamsEndWithTheContext(t *testing.T) {
	g := compile(t, openHost(t, Config{}), copying())
	enough := errors.New("enough")
	for name, p := range map[string]func(touched context.CancelCauseFunc) Process{
		"input": func(stop context.CancelCauseFunc) Process {
			return Process{Stdin: hanging{stop, enough, t.Context().Done()}}
		},
		"output": func(stop context.CancelCauseFunc) Process {
			return Process{Stdin: strings.NewReader("x"), Stdout: hanging{stop, enough, t.Context().Done()}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancelCause(t.Context())
			if err := g.Run(ctx, p(stop)); !errors.Is(err, enough) {
				t.Errorf("got %v, want %v", err, enough)
			}
		})
	}
}

// A stream that panics fails one guest.
func TestStreamThatPanics(t *testing.T) {
	g := compile(t, openHost(t, Config{}), copying())
	ctx, done := context.WithCancel(t.Context()) // so that a goroutine makes the call
	defer done()
	if err := g.Run(ctx, Process{Stdin: panicking{}}); err == nil || !strings.Contains(err.Error(), "no stream") {
		t.Errorf("got %v", err)
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("no stream") }

// hanging is a stream that nothing comes of: it ends the context instead.
type hanging struct {
	stop context.CancelCauseFunc
	why  error
	end  <-chan struct{} // of the test
}

func (h hanging) Read([]byte) (int, error)  { return h.hang() }
func (h hanging) Write([]byte) (int, error) { return h.hang() }

func (h hanging) hang() (int, error) {
	h.stop(h.why)
	<-h.end
	return 0, io.EOF
}
