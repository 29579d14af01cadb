//go:build linux

package disk

import (
	"errors"
	"io"
	"os"
	"sync"
)

// copyBuffer is how much is copied with one call: a word of blocks.
const copyBuffer = wordBlocks * blockSize

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copyRange copies the bytes from off up to end, as far as the source goes. It
// does not use copy_file_range(2), which on some file systems shares blocks and
// so moves the cost to the next write.
func copyRange(dst, src *os.File, off, end int64) (copied int64, err error) {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for off < end {
		n, err := src.ReadAt(buf[:min(end-off, copyBuffer)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return copied, err
		}
		if n == 0 {
			return copied, nil
		}
		if _, err := dst.WriteAt(buf[:n], off); err != nil {
			return copied, err
		}
		off, copied = off+int64(n), copied+int64(n)
	}
	return copied, nil
}
