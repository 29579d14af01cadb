package wasi

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
)

// A guest's standard streams end with its call, though what is behind them may know of
// no context: a terminal, a pipe that nobody reads. So a call of those is made by a
// goroutine, with bytes of its own, and left behind if the context ends first. A guest
// leaves at most one: it ends itself then.

// maxPiece bounds the bytes of one call.
const maxPiece = 64 << 10

type stdin struct {
	in *Instance
	r  io.Reader
}

func (s stdin) Read(p []byte) (int, error) {
	piece := make([]byte, min(len(p), maxPiece))
	n, err := s.in.await(func() (int, error) { return s.r.Read(piece) })
	copy(p, piece[:n])
	return n, err
}

type output struct {
	in *Instance
	w  io.Writer // nil: nowhere
}

func (s output) Write(p []byte) (written int, err error) {
	if err := context.Cause(s.in.running); err != nil {
		return 0, err
	}
	if s.w == nil {
		return len(p), nil
	}
	for err == nil && written < len(p) {
		piece := bytes.Clone(p[written:min(len(p), written+maxPiece)])
		var n int
		n, err = s.in.await(func() (int, error) { return s.w.Write(piece) })
		if written += n; n < len(piece) && err == nil {
			err = io.ErrShortWrite
		}
	}
	return written, err
}

// await calls do, and returns what it returns, or the call's context's error.
func (in *Instance) await(do func() (int, error)) (int, error) {
	ended := in.running.Done()
	if ended == nil {
		return do()
	}
	if err := context.Cause(in.running); err != nil {
		return 0, err
	}
	type result struct {
		n     int
		err   error
		panic any
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			r.panic = recover() // is the caller's: it fails one guest there
			done <- r
		}()
		r.n, r.err = do()
	}()
	select {
	case r := <-done:
		if r.panic != nil {
			panic(r.panic)
		}
		return r.n, r.err
	case <-ended:
		return 0, context.Cause(in.running)
	}
}

// random is where a guest's random numbers come from.
type random struct{ in *Instance }

func (r random) Read(p []byte) (int, error) {
	if err := context.Cause(r.in.running); err != nil {
		return 0, err
	}
	return rand.Read(p[:min(len(p), maxPiece)])
}
