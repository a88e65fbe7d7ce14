// Package systemd holds the units of the services. Its test lets systemd read them.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/sink"
)

var units = []string{"tributary-capture@.service", "tributary-sink@.service"}

func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	// A unit whose program is not there is refused; here it is this test.
	program, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range units {
		text := read(t, name)
		verb, _, _ := strings.Cut(strings.TrimPrefix(name, "tributary-"), "@")
		if !strings.Contains(text, "ExecStart=/usr/local/bin/"+verb+" ") {
			t.Fatalf("%s does not start %s", name, verb)
		}
		if !strings.Contains(text, "\nType=notify\n") || !strings.Contains(text, "\nWatchdogSec=") {
			t.Errorf("%s: systemd does not ask whether it lives", name)
		}
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, []byte(strings.Replace(text, "/usr/local/bin/"+verb, program, 1)), 0o600))
		args = append(args, file)
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	// Of what a unit may do, systemd makes a number from 0 to 10; the worst is one that says nothing.
	for _, file := range args[2:] {
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=15", "--no-pager", file).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v:\n%s", filepath.Base(file), err, out)
		}
	}
	for line := range strings.Lines(string(out)) { // what it does not know it only warns of, as of units that are not ours
		if strings.Contains(line, "tributary") {
			t.Error(line)
		}
	}
}

// A wrong configuration is not tried again, a crash is: the runtime of Go exits with the same code, unless the unit makes it die by its signal.
func TestCrashIsNoWrongConfiguration(t *testing.T) {
	if os.Getenv("TRIBUTARY_CRASH") != "" {
		go panic("crash")
		select {}
	}
	for _, name := range units {
		text := read(t, name)
		if !strings.Contains(text, "\nRestartPreventExitStatus=2\n") || !strings.Contains(text, "\nLimitCORE=0\n") {
			t.Errorf("%s tries a wrong configuration for ever, or leaves a core with secrets", name)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashIsNoWrongConfiguration$") //nolint:gosec // this test
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "TRIBUTARY_CRASH=1")
		for line := range strings.Lines(text) {
			if assigned, ok := strings.CutPrefix(strings.TrimSpace(line), "Environment="); ok {
				cmd.Env = append(cmd.Env, assigned)
			}
		}
		err := cmd.Run()
		if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !state.Signaled() {
			t.Errorf("%s: a crash is not told from a wrong configuration: %v", name, err)
		}
	}
}

// The secret that a unit hands over is one that the configuration takes.
func TestUnitsGiveTheSecret(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "dsn"), []byte("postgres://somebody@somewhere/db\n"), 0o600))
	for i, name := range units {
		var key string
		for line := range strings.Lines(read(t, name)) {
			if assigned, ok := strings.CutPrefix(strings.TrimSpace(line), "Environment=TRIBUTARY_"); ok {
				if key != "" {
					t.Errorf("%s hands over more than one setting", name)
				}
				var value string
				key, value, _ = strings.Cut("TRIBUTARY_"+assigned, "=")
				t.Setenv(key, strings.Replace(value, "%d", dir, 1))
			}
		}
		file := filepath.Join(dir, "config.yaml")
		var dsn config.Secret
		if i == 0 {
			var cfg capture.Config
			must(t, os.WriteFile(file, []byte("source: {name: shop}\nkafka: {brokers: [\"kafka:9092\"]}\nregistry: {url: \"http://registry:8081\"}\n"), 0o600))
			must(t, config.Load(file, &cfg))
			dsn = cfg.Source.DSN
		} else {
			var cfg sink.Config
			must(t, os.WriteFile(file, []byte("kafka: {brokers: [\"kafka:9092\"]}\nregistry: {url: \"http://registry:8081\"}\ntables: [{from: \"*.*\"}]\n"), 0o600))
			must(t, config.Load(file, &cfg))
			dsn = cfg.Warehouse.DSN
		}
		if text, err := dsn.Reveal(); err != nil || text != "postgres://somebody@somewhere/db" {
			t.Errorf("%s: the connection string is %q (%v)", name, text, err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
