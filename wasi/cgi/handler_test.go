package cgi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/wasi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a server of the guest in testdata, which see.
type site struct {
	t      *testing.T
	server *httptest.Server
	client *http.Client

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

// Write is the log's.
func (s *site) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *site) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func open(t *testing.T, edit func(c *Config)) *site {
	t.Helper()
	host, err := wasi.Open(t.Context(), wasi.Config{})
	must(t, err)
	t.Cleanup(func() { must(t, host.Close(context.Background())) })
	binary, err := os.ReadFile("testdata/application.wasm")
	must(t, err)
	guest, err := host.Compile(t.Context(), binary)
	must(t, err)
	s := &site{t: t}
	cfg := Config{Guest: guest, Logger: slog.New(slog.NewTextHandler(s, nil))}
	if edit != nil {
		edit(&cfg)
	}
	h, err := New(cfg)
	must(t, err)
	s.server = httptest.NewServer(h)
	s.server.Config.ErrorLog = slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)
	s.client = s.server.Client()
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(s.server.Close)
	return s
}

// ask sends a request and returns the answer with its body.
func (s *site) ask(method, path, body string, header ...string) (*http.Response, string, error) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, strings.NewReader(body))
	must(s.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(resp.Body)
	must(s.t, resp.Body.Close())
	return resp, string(b), err
}

func TestRequestsAndResponses(t *testing.T) {
	s := open(t, nil)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // in the body
	}{
		{"GET", "/echo?a=1&b=2", "", 200, "GET a=1&b=2 hello 0 \n"},
		{"POST", "/echo", "the body", 200, "POST  hello 8 \nthe body"},
		{"HEAD", "/echo", "", 200, ""},
		{"GET", "/nowhere", "", 404, "no such page"},
		{"GET", "/moved", "", 302, ""},
		{"GET", "/hop", "", 200, "ok"},
		{"GET", "/wrong", "", 502, "Bad Gateway"},
		{"GET", "/silent", "", 502, "Bad Gateway"},
		{"GET", "/headless", "", 502, "Bad Gateway"},
		{"GET", "/endless", "", 502, "Bad Gateway"},
		{"GET", "/trap", "", 502, "Bad Gateway"},
		{"GET", "/exit", "", 502, "Bad Gateway"},
		{"GET", "/a%00b", "", 400, "NUL"},
	} {
		resp, body, err := s.ask(c.method, c.path, c.body, "X-Test", "hello", "X_Test", "evil", "Proxy", "http://evil.example")
		if err != nil || resp.StatusCode != c.status || !strings.Contains(body, c.want) || strings.Contains(body, "evil") {
			t.Errorf("%s %s: %v, %+v, %q; want %d and %q", c.method, c.path, err, resp, body, c.status, c.want)
		}
	}
	if resp, body, err := s.ask("GET", "/large", ""); err != nil || len(body) != 1<<20 || resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("/large: %d bytes, %v, %v", len(body), resp.Header, err)
	}
	if resp, _, _ := s.ask("GET", "/hop", ""); resp.Header.Get("X-Kept") != "yes" || resp.Header.Get("Connection") != "" {
		t.Errorf("/hop: %v", resp.Header)
	}
	if resp, _, _ := s.ask("GET", "/moved", ""); resp.Header.Get("Location") != "/elsewhere" {
		t.Errorf("/moved: %v", resp.Header)
	}
	for _, want := range []string{"no luck", "exited with code 3", "guest failed"} {
		if !strings.Contains(s.logged(), want) {
			t.Errorf("the log lacks %q:\n%s", want, s.logged())
		}
	}
}

// Half a body is never taken for a whole one.
func TestHalfAResponse(t *testing.T) {
	s := open(t, nil)
	if resp, body, err := s.ask("GET", "/half", ""); err == nil {
		t.Errorf("got %d and %q without an error", resp.StatusCode, body)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	s := open(t, func(c *Config) { c.BodyBytes, c.Timeout = 100, 300*time.Millisecond })
	if resp, _, err := s.ask("POST", "/echo", strings.Repeat("x", 101)); err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %+v, %v", resp, err)
	}
	if resp, _, err := s.ask("POST", "/echo", strings.Repeat("x", 100)); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a body that just fits: %+v, %v", resp, err)
	}
	if resp, _, err := s.ask("GET", "/loop", ""); err != nil || resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a guest that does not end: %+v, %v", resp, err)
	}
}

// More guests than may run wait for a moment, then are refused.
func TestBusy(t *testing.T) {
	s := open(t, func(c *Config) { c.Concurrent, c.QueueWait, c.Timeout = 1, 20*time.Millisecond, 20*time.Second })
	ctx, stop := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+"/loop", nil)
	must(t, err)
	ended := make(chan error, 1)
	go func() {
		resp, err := s.client.Do(req)
		if err == nil {
			err = errors.Join(errors.New("it was answered"), resp.Body.Close())
		}
		ended <- err
	}()
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, _, err := s.ask("GET", "/echo", "")
		must(t, err)
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a second guest ran for 10 s")
		}
	}
	stop() // the client goes, and the guest with it
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	for {
		if resp, _, err := s.ask("GET", "/echo", ""); err == nil && resp.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the place was not given back")
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no guest was accepted")
	}
	if _, err := New(Config{Guest: new(wasi.Guest), Timeout: -1}); err == nil {
		t.Error("a negative timeout was accepted")
	}
}
