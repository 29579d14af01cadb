package wasi

import "testing"

func TestWasmReader(t *testing.T) {
	u32 := func(r *wasmReader) any { return r.u32() }
	u64 := func(r *wasmReader) any { return r.leb(64) }
	index := func(r *wasmReader) any { return r.typeIndex() }
	name := func(r *wasmReader) any { return r.name() }
	count := func(r *wasmReader) any { return r.count() }
	for what, c := range map[string]struct {
		input string
		read  func(*wasmReader) any
		want  any // a value, or the text of an error
		fails bool
	}{
		"an integer":                 {"\xe5\x8e\x26", u32, uint32(624485), false},
		"an integer with zeros":      {"\x81\x80\x80\x80\x00", u32, uint32(1), false},
		"the last integer":           {"\xff\xff\xff\xff\x0f", u32, uint32(1<<32 - 1), false},
		"an integer of 33 bits":      {"\xff\xff\xff\xff\x1f", u32, "byte 5: an integer of more than 32 bits", true},
		"an integer of 6 bytes":      {"\x80\x80\x80\x80\x80\x00", u32, "byte 5: an integer of more than 32 bits", true},
		"an integer without an end":  {"\x80\x80", u32, "byte 2: needs 1 bytes, 0 are left", true},
		"the last of 64 bits":        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", u64, uint64(1<<64 - 1), false},
		"an integer of 65 bits":      {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03", u64, "byte 10: an integer of more than 64 bits", true},
		"an index":                   {"\x3f", index, uint32(63), false},
		"an index of two bytes":      {"\xc0\x00", index, uint32(64), false},
		"the last index":             {"\xff\xff\xff\xff\x0f", index, uint32(1<<32 - 1), false},
		"an opcode for an index":     {"\x40", index, "byte 1: no index of a type: opcode 0x40", true},
		"an index below 0":           {"\xff\xff\xff\xff\x1f", index, "byte 5: no index of a type: opcode 0x1f", true},
		"no index":                   {"", index, "byte 0: needs 1 bytes, 0 are left", true},
		"a name":                     {"\x02\xc3\xa9", name, "é", false},
		"a name beyond the end":      {"\x03ab", name, "byte 1: needs 3 bytes, 2 are left", true},
		"a name that is no UTF-8":    {"\x02\xc3\x28", name, `byte 3: a name that is no UTF-8: "\xc3("`, true},
		"a count":                    {"\x02ab", count, 2, false},
		"a count of more than bytes": {"\x03ab", count, "byte 1: 3 items, but 2 bytes are left", true},
	} {
		r := wasmReader{data: []byte(c.input)}
		got := c.read(&r)
		if c.fails {
			got = "no error"
			if r.err != nil {
				got = r.err.Error()
			}
			if r.left() != 0 || r.byte() != 0 || len(r.bytes()) != 0 {
				t.Errorf("%s: goes on after an error", what)
			}
		} else if r.err != nil {
			t.Errorf("%s: %v", what, r.err)
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}
