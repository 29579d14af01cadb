package cgi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
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
	t       *testing.T
	handler *Handler
	server  *httptest.Server
	client  *http.Client

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
	s.handler = h
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

// begin sends the first bytes of a request, whose body is to have 100, and leaves it so.
func (s *site) begin(body string) net.Conn {
	s.t.Helper()
	c, err := (&net.Dialer{}).DialContext(s.t.Context(), "tcp", s.server.Listener.Addr().String())
	must(s.t, err)
	s.t.Cleanup(func() { must(s.t, c.Close()) })
	_, err = fmt.Fprintf(c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n%s", body)
	must(s.t, err)
	deadline := time.Now().Add(10 * time.Second)
	for s.handler.bodies.Load() < int64(len(body)) {
		if time.Now().After(deadline) {
			s.t.Fatal("the body is not read")
		}
		runtime.Gosched()
	}
	return c
}

// A client that is slow with its body keeps no guest from running, only its bytes, and
// in the end is told so.
func TestSlowBodies(t *testing.T) {
	s := open(t, func(c *Config) {
		c.Concurrent, c.QueueWait, c.BodyBytes, c.AllBodyBytes = 1, time.Millisecond, 100, 100
		c.Timeout = time.Second
	})
	slow := s.begin(strings.Repeat("x", 60))
	if resp, _, err := s.ask("GET", "/echo", ""); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("beside a slow client: %+v, %v", resp, err)
	}
	if resp, _, err := s.ask("POST", "/echo", strings.Repeat("x", 50)); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("more bodies than there may be: %+v, %v", resp, err)
	}
	if resp, _, err := s.ask("POST", "/echo", strings.Repeat("x", 40)); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a body that fits beside it: %+v, %v", resp, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(slow), nil)
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("the slow client got %s", resp.Status)
	}
	if resp, _, err := s.ask("POST", "/echo", strings.Repeat("x", 100)); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %+v, %v; %d bytes are counted", resp, err, s.handler.bodies.Load())
	}
}

func TestHeadersAreBounded(t *testing.T) {
	s := open(t, nil)
	var headers []string
	for i := range maxHeaders {
		headers = append(headers, fmt.Sprintf("X-%d", i), "v")
	}
	if resp, _, err := s.ask("GET", "/echo", "", headers...); err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%+v, %v", resp, err)
	}
}

// After Close no guest runs.
func TestClose(t *testing.T) {
	s := open(t, func(c *Config) { c.QueueWait = time.Millisecond })
	for range 2 {
		must(t, s.handler.Close(t.Context()))
	}
	if resp, body, err := s.ask("GET", "/echo", ""); err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
		t.Errorf("%+v, %q, %v", resp, body, err)
	}
}

func TestLinesAreBounded(t *testing.T) {
	var got []string
	l := &lines{log: func(line string) { got = append(got, line) }}
	for range 3 * maxLines {
		_, err := l.Write([]byte("abc\n\n"))
		must(t, err)
	}
	_, err := l.Write([]byte("the rest"))
	must(t, err)
	l.end()
	if len(got) != maxLines || got[0] != "abc" || !strings.Contains(got[maxLines-1], "left out") {
		t.Errorf("%d lines, the last is %q; want %d", len(got), got[len(got)-1], maxLines)
	}
}

// The head of a response may come in any pieces.
func TestHeadInPieces(t *testing.T) {
	const text = "Status: 201 Created\r\nContent-Type: text/plain\n\r\nbody\n\n"
	for size := 1; size <= len(text); size++ {
		w := httptest.NewRecorder()
		o := &response{w: w}
		for piece := range slices.Chunk([]byte(text), size) {
			_, err := o.Write(piece)
			must(t, err)
		}
		must(t, o.end())
		if w.Code != http.StatusCreated || w.Body.String() != "body\n\n" {
			t.Errorf("in pieces of %d: %d, %q", size, w.Code, w.Body)
		}
		if _, err := o.Write([]byte("x")); !errors.Is(err, errEnded) {
			t.Errorf("after its end: %v", err)
		}
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
	if _, err := New(Config{Guest: new(wasi.Guest), BodyBytes: 2, AllBodyBytes: 1}); err == nil {
		t.Error("less for all bodies than for one was accepted")
	}
}
