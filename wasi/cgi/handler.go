package cgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manykv/manykv/wasi"
)

// Config says how requests are served. The zero value of a field is its default;
// Guest is required.
type Config struct {
	// Guest is a program (it has a _start).
	Guest *wasi.Guest
	// Open decides what its identifiers open; default wasi.Nothing.
	Open wasi.Policy
	// Env is what each instance's environment has besides the request's variables.
	Env []string
	// Timeout bounds a request; default 30 s.
	Timeout time.Duration
	// BodyBytes bounds a request's body, which is read before the guest runs; default
	// 4 MiB. AllBodyBytes bounds the bodies of all requests together; default 64 MiB,
	// or BodyBytes if that is more.
	BodyBytes, AllBodyBytes int64
	// Concurrent bounds how many guests run at once; default 16. A request beyond them
	// waits until its Timeout, but for no longer than QueueWait, default 1 s.
	Concurrent int
	QueueWait  time.Duration
	// Logger hears of failed guests, and what guests write on standard error; default:
	// nothing is logged.
	Logger *slog.Logger
}

const (
	// maxHeaderBytes bounds the head of a response.
	maxHeaderBytes = 64 << 10
	// maxHeaders bounds the headers of a request, each of which is a variable.
	maxHeaders = 100
	// refusalTime is how long a client has for an answer without a guest.
	refusalTime = 5 * time.Second
)

func (c Config) withDefaults() (Config, error) {
	if c.Guest == nil {
		return c, errors.New("cgi: got no Guest, want one")
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.QueueWait == 0 {
		c.QueueWait = time.Second
	}
	if c.BodyBytes == 0 {
		c.BodyBytes = 4 << 20
	}
	if c.AllBodyBytes == 0 {
		c.AllBodyBytes = max(64<<20, c.BodyBytes)
	}
	if c.Concurrent == 0 {
		c.Concurrent = 16
	}
	if c.Timeout < 0 || c.QueueWait < 0 || c.BodyBytes < 0 || c.Concurrent < 0 {
		return c, fmt.Errorf("cgi: Timeout %v, QueueWait %v, BodyBytes %d, Concurrent %d: want none below 0", c.Timeout, c.QueueWait, c.BodyBytes, c.Concurrent)
	}
	if c.AllBodyBytes < c.BodyBytes {
		return c, fmt.Errorf("cgi: AllBodyBytes %d: want at least BodyBytes, which is %d", c.AllBodyBytes, c.BodyBytes)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Handler is a http.Handler. It is safe for concurrent use.
type Handler struct {
	cfg    Config
	slots  chan struct{} // a place for each guest that may run
	bodies atomic.Int64  // bytes of those that are held

	closing sync.Once
	closed  chan struct{}
	ended   error // of Close
}

// New makes a handler.
func New(cfg Config) (*Handler, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Handler{cfg: cfg, slots: make(chan struct{}, cfg.Concurrent), closed: make(chan struct{})}, nil
}

// Close lets no guest begin any more, and waits until none runs, or ctx ends.
func (h *Handler) Close(ctx context.Context) error {
	h.closing.Do(func() {
		close(h.closed)
		for n := range cap(h.slots) {
			select {
			case h.slots <- struct{}{}: // for good
			case <-ctx.Done():
				h.ended = fmt.Errorf("cgi: %d guests still run: %w", cap(h.slots)-n, context.Cause(ctx))
				return
			}
		}
	})
	return h.ended
}

// isClosed says whether Close was called.
func (h *Handler) isClosed() bool {
	select {
	case <-h.closed:
		return true
	default:
		return false
	}
}

// ServeHTTP runs a guest for a request. A client that is slow keeps no guest from
// running: it has Config.Timeout for the body, before a place is taken for the guest,
// and the same for taking the response.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.ContainsRune(r.URL.Path, 0) { // a variable of the environment cannot hold it
		http.Error(w, "a NUL in the path", http.StatusBadRequest)
		return
	}
	if len(r.Header) > maxHeaders {
		http.Error(w, fmt.Sprintf("%d headers, at most %d are allowed", len(r.Header), maxHeaders), http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	if h.isClosed() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	counted := &countedReader{r: http.MaxBytesReader(w, r.Body, h.cfg.BodyBytes), all: &h.bodies, most: h.cfg.AllBodyBytes}
	defer counted.giveBack()
	body, ok := h.body(w, counted)
	if !ok {
		return
	}
	ctx, done := context.WithTimeout(r.Context(), h.cfg.Timeout)
	defer done()
	if !h.enter(ctx) {
		w.Header().Set("Retry-After", "1")
		if h.isClosed() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		http.Error(w, fmt.Sprintf("busy: %d requests are being served, which is the most", h.cfg.Concurrent), http.StatusServiceUnavailable)
		return
	}
	defer func() { <-h.slots }()
	h.run(ctx, w, r, body)
}

// run runs a guest that has its place.
func (h *Handler) run(ctx context.Context, w http.ResponseWriter, r *http.Request, body []byte) {
	// The guest is ended before that, and then there is time to say so. A ResponseWriter
	// without deadlines is the embedder's.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.cfg.Timeout + refusalTime))
	out := &response{w: w}
	stderr := &lines{log: func(line string) { h.cfg.Logger.Info("guest", "path", r.URL.Path, "stderr", line) }}
	err := h.cfg.Guest.Run(ctx, wasi.Process{
		Open: h.cfg.Open, Args: []string{"guest"}, Env: append(environment(r, len(body)), h.cfg.Env...),
		Stdin: bytes.NewReader(body), Stdout: out, Stderr: stderr,
	})
	err = errors.Join(err, out.end())
	stderr.end()
	h.finish(out, r, err)
}

// body reads a request's body. If it answers the request itself, ok is false.
func (h *Handler) body(w http.ResponseWriter, counted *countedReader) (body []byte, ok bool) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(h.cfg.Timeout))
	body, err := io.ReadAll(counted)
	if err == nil {
		_ = control.SetReadDeadline(time.Time{}) // net/http looks for the client's end from now on
		return body, true
	}
	status := http.StatusBadRequest
	switch _, tooLarge := errors.AsType[*http.MaxBytesError](err); {
	case tooLarge:
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		status = http.StatusRequestTimeout
	case errors.Is(err, errFull):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, err.Error(), status)
	return nil, false
}

var errFull = errors.New("busy: the bodies of requests fill the memory that there is for them")

// countedReader adds what it reads to all, up to a limit.
type countedReader struct {
	r    io.Reader
	all  *atomic.Int64
	most int64
	own  int64 // of all
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n == 0 {
		return n, err
	}
	if c.all.Add(int64(n)) > c.most { // those that fit in shall not fail for one that does not
		c.all.Add(-int64(n))
		return 0, errFull
	}
	c.own += int64(n)
	return n, err
}

func (c *countedReader) giveBack() { c.all.Add(-c.own) }

// enter takes a place.
func (h *Handler) enter(ctx context.Context) bool {
	wait := time.NewTimer(h.cfg.QueueWait)
	defer wait.Stop()
	select {
	case h.slots <- struct{}{}:
		return true
	case <-wait.C:
	case <-ctx.Done():
	}
	return false
}

// finish ends a response.
func (h *Handler) finish(out *response, r *http.Request, err error) {
	if err == nil && !out.begun {
		err = fmt.Errorf("the guest ended after %d bytes, before the empty line that ends a response's head", out.head.Len())
	}
	if err == nil {
		return
	}
	h.cfg.Logger.Warn("guest failed", "method", r.Method, "path", r.URL.Path, "error", err)
	if out.begun {
		panic(http.ErrAbortHandler) // how net/http is told to cut the connection
	}
	status := http.StatusBadGateway
	if errors.Is(err, context.DeadlineExceeded) {
		status = http.StatusGatewayTimeout
	}
	http.Error(out.w, http.StatusText(status), status)
}

// environment is the request as RFC 3875 has it.
func environment(r *http.Request, body int) []string {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = r.Host, "80"
	}
	remote, remotePort, _ := net.SplitHostPort(r.RemoteAddr) // net/http made it
	env := []string{
		"GATEWAY_INTERFACE=CGI/1.1",
		"SERVER_SOFTWARE=manykv",
		"SERVER_PROTOCOL=" + r.Proto,
		"SERVER_NAME=" + host,
		"SERVER_PORT=" + port,
		"REQUEST_METHOD=" + r.Method,
		"REQUEST_URI=" + r.URL.RequestURI(),
		"SCRIPT_NAME=",
		"PATH_INFO=" + r.URL.Path,
		"QUERY_STRING=" + r.URL.RawQuery,
		"REMOTE_ADDR=" + remote,
		"REMOTE_HOST=" + remote,
		"REMOTE_PORT=" + remotePort,
		"HTTP_HOST=" + r.Host,
		"CONTENT_LENGTH=" + strconv.Itoa(body),
	}
	if t := r.Header.Get("Content-Type"); t != "" {
		env = append(env, "CONTENT_TYPE="+t)
	}
	for name, values := range r.Header {
		if strings.Contains(name, "_") {
			continue // X_User would be the same variable as X-User, which a proxy may vouch for
		}
		variable, separator := strings.ToUpper(strings.ReplaceAll(name, "-", "_")), ", "
		switch variable {
		case "PROXY", "CONTENT_LENGTH", "CONTENT_TYPE", "HOST":
			continue
		case "COOKIE":
			separator = "; "
		}
		env = append(env, "HTTP_"+variable+"="+strings.Join(values, separator))
	}
	return env
}
