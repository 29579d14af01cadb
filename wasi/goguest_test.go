package wasi

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/manykv/manykv/kv"
)

// buildGo compiles a Go program of this module for WebAssembly.
func buildGo(t *testing.T, folder string, flags ...string) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles a Go program")
	}
	out := filepath.Join(t.TempDir(), "guest.wasm")
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, folder)...)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", folder, err, text)
	}
	binary, err := os.ReadFile(out)
	must(t, err)
	return binary
}

// A program in Go, with package guest, finds the host to be what the interface says,
// on both backends.
func TestGoGuest(t *testing.T) {
	binary := buildGo(t, "./testdata/goguest")
	g := compile(t, openHost(t, Config{}), binary)
	for backend, bucket := range backends(t) {
		t.Run(backend, func(t *testing.T) {
			b := bucket("go")
			must(t, b.SetMany(t.Context(), []kv.Pair{{Key: "someone else's", Value: []byte("v")}, {Key: "conformance-go/left", Value: nil}}))
			var stdout, stderr bytes.Buffer
			err := g.Run(t.Context(), Process{Open: granted(b), Args: []string{"goguest"}, Stdout: &stdout, Stderr: &stderr})
			if err != nil || !strings.HasSuffix(stdout.String(), " checks passed\n") || stderr.Len() > 0 {
				t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
			}
			t.Log(strings.TrimSpace(stdout.String()))
			if keys, _, err := b.ListKeys(t.Context(), 0); err != nil || !slices.Equal(keys, []string{"someone else's"}) {
				t.Errorf("the guest left %q, %v; want what is not its own", keys, err)
			}
		})
	}
	t.Run("it says what is wrong", func(t *testing.T) {
		var stderr bytes.Buffer
		err := g.Run(t.Context(), Process{Open: granted(dropping{NewMemory(kv.Limits{}).Bucket("go")}), Stderr: &stderr})
		exit, ok := errors.AsType[*ExitError](err)
		if !ok || exit.Code != 1 || !strings.Contains(stderr.String(), "get-many: place 1 is") {
			t.Errorf("%v\n%s", err, &stderr)
		}
	})
}

// The functions of a module that is no program are invoked after its initialisation.
func TestGoFunctions(t *testing.T) {
	binary := buildGo(t, "./testdata/goguest", "-buildmode=c-shared")
	g := compile(t, openHost(t, Config{}), binary)
	in, err := g.Instantiate(t.Context(), Process{Open: granted(NewMemory(kv.Limits{}).Bucket("go"))})
	must(t, err)
	defer func() { must(t, in.Close(t.Context())) }()
	for _, want := range []string{"hello 1, <nil>", "hello 2, <nil>"} {
		if text, err := in.Invoke(t.Context(), "hello", ReturnsString); err != nil || text != want {
			t.Errorf("%q, %v; want %q", text, err, want)
		}
	}
	if text, err := in.Invoke(t.Context(), "succeed", ReturnsResult); err != nil || text != "fine" {
		t.Errorf("succeed: %q, %v", text, err)
	}
	var failed *Failed
	if _, err := in.Invoke(t.Context(), "fail", ReturnsResult); !errors.As(err, &failed) || failed.Text != "as asked" {
		t.Errorf("fail: %v", err)
	}
	if _, err := in.Invoke(t.Context(), "hello", ReturnsKnown); !errors.Is(err, kv.ErrInvalid) {
		t.Errorf("a core module does not say what hello returns: %v", err)
	}
}
