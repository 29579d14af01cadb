//go:build crashpoints

package crash

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Enabled says whether this build can be made to die.
const Enabled = true

// variable arms one point: "name" or "name:n".
const variable = "MANYKV_CRASH"

var (
	armed, nth = parse(os.Getenv(variable))
	passed     atomic.Int64 // times the armed point was passed
)

func parse(value string) (name string, n int64) {
	name, count, found := strings.Cut(value, ":")
	if !found {
		return name, 1
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		panic(fmt.Sprintf("crash: %s=%q, want name or name:n with n of 1 or more", variable, value))
	}
	return name, n
}

// Point ends the process if it is the armed one and its turn has come.
func Point(name string) {
	if name != armed || passed.Add(1) != nth {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal is on its way
}
