package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// merge is mergeSettings of a command line, an environment and a file's text.
func merge(t *testing.T, line string, environment map[string]string, text string) (serverConfig, string, error) {
	t.Helper()
	var flagged serverConfig
	flags := pflag.NewFlagSet("server", pflag.ContinueOnError)
	addSettings(flags, &flagged)
	if err := flags.Parse(strings.Fields(line)); err != nil {
		t.Fatal(err)
	}
	file := ""
	if text != "" {
		file = filepath.Join(t.TempDir(), "server.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lookup := func(name string) (string, bool) {
		value, ok := environment[name]
		return value, ok
	}
	cfg, err := mergeSettings(flags, &flagged, lookup, file)
	return cfg, filepath.Dir(file), err
}

const wholeFile = `name = "file"
data_dir = "data"
listen = "127.0.0.1:1"
ca_file = "ca.crt"
cert_file = "/etc/n1.crt"
key_file = "n1.key"
gossip_key_file = "gossip.key"
join = ["a:1", "b:1"]
bootstrap_expect = 2
`

func TestAFlagWinsOverTheEnvironmentAndThatOverTheFile(t *testing.T) {
	environment := map[string]string{
		"MANYKV_NAME": "environment", "MANYKV_LISTEN": "127.0.0.1:2", "MANYKV_JOIN": "c:2, d:2", "MANYKV_SHARDS": "7",
		"MANYKV_JOURNAL_BYTES": "68719476736",
	}
	cfg, dir, err := merge(t, "--name flag --key-file k.key --max-key-bytes 100", environment, wholeFile)
	if err != nil {
		t.Fatal(err)
	}
	want := serverConfig{
		Name:            "flag",        // flag over environment over file
		Listen:          "127.0.0.1:2", // environment over file
		Join:            []string{"c:2", "d:2"},
		BootstrapExpect: 2, // file
		Shards:          7, // environment
		JournalBytes:    64 << 30,
		MaxKeyBytes:     100,
		DataDir:         filepath.Join(dir, "data"), // of a file: starts at its folder
		CAFile:          filepath.Join(dir, "ca.crt"),
		CertFile:        "/etc/n1.crt",
		KeyFile:         "k.key", // of a flag: starts here
		GossipKeyFile:   filepath.Join(dir, "gossip.key"),
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestAFlagCanSetBackToNothing(t *testing.T) {
	cfg, _, err := merge(t, "--bootstrap-expect 0 --join x:1", map[string]string{"MANYKV_JOIN": "y:1"}, wholeFile)
	if err != nil || cfg.BootstrapExpect != 0 || !reflect.DeepEqual(cfg.Join, []string{"x:1"}) {
		t.Errorf("got %+v, %v, want no bootstrap_expect and to join x:1 alone", cfg, err)
	}
}

func TestWhatIsWrongWithSettingsIsSaid(t *testing.T) {
	for _, c := range []struct {
		name, line  string
		environment map[string]string
		file        string
		says        string
	}{
		{"a number in the environment", "", map[string]string{"MANYKV_SHARDS": "many"}, wholeFile, `MANYKV_SHARDS="many"`},
		{"a misspelt setting", "", nil, wholeFile + "bootstrap_except = 3\n", `line 10: there is no setting "bootstrap_except"`},
		{"a setting of the wrong kind", "", nil, "\nname = 3", "line 2: "},
		{"missing settings", "--name n1 --data-dir d", nil, "", "missing: ca_file, cert_file, key_file, gossip_key_file"},
		{"how to give it", "--name n1", nil, "", "(--data-dir), in the environment (MANYKV_DATA_DIR)"},
		{"who makes the files", "--data-dir d --ca-file c --cert-file c --gossip-key-file g", nil, "", "missing: key_file; give each as a flag (--key-file), " +
			"in the environment (MANYKV_KEY_FILE) or in the --config file (key_file); 'manykv cert ca' makes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if cfg, _, err := merge(t, c.line, c.environment, c.file); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %+v, %v, want an error that says %q", cfg, err, c.says)
			}
		})
	}
}

func TestNoNameIsTheCertificates(t *testing.T) {
	cfg, _, err := merge(t, "--name=", nil, wholeFile)
	if err != nil || cfg.Name != "" || cfg.title() != "node" {
		t.Errorf("got %q, %v, want no name and no error", cfg.Name, err)
	}
}

// TestASettingThatCannotBeIsWrongUse: it is named, and nothing is opened.
func TestASettingThatCannotBeIsWrongUse(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "n1.toml", []byte(wholeFile))
	for _, c := range []struct{ flag, value, says string }{
		{"listen", "foo", `listen "foo", want host:port`},
		{"listen", "127.0.0.1:dns", `listen "127.0.0.1:dns", want host:port`},
		{"listen", ":7400", "missing: advertise (host:port); listen names no host that others could use"},
		{"listen", "[::]:7400", "missing: advertise"},
		{"listen", "", "missing: advertise"},
		{"advertise", "foo", `advertise "foo", want host:port`},
		{"advertise", "n1:0", `advertise "n1:0", want host:port`},
		{"join", "a:1,b", `join "b", want host:port`},
		{"join", "", "bootstrap_expect 2, but join is missing"},
		{"bootstrap-expect", "65", "bootstrap_expect 65, want 0 to 64"},
		{"bootstrap-expect", "-1", "bootstrap_expect -1, want 0 to 64"},
		{"shards", "257", "shards 257, want 0 to 256"},
		{"replicas", "-1", "replicas -1, want 0 to 64"},
		{"log-store", "x", `log_store "x", want wal or boltdb`},
		{"log-level", "loud", `log_level "loud", want debug, info, warn or error`},
		{"max-key-bytes", "-1", "max_key_bytes -1: "},
		{"max-value-bytes", "9000000", "max_value_bytes 9000000: "},
		{"max-batch-keys", "2000000", "max_batch_keys 2000000: "},
		{"max-batch-bytes", "-7", "max_batch_bytes -7: "},
		{"shards", "many", "--shards"},
		{"journal-bytes", "8388607", "journal_bytes 8388607, want 0 or at least 8388608"},
		{"http", "9400", `http "9400", want host:port`},
		{"pprof", "true", "pprof without http"},
		{"otlp", "127.0.0.1:4318", `otlp "127.0.0.1:4318", want a URL`},
		{"slow-call", "-1s", `slow_call "-1s", want a time more than 0`},
		{"slow-call", "never", `slow_call "never", want a time`},
		{"cache-bytes", "-1", "cache_bytes -1, want 0 or at least 1048576"},
		{"value-cache-bytes", "-1", "value_cache_bytes -1, want 0 or at least 1048576"},
		{"write-buffer-bytes", "7", "write_buffer_bytes 7, want 0 or at least 1048576"},
		{"request-bytes", "-1", "request_bytes -1, want 0 or at least 1048576"},
	} {
		t.Run(c.flag+"="+c.value, func(t *testing.T) {
			runHere(t, nil, "server", "--config", filepath.Join(dir, "n1.toml"), "--"+c.flag+"="+c.value).mustFail(t, exitUsage, c.says)
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("got a data directory, want nothing opened")
	}
}

func TestAFileThatIsNotThereIsNamedWithWhatMakesIt(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "n1.toml", []byte(wholeFile))
	writeFile(t, dir, "ca.crt", nil)
	r := runHere(t, nil, "server", "--config", filepath.Join(dir, "n1.toml"), "--cert-file", filepath.Join(dir, "n1.crt"))
	r.mustFail(t, exitFailed, "manykv: start node file: cert_file: ")
	r.mustFail(t, exitFailed, "hint: 'manykv cert ca' makes a cluster's CA and gossip key, 'manykv cert node' a node's certificate and key\n")
}

func TestEverySettingIsAFieldAndEveryFieldASetting(t *testing.T) {
	var cfg serverConfig
	fields := make(map[any]string) // by address
	for _, s := range settings {
		fields[s.field(&cfg)] = s.name
	}
	v := reflect.ValueOf(&cfg).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("toml"), ",")
		if got := fields[v.Field(i).Addr().Interface()]; got != name {
			t.Errorf("field %s: got setting %q, want %q", v.Type().Field(i).Name, got, name)
		}
	}
	if v.NumField() != len(settings) {
		t.Errorf("got %d settings, want %d", len(settings), v.NumField())
	}
}

func TestTheHelpsExampleIsAConfiguration(t *testing.T) {
	_, example, ok := strings.Cut(serverHelp, "# manykv.toml\n")
	if !ok {
		t.Fatal("there is no example in the help")
	}
	example, _, _ = strings.Cut(example, "\n\n")
	cfg, err := parseServerConfig([]byte(example))
	if err != nil || cfg.complete() != nil || cfg.check() != nil || cfg.BootstrapExpect != len(cfg.Join) {
		t.Errorf("got %+v, %v, %v, %v, want a whole configuration", cfg, err, cfg.complete(), cfg.check())
	}
}

func TestServerTakesItsFileFromTheEnvironment(t *testing.T) {
	r := runHere(t, map[string]string{"MANYKV_CONFIG": "/nowhere/n1.toml"}, "server")
	r.mustFail(t, exitFailed, "/nowhere/n1.toml")
}
