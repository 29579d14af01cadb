package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/wasi/cgi"
)

const wasmServeHelp = `Serve HTTP with a WebAssembly guest whose buckets are on a cluster:

  manykv wasm serve guestbook.wasm --listen 127.0.0.1:8080 --bucket-map =guestbook

Every request runs a fresh instance of the guest's program (its function _start) as
CGI does, RFC 3875: the request's properties are in its environment, the body is on
standard input, and it writes headers, an empty line and a body on standard output.
What it keeps between requests it keeps in the buckets. See examples/guestbook.
` + guestHelp + `

The listener speaks HTTP without TLS and asks nobody who he is, and a client that
takes its response slowly holds an instance: put it behind a proxy that sees to
that. Limits: --max-body, 64 MiB of bodies at once, --concurrent instances of
--max-memory each, --request-timeout for the body and again for the answer, heads of
16 KiB and 100 headers. SIGTERM and SIGINT let requests under way end.

Exit codes: 0 stopped by a signal; 1 failed; 2 used wrongly.`

// wasmServe is a server of a guest.
type wasmServe struct {
	guest
	listen     string
	limit      time.Duration
	maxBody    int64
	concurrent int
}

func (p *program) wasmServeCommand() *cobra.Command {
	var s wasmServe
	cmd := &cobra.Command{
		Use:   "serve GUEST.wasm",
		Short: "Serve HTTP with a guest: a fresh instance for each request",
		Long:  wasmServeHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), p, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.listen, "listen", "127.0.0.1:8080", "`host:port` to listen on")
	f.DurationVar(&s.limit, "request-timeout", 30*time.Second, "the most a request may take")
	f.Int64Var(&s.maxBody, "max-body", 4, "the largest body of a request, in `MiB`")
	f.IntVar(&s.concurrent, "concurrent", 16, "how many instances may run at once")
	return s.flags(p, cmd, 64)
}

// Bounds of the listener that no application needs to change.
const (
	headTimeout    = 5 * time.Second
	idleTimeout    = time.Minute
	maxHeadBytes   = 16 << 10
	serveStopAfter = 10 * time.Second // for requests under way
)

func (s *wasmServe) check() error {
	if _, _, err := splitAddr(s.listen); err != nil {
		return usagef("--listen %q, want host:port: %w", s.listen, err)
	}
	for _, f := range []struct {
		flag      string
		got, most int64
	}{{"max-body", s.maxBody, 1 << 10}, {"concurrent", int64(s.concurrent), 10_000}} {
		if f.got < 1 || f.got > f.most {
			return usagef("--%s %d, want 1 to %d", f.flag, f.got, f.most)
		}
	}
	if s.limit <= 0 {
		return usagef("--request-timeout %v, want more than 0", s.limit)
	}
	return nil
}

func (s *wasmServe) run(ctx context.Context, p *program, file string) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(p.stderr, nil))
	open, closing, err := s.policy(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closing()) }()
	lasting := context.WithoutCancel(ctx) // requests under way may end
	host, guest, err := s.open(lasting, file, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close(lasting)) }()
	handler, err := cgi.New(cgi.Config{
		Guest: guest, Open: open, Env: s.env, Timeout: s.limit, BodyBytes: s.maxBody << 20, Concurrent: s.concurrent, Logger: logger,
	})
	if err != nil {
		return err
	}
	defer func() { // requests that were cut end their guests
		closing, done := context.WithTimeout(lasting, serveStopAfter)
		defer done()
		err = errors.Join(err, handler.Close(closing))
	}()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return err
	}
	logger.Info("serving", "url", fmt.Sprintf("http://%s/", l.Addr()), "guest", file)
	return serveHTTP(ctx, l, handler, s.limit, logger)
}

// serveHTTP serves until ctx ends, and lets requests under way end.
func serveHTTP(ctx context.Context, l net.Listener, handler http.Handler, limit time.Duration, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       limit,
		WriteTimeout:      2 * limit, // of reading the body and of the guest
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeadBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	logger.Info("stopping", "why", context.Cause(ctx))
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), serveStopAfter)
	defer done()
	err := server.Shutdown(stopping)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests under way were cut: %w", err), server.Close())
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
