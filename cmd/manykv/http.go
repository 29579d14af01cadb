package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/manykv/manykv/cluster"
)

// What the HTTP server allows: its callers are machines of the operator's, and no
// secret and nothing large comes in.
const (
	httpHeaderTime  = 2 * time.Second
	httpHeaderBytes = 16 << 10
	httpWriteTime   = 2 * time.Minute // a profile takes 30 s unless told otherwise
	httpIdleTime    = 2 * time.Minute
	httpScrapes     = 2 // at once: on a disk that hangs they wait for it
	// readyTime is how long the confirmed read of /readyz may take: longer than an
	// election, shorter than a probe is patient.
	readyTime = 3 * time.Second
)

// monitor is the HTTP server of metrics and health. It serves before the node is open,
// which may have to read much first: a probe that finds nobody would end it.
type monitor struct {
	server   http.Server
	handler  atomic.Pointer[http.ServeMux]
	profiles bool
	ended    chan struct{}
}

// listenHTTP serves on an address; nil if there is none.
func listenHTTP(ctx context.Context, addr string, profiles bool, logger *slog.Logger) (*monitor, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	m := &monitor{profiles: profiles, ended: make(chan struct{})}
	m.handler.Store(monitorMux(nil, profiles))
	m.server = http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.handler.Load().ServeHTTP(w, r) }),
		ReadHeaderTimeout: httpHeaderTime, ReadTimeout: httpHeaderTime, WriteTimeout: httpWriteTime, IdleTimeout: httpIdleTime,
		MaxHeaderBytes: httpHeaderBytes, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	logger.Info("metrics and health", "http", l.Addr().String(), "pprof", profiles)
	go func() {
		defer close(m.ended)
		if err := m.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("metrics and health end", "error", err)
		}
	}()
	return m, nil
}

// show serves what a node has to say, from now on.
func (m *monitor) show(node *cluster.Node) {
	if m != nil {
		m.handler.Store(monitorMux(node, m.profiles))
	}
}

// Close ends the server with the calls under way.
func (m *monitor) Close() error {
	if m == nil {
		return nil
	}
	err := m.server.Close()
	<-m.ended
	return err
}

var errOpening = errors.New("the node is opening")

// monitorMux is what is served; node is nil until it is open.
func monitorMux(node *cluster.Node, profiles bool) *http.ServeMux {
	mux := http.NewServeMux()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	healthy, ready := func() error { return nil }, func(context.Context) error { return errOpening }
	if node != nil {
		registry.MustRegister(node.Metrics()...)
		healthy, ready = node.Err, node.Ready
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: httpScrapes}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, healthy()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, done := context.WithTimeout(r.Context(), readyTime)
		defer done()
		say(w, ready(ctx))
	})
	if profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// say answers 200 and ok, or 503 and why not.
func say(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = err.Error()
	}
	_, _ = fmt.Fprintln(w, text) // whoever asked has gone
}

const healthHelp = `Ask the node at --http (or MANYKV_HTTP) over HTTP whether it is healthy: for probes
of containers that hold nothing but this program.

Without --ready: does the process serve, has no write failed. With it: does it serve a
read now, confirmed by a majority.

Exit codes: 0 yes; 1 no, or no answer in --timeout; 2 used wrongly.`

func (p *program) healthCommand() *cobra.Command {
	var addr string
	var ready bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say whether a node is healthy",
		Long:  healthHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("http") {
				addr, _ = p.lookupEnv("MANYKV_HTTP")
			}
			if addr == "" {
				return usagef("missing: --http host:port, or MANYKV_HTTP")
			}
			host, port, err := splitAddr(addr)
			if err != nil {
				return usagef("--http %q, want host:port: %w", addr, err)
			}
			if host == "" || net.ParseIP(host).IsUnspecified() {
				host = "127.0.0.1" // what the server listens on, as it is configured
			}
			path := "healthz"
			if ready {
				path = "readyz"
			}
			ctx, done := context.WithTimeout(cmd.Context(), timeout)
			defer done()
			return p.health(ctx, "http://"+net.JoinHostPort(host, strconv.FormatUint(port, 10))+"/"+path)
		},
	}
	f := cmd.Flags()
	f.StringVar(&addr, "http", "", "`host:port` of the node's metrics and health")
	f.BoolVar(&ready, "ready", false, "ask whether it serves reads")
	f.DurationVar(&timeout, "timeout", 5*time.Second, "how long the answer may take")
	return cmd
}

func (p *program) health(ctx context.Context, url string) (err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	direct := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // by no proxy of the environment
	answer, err := direct.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	const most = 4 << 10
	text, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	p.stdout.printf("%s", text)
	return nil
}
