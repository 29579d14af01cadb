package cgi

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/wasi"
)

// The example application, as its README has it served: built, signed and read.
func TestGuestbook(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("compiles a Go program: `make test-wasm` does")
	}
	out := filepath.Join(t.TempDir(), "guestbook.wasm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", out, "../../examples/guestbook")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	binary, err := os.ReadFile(out)
	must(t, err)
	host, err := wasi.Open(t.Context(), wasi.Config{MemoryBytes: 64 << 20})
	must(t, err)
	defer func() { must(t, host.Close(context.Background())) }()
	guest, err := host.Compile(t.Context(), binary)
	must(t, err)
	bucket := wasi.NewMemory(kv.Limits{}).Bucket("guestbook")
	s := open(t, func(c *Config) {
		c.Guest, c.Open = guest, wasi.Fixed(map[string]wasi.Grant{"": {Bucket: bucket}})
	})
	if resp, body, err := s.ask("GET", "/", ""); err != nil || resp.StatusCode != 200 || !strings.Contains(body, "Nobody has signed") {
		t.Fatalf("an empty book: %v, %+v\n%s", err, resp, body)
	}
	sign := func(name, text string) int {
		form := url.Values{"name": {name}, "text": {text}}.Encode()
		resp, _, err := s.ask("POST", "/", form, "Content-Type", "application/x-www-form-urlencoded")
		must(t, err)
		return resp.StatusCode
	}
	for i, name := range []string{"Ada", "<script>alert(1)</script>"} {
		if got := sign(name, "text "+name); got != 303 {
			t.Errorf("entry %d: status %d, want 303", i, got)
		}
	}
	if got := sign("", "text"); got != 400 {
		t.Errorf("without a name: status %d, want 400", got)
	}
	_, body, err := s.ask("GET", "/", "")
	if err != nil || strings.Contains(body, "<script>") || strings.Index(body, "Ada") < strings.Index(body, "&lt;script&gt;") {
		t.Errorf("the page: %v\n%s", err, body)
	}
	_, body, err = s.ask("GET", "/entries.json", "")
	must(t, err)
	var entries []struct{ Number int }
	if err := json.Unmarshal([]byte(body), &entries); err != nil || len(entries) != 2 || entries[0].Number != 2 || entries[1].Number != 1 {
		t.Errorf("%v, %s", err, body)
	}
	if resp, _, err := s.ask("DELETE", "/", ""); err != nil || resp.StatusCode != 404 {
		t.Errorf("DELETE: %+v, %v", resp, err)
	}
}
