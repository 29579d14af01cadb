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
	"strconv"
	"strings"
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
	// 4 MiB.
	BodyBytes int64
	// Concurrent bounds how many guests run at once; default 16. A request beyond them
	// waits until its Timeout, but for no longer than QueueWait, default 1 s.
	Concurrent int
	QueueWait  time.Duration
	// Logger hears of failed guests, and what guests write on standard error; default:
	// nothing is logged.
	Logger *slog.Logger
}

// maxHeaderBytes bounds the head of a response.
const maxHeaderBytes = 64 << 10

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
	if c.Concurrent == 0 {
		c.Concurrent = 16
	}
	if c.Timeout < 0 || c.QueueWait < 0 || c.BodyBytes < 0 || c.Concurrent < 0 {
		return c, fmt.Errorf("cgi: Timeout %v, QueueWait %v, BodyBytes %d, Concurrent %d: want none below 0", c.Timeout, c.QueueWait, c.BodyBytes, c.Concurrent)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Handler is a http.Handler. It is safe for concurrent use.
type Handler struct {
	cfg   Config
	slots chan struct{} // a place for each guest that may run
}

// New makes a handler.
func New(cfg Config) (*Handler, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Handler{cfg: cfg, slots: make(chan struct{}, cfg.Concurrent)}, nil
}

// ServeHTTP runs a guest for a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.ContainsRune(r.URL.Path, 0) { // a variable of the environment cannot hold it
		http.Error(w, "a NUL in the path", http.StatusBadRequest)
		return
	}
	ctx, done := context.WithTimeout(r.Context(), h.cfg.Timeout)
	defer done()
	if !h.enter(ctx) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, fmt.Sprintf("busy: %d requests are being served, which is the most", h.cfg.Concurrent), http.StatusServiceUnavailable)
		return
	}
	defer func() { <-h.slots }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.BodyBytes))
	if err != nil {
		status := http.StatusBadRequest
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return
	}
	out := &response{w: w, request: r}
	stderr := &lines{log: func(line string) { h.cfg.Logger.Info("guest", "path", r.URL.Path, "stderr", line) }}
	err = h.cfg.Guest.Run(ctx, wasi.Process{
		Open: h.cfg.Open, Args: []string{"guest"}, Env: append(environment(r, len(body)), h.cfg.Env...),
		Stdin: bytes.NewReader(body), Stdout: out, Stderr: stderr,
	})
	stderr.end()
	h.finish(out, r, errors.Join(err, out.err))
}

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
