package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// conformanceGuest is the file of a checked-in component.
func conformanceGuest(t *testing.T, name string) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", "examples", "conformance", name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Core modules in binary: too small for a compiler.
const (
	preamble = "\x00asm\x01\x00\x00\x00"
	// exits is a program that calls proc_exit(7).
	exits = preamble +
		"\x01\x08\x02\x60\x01\x7f\x00\x60\x00\x00" + // types: (i32) -> (), () -> ()
		"\x02\x24\x01\x16wasi_snapshot_preview1\x09proc_exit\x00\x00" +
		"\x03\x02\x01\x01" + "\x07\x0a\x01\x06_start\x00\x01" +
		"\x0a\x08\x01\x06\x00\x41\x07\x10\x00\x0b"
	// foreign imports "f" of "env".
	foreign = preamble + "\x01\x04\x01\x60\x00\x00" + "\x02\x09\x01\x03env\x01f\x00\x00"
	// loops never ends.
	loops = preamble + "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" + "\x07\x0a\x01\x06_start\x00\x00" +
		"\x0a\x09\x01\x07\x00\x03\x40\x0c\x00\x0b\x0b"
)

func guestFile(t *testing.T, binary string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "guest.wasm")
	if err := os.WriteFile(file, []byte(binary), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWasmRun(t *testing.T) {
	for _, name := range []string{"draft.wasm", "draft2.wasm"} {
		file := conformanceGuest(t, name)
		r := runHere(t, nil, "wasm", "run", file, "--memory", "--bucket-map", "=b", "--bucket-map", "readonly=b",
			"--read-only", "readonly", "--deny", "forbidden", "--invoke", "run", "--stats")
		if r.code != 0 || !regexp.MustCompile(`^\d+ checks passed\n$`).MatchString(r.stdout) {
			t.Errorf("%s: exit code %d, %q\n%s", name, r.code, r.stdout, r.stderr)
		}
		if !regexp.MustCompile(`batch\.get-many +\d+ +\d+`).MatchString(r.stderr) {
			t.Errorf("%s: the statistics lack get-many:\n%s", name, r.stderr)
		}
		r = runHere(t, nil, "wasm", "run", file, "--memory", "--bucket-map", "=b", "--invoke", "hello")
		if r.code != 0 || !strings.Contains(r.stdout, "three") || strings.HasSuffix(r.stdout, "\n\n") {
			t.Errorf("%s hello: exit code %d, %q\n%s", name, r.code, r.stdout, r.stderr)
		}
		runHere(t, nil, "wasm", "run", file, "--memory", "--bucket-map", "=b", "--invoke", "fail").mustFail(t, exitFailed, "as asked")
		// Nothing is mapped: the guest is told so, and tells.
		runHere(t, nil, "wasm", "run", file, "--memory", "--invoke", "run").mustFail(t, exitFailed, "no-such-store")
	}
}

func TestWasmRunOfPrograms(t *testing.T) {
	if r := runHere(t, nil, "wasm", "run", guestFile(t, exits), "--memory"); r.code != 7 || r.stderr != "" {
		t.Errorf("exit code %d and %q, want the guest's 7 and nothing", r.code, r.stderr)
	}
	runHere(t, nil, "wasm", "run", guestFile(t, loops), "--memory", "--run-timeout", "50ms").mustFail(t, exitFailed, "it took longer than 50ms")
	runHere(t, nil, "wasm", "run", guestFile(t, foreign), "--memory").mustFail(t, exitFailed, `"f" of "env"`)
	runHere(t, nil, "wasm", "run", guestFile(t, "(module)"), "--memory").mustFail(t, exitFailed, "text format")
	runHere(t, nil, "wasm", "run", guestFile(t, preamble+"\x01"), "--memory").mustFail(t, exitFailed, "not a valid module")
	runHere(t, nil, "wasm", "run", "nowhere.wasm", "--memory").mustFail(t, exitFailed, "no such file")
	runHere(t, nil, "wasm", "run", conformanceGuest(t, "draft2.wasm"), "--memory").mustFail(t, exitFailed, "--invoke")
}

func TestWasmInspect(t *testing.T) {
	r := runHere(t, nil, "wasm", "inspect", conformanceGuest(t, "draft2.wasm"))
	for _, want := range []string{"kind: component", "0.2.0-draft2", "get-many", "--invoke hello", "func(keys: u32, size: u32)", "can run"} {
		if r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("exit code %d; the report lacks %q:\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	r = runHere(t, nil, "wasm", "inspect", "--json", guestFile(t, foreign))
	var got guestJSON
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != exitFailed {
		t.Fatalf("exit code %d, %v: %s%s", r.code, err, r.stdout, r.stderr)
	}
	if got.Kind != "core module" || got.Runs || len(got.Imports) != 1 || got.Imports[0].Missing == "" || got.Problem == "" {
		t.Errorf("got %+v", got)
	}
}

// A server of the guest of package cgi's tests, from its start to SIGTERM.
func TestWasmServe(t *testing.T) {
	file, err := filepath.Abs(filepath.Join("..", "..", "wasi", "cgi", "testdata", "application.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t, t.TempDir()}
	p := s.background("wasm", "serve", file, "--memory", "--listen", "127.0.0.1:0")
	p.says("msg=serving")
	text, _ := p.out.read()
	m := regexp.MustCompile(`url=(http://\S+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("it does not say where it serves:\n%s", text)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m[1]+"echo?q=1", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "POST q=1") || !strings.HasSuffix(string(body), "hello") {
		t.Errorf("%d, %q, %v", resp.StatusCode, body, err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if code := p.ends(syscall.SIGTERM); code != 0 {
		text, _ := p.out.read()
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, text)
	}
}

// testWasm runs guests whose buckets are on the cluster.
func testWasm(t *testing.T, s *site) {
	draft, draft2 := conformanceGuest(t, "draft.wasm"), conformanceGuest(t, "draft2.wasm") // running changes the directory
	out := s.must("", "wasm", "run", draft, "--create", "--bucket-map", "=guest", "--bucket-map", "readonly=guest",
		"--read-only", "readonly", "--deny", "forbidden", "--invoke", "run", "--timeout", slowCall)
	if !strings.HasSuffix(out, " checks passed\n") {
		t.Errorf("%q", out)
	}
	s.must("", "wasm", "run", draft2, "--bucket-map", "=guest", "--invoke", "hello")
	s.expect(0, "two", "get", "guest", "conformance/hello/b")
	r := s.run("", "wasm", "run", draft2, "--bucket-map", "=nothing", "--invoke", "hello")
	r.mustFail(t, exitFailed, "--create makes it")
}
