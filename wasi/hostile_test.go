package wasi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/manykv/manykv/kv"
)

// A hostile guest is one that calls any function with any arguments over any memory,
// and whose cabi_realloc returns any addresses. It is a module written here: an
// exported function "f<i>" passes its arguments on to functions[i], and cabi_realloc
// returns one word after the other of the memory from reallocs on.
const (
	reallocs     = 0x8000 // the next address to return is at the address that stands here
	hostileBytes = 1 << 16
)

// hostile writes the module.
func hostile() []byte {
	var m moduleWriter
	var calls []uint32
	for i := range functions {
		f := &functions[i]
		d := draft2
		if f.only != nil {
			d = f.only[0]
		}
		calls = append(calls, m.imported)
		m.importFunc(d.module(f.iface), f.name, m.typeOf(f.params(), nil))
	}
	for i := range functions {
		var code []byte
		for p := range functions[i].params() {
			code = appendU32(append(code, opLocalGet), uint32(p))
		}
		code = appendU32(append(code, opCall), calls[i])
		m.export(exported(i), coreFunc, m.define(m.typeOf(functions[i].params(), nil), body(code)))
	}
	at := []byte{opI32Const, 0x80, 0x80, 0x02} // reallocs
	code := slices.Concat([]byte{1, 1, i32},
		at, []byte{0x28, 2, 0, opLocalSet, 4}, // p = mem[reallocs]
		at, []byte{opLocalGet, 4, opI32Const, 4, 0x6a, 0x36, 2, 0}, // mem[reallocs] = p + 4
		[]byte{opLocalGet, 4, opI32Const, 0xfc, 0xff, 0x03, 0x71, 0x28, 2, 0, opEnd}) // return mem[p & 0xfffc]
	m.export(reallocName, coreFunc, m.define(m.typeOf(reallocParams, oneWord), code))
	m.memory = true
	m.export(memoryName, coreMemory, 0)
	return m.bytes()
}

func exported(i int) string { return "f" + string(rune('a'+i)) }

// scripted reads numbers from a fuzzer's bytes; 0 at their end.
type scripted []byte

func (s *scripted) word() uint32 {
	var b [4]byte
	n := copy(b[:], *s)
	*s = (*s)[n:]
	return binary.LittleEndian.Uint32(b[:])
}

func (s *scripted) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// FuzzHostileGuest wants every call to end in an answer or in a trap. The script is
// calls, a byte for the function and four for each argument, then the memory.
func FuzzHostileGuest(f *testing.F) {
	ctx := context.Background()
	h, err := Open(ctx, Config{MemoryBytes: 4 << 20, Limits: kv.Limits{BatchKeys: 1000, BatchBytes: 1 << 20, ValueBytes: 1 << 20}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = h.Close(ctx) })
	g, err := h.Compile(ctx, hostile())
	if err != nil {
		f.Fatal(err)
	}
	for i := range functions {
		f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, byte(i), 1, 0, 0, 0, 0, 2, 0, 0, 3, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0}, []byte("key and value"))
		f.Add([]byte{byte(i), 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}, []byte{0x80})
	}
	f.Fuzz(func(t *testing.T, script, memory []byte) {
		ctx, done := context.WithTimeout(ctx, 10*time.Second)
		defer done()
		store := NewMemory(h.cfg.Limits)
		in, err := g.Instantiate(ctx, Process{Open: store.Open})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(ctx) }()
		in.memory.Write(0, memory[:min(len(memory), hostileBytes)])
		s := scripted(script)
		for range 20 {
			if len(s) == 0 {
				return
			}
			i := int(s.byte()) % len(functions)
			var args []uint64
			for range functions[i].params() {
				args = append(args, uint64(s.word()))
			}
			if _, err := in.run(ctx, in.module.ExportedFunction(exported(i)), args...); err != nil {
				expectTrap(t, err)
				return
			}
			if in.call.phase != outside || len(in.handles.all) > maxHandles+1 {
				t.Fatalf("after %s: phase %d, %d handles", functions[i].label(), in.call.phase, len(in.handles.all))
			}
		}
	})
}

// expectTrap wants an error to be the guest's, not ours.
func expectTrap(t *testing.T, err error) {
	t.Helper()
	var ours runtime.Error
	if errors.As(err, &ours) {
		t.Fatalf("the host panicked: %v", err)
	}
	var trap *Trap
	if !errors.As(err, &trap) {
		t.Fatalf("got %v, want a trap", err)
	}
}

// instance makes an instance of the hostile guest, with a bucket open as handle 1.
func hostileInstance(t *testing.T) *Instance {
	t.Helper()
	ctx := t.Context()
	h, err := Open(ctx, Config{MemoryBytes: 4 << 20})
	must(t, err)
	t.Cleanup(func() { must(t, h.Close(context.WithoutCancel(ctx))) })
	g, err := h.Compile(ctx, hostile())
	must(t, err)
	in, err := g.Instantiate(ctx, Process{Open: NewMemory(kv.Limits{}).Open})
	must(t, err)
	must(t, callHostile(t, in, "open", draft2, 0, 0, 0x100))
	if got := readWord(in, 0x104); got != 1 {
		t.Fatalf("the first handle is %d, want 1", got)
	}
	return in
}

func readWord(in *Instance, at uint32) uint32 {
	n, _ := in.memory.ReadUint32Le(at)
	return n
}

// callHostile calls a function by its name.
func callHostile(t *testing.T, in *Instance, name string, d dialect, args ...uint64) error {
	t.Helper()
	for i := range functions {
		if f := &functions[i]; f.name == name && f.of(d) {
			_, err := in.run(t.Context(), in.module.ExportedFunction(exported(i)), args...)
			return err
		}
	}
	t.Fatalf("no function %s", name)
	return nil
}

// What breaks the canonical ABI is a trap, and has no effect.
func TestTraps(t *testing.T) {
	const end = hostileBytes
	for _, c := range []struct {
		what, name string
		d          dialect
		args       []uint64
	}{
		{"handle 0", "[method]bucket.get", draft2, []uint64{0, 0, 0, 0x100}},
		{"a handle never given", "get-many", draft2, []uint64{7, 0, 0, 0x100}},
		{"a huge handle", "get-many", draft2, []uint64{1 << 31, 0, 0, 0x100}},
		{"a bucket for a cas", "[method]cas.current", draft2, []uint64{1, 0x100}},
		{"dropping what is not there", "[resource-drop]bucket", draft2, []uint64{2}},
		{"a key outside the memory", "[method]bucket.get", draft2, []uint64{1, end - 1, 2, 0x100}},
		{"a key whose end overflows", "[method]bucket.get", draft2, []uint64{1, 0xffffffff, 0xffffffff, 0x100}},
		{"a key that is no UTF-8", "[method]bucket.get", draft2, []uint64{1, 0x200, 1, 0x100}},
		{"an identifier that is no UTF-8", "open", draft2, []uint64{0x200, 1, 0x100}},
		{"a value outside the memory", "[method]bucket.set", draft2, []uint64{1, 0, 0, end, 1, 0x100}},
		{"a result that is not aligned", "[method]bucket.set", draft2, []uint64{1, 0, 0, 0, 0, 0x102}},
		{"a result of 64 bits that is not aligned", "increment", draft2, []uint64{1, 0, 0, 1, 0x104}},
		{"a result outside the memory", "[method]bucket.set", draft2, []uint64{1, 0, 0, 0, 0, end - 12}},
		{"a list that is not aligned", "get-many", draft2, []uint64{1, 2, 1, 0x100}},
		{"a list outside the memory", "get-many", draft2, []uint64{1, end - 4, 1, 0x100}},
		{"a list whose size overflows", "set-many", draft2, []uint64{1, 0, 1 << 28, 0x100}},
		{"a list's key outside the memory", "delete-many", draft2, []uint64{1, 0x300, 1, 0x100}},
		{"a list's key that is no UTF-8", "get-many", draft2, []uint64{1, 0x308, 1, 0x100}},
		{"an option of case 2", "[method]bucket.list-keys", draft2, []uint64{1, 2, 0, 0, 0x100}},
		{"draft's option of case 2", "[method]bucket.list-keys", draft, []uint64{1, 2, 0, 0x100}},
		{"a cursor that is no UTF-8", "[method]bucket.list-keys", draft2, []uint64{1, 1, 0x200, 1, 0x100}},
		{"memory for the answer that is outside", "[method]bucket.get", draft2, []uint64{1, 0x400, 1, 0x100}},
	} {
		t.Run(c.what, func(t *testing.T) {
			in := hostileInstance(t)
			in.memory.WriteByte(0x200, 0x80)
			for at, n := range map[uint32]uint32{0x300: end, 0x304: 1, 0x308: 0x200, 0x30c: 1, reallocs: 0x500, 0x500: end} {
				in.memory.WriteUint32Le(at, n)
			}
			in.memory.WriteByte(0x400, 'k')
			must(t, in.handles.all[1].grant.Bucket.Set(t.Context(), "k", []byte("value")))
			err := callHostile(t, in, c.name, c.d, c.args...)
			if err == nil {
				t.Fatal("it was answered")
			}
			expectTrap(t, err)
			if err := callHostile(t, in, "open", draft2, 0, 0, 0x100); !errors.Is(err, errBroken) {
				t.Errorf("after the trap: %v, want %v", err, errBroken)
			}
		})
	}
}

// What is over a limit is answered, before anything is allocated for it.
func TestLimitsAreAnswered(t *testing.T) {
	in := hostileInstance(t)
	in.memory.WriteUint32Le(reallocs, 0x600)
	for at := uint32(0x600); at < 0x700; at += 4 {
		in.memory.WriteUint32Le(at, 0x1000) // the error's text
	}
	// One value of 48 KiB, 700 times: a list of 11 KiB that means 33 MiB.
	const element, many = 0x2000, 700
	for i := uint32(0); i < many; i++ {
		in.memory.WriteUint32Le(element+i*pairBytes+12, 48<<10)
	}
	for _, c := range []struct {
		name string
		args []uint64
	}{
		{"set-many", []uint64{1, element, many, 0x100}},
		{"[method]bucket.get", []uint64{1, 0, 5000, 0x100}},
		{"open", []uint64{0, 5000, 0x100}},
	} {
		before := allocated()
		must(t, callHostile(t, in, c.name, draft2, c.args...))
		if tag, kind := in.bytes(0x100), in.bytes(0x104); tag != 1 || kind != caseOther {
			t.Errorf("%s: result %d of case %d, want an error of case other", c.name, tag, kind)
		}
		if grew := allocated() - before; grew > 1<<20 {
			t.Errorf("%s allocated %d bytes for a call that it refuses", c.name, grew)
		}
	}
}

func (in *Instance) bytes(at uint32) byte {
	b, _ := in.memory.ReadByte(at)
	return b
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A guest that opens without dropping is told so, and goes on.
func TestHandlesAreBounded(t *testing.T) {
	in := hostileInstance(t)
	in.memory.WriteUint32Le(reallocs, 0x600)
	in.memory.WriteUint32Le(0x600, 0x1000)
	for i := 2; i <= maxHandles; i++ {
		must(t, callHostile(t, in, "open", draft2, 0, 0, 0x100))
	}
	if in.bytes(0x100) != 0 {
		t.Fatal("a handle was refused too early")
	}
	must(t, callHostile(t, in, "open", draft2, 0, 0, 0x100))
	if in.bytes(0x100) != 1 || in.bytes(0x104) != caseOther {
		t.Error("more handles than there may be")
	}
	must(t, callHostile(t, in, "[resource-drop]bucket", draft2, 17))
	must(t, callHostile(t, in, "open", draft2, 0, 0, 0x100))
	if in.bytes(0x100) != 0 || readWord(in, 0x104) != 17 {
		t.Errorf("after a drop: result %d, handle %d, want 0 and 17", in.bytes(0x100), readWord(in, 0x104))
	}
}

// What all values that are kept for `current` may take is bounded, and a value that is
// not kept is read again.
func TestHeldValuesAreBounded(t *testing.T) {
	var h handles
	value := make([]byte, maxHeld)
	var indices []uint32
	for h.room(value) {
		indices = append(indices, h.put(handle{kind: handleCas, swap: swap{known: true, value: value}}))
	}
	if h.held != maxHeldAll || len(indices) != maxHeldAll/maxHeld || h.room([]byte{0}) || !h.room(nil) {
		t.Errorf("%d handles hold %d bytes, want %d", len(indices), h.held, maxHeldAll)
	}
	for _, index := range indices {
		if _, err := h.take(index, handleCas); err != nil {
			t.Fatal(err)
		}
	}
	if h.held != 0 || !h.room(value) || h.room(make([]byte, maxHeld+1)) {
		t.Errorf("%d bytes are held by nothing", h.held)
	}
}

// looping is a guest that keeps itself busy: "loop", "fill" and "divide" never return, "recurse"
// takes 2^60 calls, "knock" calls the host a hundred times in a straight line, and its
// cabi_realloc calls the host.
func looping() []byte {
	var m moduleWriter
	m.importFunc(draft2.module("store"), "[method]bucket.get", m.typeOf([]api.ValueType{i32, i32, i32, i32}, nil))
	m.importFunc(draft2.module("store"), "open", m.typeOf([]api.ValueType{i32, i32, i32}, nil))
	m.export("loop", coreFunc, m.define(m.typeOf(nil, nil), body([]byte{opLoop, formEmpty, 0x0c, 0, opEnd})))
	const half = 3                                // the index of the next function
	m.define(m.typeOf(oneWord, nil), body([]byte{ // if n != 0 { half(n-1); half(n-1) }
		opLocalGet, 0, opIf, formEmpty,
		opLocalGet, 0, opI32Const, 1, opI32Sub, opCall, half,
		opLocalGet, 0, opI32Const, 1, opI32Sub, opCall, half,
		opEnd}))
	m.export("recurse", coreFunc, m.define(m.typeOf(nil, nil), body([]byte{opI32Const, 60, opCall, half})))
	reentrant := []byte{opI32Const, 0, opI32Const, 0, opI32Const, 16, opCall, 1, opI32Const, 32}
	m.export(reallocName, coreFunc, m.define(m.typeOf(reallocParams, oneWord), body(reentrant)))
	m.export("reenter", coreFunc, m.define(m.typeOf(nil, nil), body([]byte{
		opI32Const, 0, opI32Const, 0, opI32Const, 16, opCall, 1,
		opI32Const, 1, opI32Const, 0, opI32Const, 0, opI32Const, 0, opCall, 0})))
	m.export("fill", coreFunc, m.define(m.typeOf(nil, nil), body([]byte{
		opLoop, formEmpty, opI32Const, 0, opI32Const, 1, opI32Const, 0x80, 0x80, 0x04, opBulk, 11, 0, 0x0c, 0, opEnd})))
	// Twenty thousand divisions a turn: a check must weigh them.
	m.export("divide", coreFunc, m.define(m.typeOf(nil, nil), body(slices.Concat([]byte{opLoop, formEmpty, 0x42, 1},
		bytes.Repeat([]byte{0x42, 3, 0x80}, 20_000), []byte{opDrop, 0x0c, 0, opEnd}))))
	m.export("knock", coreFunc, m.define(m.typeOf(nil, nil), body(bytes.Repeat([]byte{
		opI32Const, 0, opI32Const, 0, opI32Const, 16, opCall, 1}, 100))))
	m.memory = true
	m.export(memoryName, coreMemory, 0)
	return m.bytes()
}

// A guest that never ends by itself ends with its context, and does not keep the
// process from collecting its garbage meanwhile: that needs all goroutines for a
// moment.
func TestRunawayGuest(t *testing.T) {
	h := openHost(t, Config{})
	g := compile(t, h, looping())
	for _, name := range []string{"loop", "fill", "divide", "recurse"} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := g.Invoke(ctx, Process{}, name, ReturnsKnown)
				ended <- err
			}()
			for range 3 {
				runtime.GC()
			}
			select {
			case err := <-ended:
				t.Fatalf("it ended by itself: %v", err)
			default:
			}
			enough := errors.New("enough")
			stop(enough)
			if err := <-ended; !errors.Is(err, enough) {
				t.Errorf("got %v, want %v", err, enough)
			}
		})
	}
}

// A guest's next call is not made after its context has ended, and a call of the
// embedder's fails then, whatever the guest did.
func TestContextEndsDuringACall(t *testing.T) {
	g := compile(t, openHost(t, Config{}), looping())
	ctx, stop := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	var in *Instance
	calls := 0
	in, err := g.Instantiate(ctx, Process{Open: func(context.Context, string) (Grant, error) {
		if calls++; calls == 3 {
			in.interrupt.Set(interrupted) // as the context's end does, a moment later
			stop(enough)
		}
		return Grant{}, kv.ErrAccessDenied
	}})
	must(t, err)
	defer func() { must(t, in.Close(context.Background())) }()
	if _, err := in.Invoke(ctx, "knock", ReturnsKnown); !errors.Is(err, enough) {
		t.Errorf("got %v, want %v", err, enough)
	}
	if calls != 3 {
		t.Errorf("%d calls were made, want 3", calls)
	}
	if _, err := in.Invoke(t.Context(), "knock", ReturnsKnown); !errors.Is(err, errBroken) {
		t.Errorf("afterwards: %v, want %v", err, errBroken)
	}
}

// beginning is a module with a start function of that code, with `open` as function 0.
func beginning(code []byte) []byte {
	var m moduleWriter
	m.importFunc(draft2.module("store"), "open", m.typeOf([]api.ValueType{i32, i32, i32}, nil))
	start := m.define(m.typeOf(nil, nil), body(code))
	m.export(reallocName, coreFunc, m.define(m.typeOf(reallocParams, oneWord), body([]byte{opI32Const, 32})))
	m.memory = true
	m.export(memoryName, coreMemory, 0)
	binary := m.bytes()
	codes := bytes.LastIndex(binary, section(coreCodeSection, appendU32(nil, uint32(len(m.codes))), bytes.Join(m.codes, nil)))
	return slices.Concat(binary[:codes], section(coreStartSection, appendU32(nil, start)), binary[codes:])
}

// A module's start function runs when the instance is whole, and can be ended.
func TestStartFunction(t *testing.T) {
	h := openHost(t, Config{})
	opens := compile(t, h, beginning([]byte{opI32Const, 0, opI32Const, 0, opI32Const, 16, opCall, 0}))
	in, err := opens.Instantiate(t.Context(), Process{Open: NewMemory(kv.Limits{}).Open})
	must(t, err)
	if len(in.handles.all) != 2 {
		t.Errorf("%d handles, want the start function's one", len(in.handles.all)-1)
	}
	must(t, in.Close(t.Context()))
	for _, e := range opens.exports() {
		if e.Name == beginName {
			t.Errorf("%s is shown", beginName)
		}
	}
	loops := compile(t, h, beginning([]byte{opLoop, formEmpty, 0x0c, 0, opEnd}))
	ctx, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	if _, err := loops.Instantiate(ctx, Process{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start function that never ends: %v", err)
	}
}

// While the guest allocates for the host it may not call the host.
func TestReentry(t *testing.T) {
	g := compile(t, openHost(t, Config{}), looping())
	store := NewMemory(kv.Limits{})
	must(t, store.Bucket("").Set(t.Context(), "", []byte("value")))
	_, err := g.Invoke(t.Context(), Process{Open: store.Open}, "reenter", ReturnsKnown)
	if !errors.Is(err, errReentered) {
		t.Errorf("got %v, want %v", err, errReentered)
	}
}
