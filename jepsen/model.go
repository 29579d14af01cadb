package jepsen

import (
	"fmt"
	"hash/maphash"

	"github.com/anishathalye/porcupine"
)

// register is the state of one key. It is comparable: porcupine compares with
// ==.
type register struct {
	present bool
	value   string
}

// step says whether a register in this state can do an operation with the
// result that was seen, and what it is afterwards.
func (r register) step(op *Operation) (bool, register) {
	switch op.Kind {
	case Set:
		return true, register{true, op.Value}
	case Delete:
		return true, register{}
	case Exists:
		return op.Found == r.present, r
	default:
		return op.Found == r.present && op.Value == r.value, r
	}
}

func (r register) String() string {
	if !r.present {
		return "absent"
	}
	return r.value
}

// String describes an operation as a reader of a history wants it.
func (op *Operation) String() string {
	text := string(op.Kind)
	switch {
	case op.Kind == Set:
		text += " " + op.Value
	case op.Kind == Exists:
		text += fmt.Sprintf(" → %v", op.Found)
	case op.Kind == Get && op.Found:
		text += " → " + op.Value
	case op.Kind == Get:
		text += " → none"
	}
	if op.Return == Never {
		text += " (unknown)"
	}
	return text + " via " + op.Via
}

// registerModel is one key as porcupine wants it. An input is an *Operation
// with its result, so that there is no output.
func registerModel() porcupine.Model {
	seed := maphash.MakeSeed()
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) {
			ok, next := state.(register).step(input.(*Operation))
			return ok, next
		},
		Hash:              func(state any) uint64 { return maphash.Comparable(seed, state.(register)) },
		DescribeOperation: func(input, _ any) string { return input.(*Operation).String() },
		DescribeState:     func(state any) string { return state.(register).String() },
	}
}
