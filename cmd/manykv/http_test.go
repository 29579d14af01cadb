package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
)

// takeTCPPorts returns the first of n ports in a row that were free a moment ago.
func takeTCPPorts(t *testing.T, n int) int {
	t.Helper()
	const lowest, span, tries = 10_000, 20_000, 100
	for range tries {
		first := lowest + rand.IntN(span)
		free := true
		for i := range n {
			l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", loopback, first+i))
			if err != nil {
				free = false
				break
			}
			defer l.Close()
		}
		if free {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

// fetch is the answer to a GET.
func fetch(t *testing.T, url string) (status int, text string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

func testMetricsAndHealth(t *testing.T, s *site, first int) {
	for i := range 3 {
		addr := fmt.Sprintf("%s:%d", loopback, first+i)
		s.expect(0, "ok\n", "health", "--http", addr)
		s.expect(0, "ok\n", "health", "--http", addr, "--ready")
		status, text := fetch(t, "http://"+addr+"/metrics")
		for _, line := range []string{
			`manykv_node_info{cluster="`, fmt.Sprintf(`node="n%d"`, i+1), `manykv_shard_has_leader{shard="0"} 1`,
			`manykv_request_duration_seconds_count{operation="get-many",outcome="ok"}`, "go_goroutines ", "process_resident_memory_bytes ",
		} {
			if status != http.StatusOK || !strings.Contains(text, line) {
				t.Errorf("n%d: got status %d and %d bytes, want %q among the metrics", i+1, status, len(text), line)
			}
		}
		if status, _ := fetch(t, "http://"+addr+"/debug/pprof/"); status != http.StatusNotFound {
			t.Errorf("got status %d for profiles that nobody asked for, want %d", status, http.StatusNotFound)
		}
	}
	nobody := fmt.Sprintf("%s:%d", loopback, takeTCPPorts(t, 1))
	s.run("", "health", "--http", nobody).mustFail(t, exitFailed, "connection refused")
	s.run("", "health").mustFail(t, exitUsage, "--http host:port, or MANYKV_HTTP")
	s.run("", "health", "--http", "here").mustFail(t, exitUsage, `--http "here", want host:port`)
}
