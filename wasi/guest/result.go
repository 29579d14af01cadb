//go:build wasip1

package guest

import "unsafe"

// What an exported function has returned, until the next one does.
var (
	returned     [3]uint32
	returnedText string
)

// ReturnString makes what an exported function has to return for a string:
//
//	//go:wasmexport hello
//	func hello() uint32 { return guest.ReturnString("hello") }
//
// `manykv wasm run --invoke hello --returns string` prints it.
func ReturnString(s string) uint32 {
	returnedText = s
	returned = [3]uint32{address(unsafe.Pointer(unsafe.StringData(s))), uint32(len(s))}
	return address(unsafe.Pointer(&returned))
}

// ReturnResult makes what an exported function has to return for a result<string,
// string>, the err of which is the text of err. (--returns result)
func ReturnResult(s string, err error) uint32 {
	tag := uint32(0)
	if err != nil {
		tag, s = 1, err.Error()
	}
	returnedText = s
	returned = [3]uint32{tag, address(unsafe.Pointer(unsafe.StringData(s))), uint32(len(s))}
	return address(unsafe.Pointer(&returned))
}
