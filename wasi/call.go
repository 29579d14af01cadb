package wasi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/manykv/manykv/kv"
)

// call is one call of a guest's. An instance makes one at a time, so each has one of
// these for all.
type call struct {
	in      *Instance
	ctx     context.Context
	adapter api.Module // that called
	args    []uint64   // as they came; dead once the result's number of blocks is written over them
	answer  answer
	keys    uint64 // of a listing
	phase   phase
}

// phase says where a call is.
type phase uint8

const (
	outside    phase = iota // no call
	inside                  // the host's function runs
	allocating              // the guest's cabi_realloc runs: it may call nothing
)

func (c *call) limits() kv.Limits { return c.in.guest.host.cfg.Limits }

// Trap is why a guest was ended: it broke the canonical ABI.
type Trap struct {
	Function string // that it called, as in wasi:keyvalue's WIT
	Reason   error
}

func (t *Trap) Error() string {
	return fmt.Sprintf("the guest broke the interface in %s: %v", t.Function, t.Reason)
}

func (t *Trap) Unwrap() error { return t.Reason }

type instanceKey struct{}

// instanceOf returns the instance whose call ctx is.
func instanceOf(ctx context.Context) *Instance {
	in, _ := ctx.Value(instanceKey{}).(*Instance)
	return in
}

var errReentered = errors.New("cabi_realloc called it")

// serve returns the host's side of functions[i]: it leaves the number of blocks as
// its result. A panic is how wazero wants a trap.
func (h *Host) serve(i int) api.GoModuleFunc {
	f := &functions[i]
	stats, params := h.cfg.Stats, len(f.params())
	return func(ctx context.Context, adapter api.Module, stack []uint64) {
		var began time.Time
		if stats != nil {
			began = time.Now()
		}
		c := &instanceOf(ctx).call
		if c.phase != outside {
			panic(&Trap{f.label(), errReentered})
		}
		c.ctx, c.adapter, c.args, c.keys, c.phase = ctx, adapter, stack[:params], 0, inside
		err := c.answer.begin(c, f.area)
		if err == nil {
			err = f.do(c)
		}
		if err == nil && f.area.size > 0 {
			err = c.request(&c.answer)
		}
		if err != nil {
			panic(&Trap{f.label(), err}) // the instance is not used any more
		}
		if stats != nil {
			stats.add(i, f.count(c), time.Since(began))
		}
		c.settle(f, stack)
	}
}

// settle leaves the number of blocks for the adapter. Without any, it will not call
// finish.
func (c *call) settle(f *function, stack []uint64) {
	c.phase = outside
	if f.area.size == 0 {
		return
	}
	if n := len(c.answer.blocks); n > 0 {
		stack[0], c.phase = uint64(n), allocating
		return
	}
	stack[0] = 0
	c.in.memory.Write(c.answer.ret, c.answer.image) // begin has checked it
}

// serveFinish fills the blocks that the guest has allocated.
func serveFinish(ctx context.Context, _ api.Module, _ []uint64) {
	c := &instanceOf(ctx).call
	if c.phase != allocating {
		panic(&Trap{finishName, errors.New("nothing is to be finished")})
	}
	if err := c.finish(&c.answer); err != nil {
		panic(&Trap{"cabi_realloc", err})
	}
	c.phase = outside
	c.answer.release()
}
