package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/manykv/manykv/client"
)

// takePort listens on a port that the system chooses.
func takePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.LocalAddr().(*net.UDPAddr).Port
}

func TestAPlanIsMadeOnceAndFoundAgain(t *testing.T) {
	dir := t.TempDir()
	if pl, err := loadPlan(dir); pl != nil || err != nil {
		t.Fatalf("got %+v, %v in an empty directory, want nothing", pl, err)
	}
	o := &upOptions{dir: dir, nodes: 2, shards: 5, port: takePort(t)}
	made, err := makePlan(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	found, err := loadPlan(dir)
	if err != nil || !reflect.DeepEqual(found, made) || made.Nodes != 2 || made.Shards != 5 {
		t.Fatalf("got %+v, %v, want %+v", found, err, made)
	}
	if made.Ports[0] <= o.port || made.Ports[1] <= made.Ports[0] {
		t.Errorf("got ports %v, want two after %d, which is taken", made.Ports, o.port)
	}
	cfg, err := client.LoadConfig(filepath.Join(dir, clientFile))
	if err != nil || !reflect.DeepEqual(cfg.Addrs, made.addrs()) {
		t.Errorf("got %+v, %v, want the addresses %v", cfg, err, made.addrs())
	}
	server, err := loadServerConfig(filepath.Join(dir, "n2.toml"))
	if err != nil || server.complete() != nil || server.Name != "n2" || server.BootstrapExpect != 2 || server.Shards != 5 ||
		server.Listen != made.addr(1) || !reflect.DeepEqual(server.Join, made.addrs()) || server.DataDir != filepath.Join(dir, "n2") {
		t.Errorf("got %+v, %v, want that of n2", server, err)
	}
	for _, file := range []string{cfg.CAFile, cfg.CertFile, cfg.KeyFile, server.CertFile, server.KeyFile, server.GossipKeyFile} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

// TestAnUnfinishedPlanIsMadeAgain: whoever made the first one was killed.
func TestAnUnfinishedPlanIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	o := &upOptions{dir: dir, nodes: 1, port: takePort(t)}
	if _, err := makePlan(dir, o); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, planFile)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, filepath.Join(certsDir+".new", "ca.key"), []byte("half"))
	if _, err := makePlan(dir, o); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, certsDir+".new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want nothing half made left", err)
	}
}

func TestAPlanCannotBeChanged(t *testing.T) {
	pl := &plan{Nodes: 3, Shards: 6, Ports: []int{7400, 7401, 7402}}
	o := &upOptions{nodes: 5, shards: 0, port: 7500}
	for _, c := range []struct{ flag, says string }{
		{"nodes", "--nodes 5, but the cluster in D was made with 3"},
		{"shards", "--shards 0, but the cluster in D was made with 6"},
		{"port", "--port 7500, but the cluster in D was made with 7400"},
	} {
		err := pl.checkSame("D", o, func(flag string) bool { return flag == c.flag })
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, want an error that says %q", err, c.says)
		}
	}
	counted := &plan{Nodes: 3, Ports: []int{7400, 7401, 7402}} // nobody gave --shards
	err := counted.checkSame("D", &upOptions{shards: 9}, func(flag string) bool { return flag == "shards" })
	if want := "--shards 9, but the cluster in D was made with two shards for each node"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error that says %q", err, want)
	}
	if err := pl.checkSame("D", o, func(string) bool { return false }); err != nil {
		t.Errorf("got %v when nothing was given", err)
	}
	same := &upOptions{nodes: 3, shards: 6, port: 7400}
	if err := pl.checkSame("D", same, func(string) bool { return true }); err != nil {
		t.Errorf("got %v when the same was given", err)
	}
}

func TestADamagedPlanIsRefused(t *testing.T) {
	for _, text := range []string{"nodes = ", "nodes = 3\nports = [1]", "nodes = 0", "nodes = 1000"} {
		dir := t.TempDir()
		writeFile(t, dir, planFile, []byte(text))
		if pl, err := loadPlan(dir); err == nil || !strings.Contains(err.Error(), planFile) {
			t.Errorf("%q: got %+v, %v, want an error that names the file", text, pl, err)
		}
	}
}

func TestPortsRunOut(t *testing.T) {
	if ports, err := freePorts(lastPort, 2); err == nil || !strings.Contains(err.Error(), "want 2") {
		t.Errorf("got %v, %v, want an error", ports, err)
	}
}

func TestAClusterIsNamedAfterItsDirectoryOrLocal(t *testing.T) {
	for dir, want := range map[string]string{
		"/x/prod-1": "prod-1", "/x/.manykv": "local", "/x/Prod": "local", "/": "local", "/x/" + strings.Repeat("a", 64): "local",
	} {
		if got := clusterName(dir); got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}

func TestADirectoryIsLockedOnce(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "another 'manykv up' (pid "+strconv.Itoa(os.Getpid())+") runs in "+dir) {
		t.Errorf("got %v, want an error that names the other", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err = lockDir(dir)
	if err != nil {
		t.Fatalf("after it was given up: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSettingsInTheEnvironmentAreNotPassedOn(t *testing.T) {
	got := withoutSettings([]string{"PATH=/bin", "MANYKV_NAME=n9", "GOMAXPROCS=2"})
	if want := []string{"PATH=/bin", "GOMAXPROCS=2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAReasonIsWhatTheProgramSaidLast: only then is it no use to start it again.
func TestAReasonIsWhatTheProgramSaidLast(t *testing.T) {
	ended := func(script string) error { return exec.Command("sh", "-c", script).Run() }
	for _, c := range []struct {
		name, log string
		err       error
		want      string
	}{
		{"an error", "level=INFO msg=\"node started\"\nmanykv: start node n1: in use\n", ended("exit 1"), "start node n1: in use"},
		{"an error of lines", "manykv: not this\nmanykv: one\ntwo\nhint: three\n", ended("exit 1"), "one\n  two\n  hint: three"},
		{"killed", "manykv: not this\n", ended("kill -KILL $$"), ""},
		{"asked to stop", "level=INFO msg=\"node stopped\"\n", ended("exit 0"), ""},
		{"a crash", "panic: nil map\n\ngoroutine 1 [running]:\n", ended("exit 2"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, "n1.log", []byte(c.log))
			if got := (&child{log: filepath.Join(dir, "n1.log"), err: c.err}).reason(); got != c.want {
				t.Errorf("got %q after %v, want %q", got, c.err, c.want)
			}
		})
	}
}

func TestLastWordsAreTheLastLinesOfThisProcess(t *testing.T) {
	dir := t.TempDir()
	earlier := "of an earlier process\n"
	text := earlier
	for i := range 2 * tailLines {
		text += "line " + strconv.Itoa(i) + "\n"
	}
	writeFile(t, dir, "n1.log", []byte(text))
	c := &child{log: filepath.Join(dir, "n1.log"), logStart: int64(len(earlier))}
	if got := c.lastWords(); len(got) != tailLines || got[0] != "line 10" || got[9] != "line 19" {
		t.Errorf("got %q, want lines 10 to 19", got)
	}
	c.logStart = int64(len(text))
	if got := c.lastWords(); len(got) != 0 {
		t.Errorf("got %q, want nothing of a process that said nothing", got)
	}
}
