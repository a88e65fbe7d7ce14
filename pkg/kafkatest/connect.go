package kafkatest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

//go:embed connect
var connectFiles embed.FS

// ConnectWorker is a standalone worker of Kafka Connect, in a process of its own, with Debezium's connectors
// io.debezium.connector.postgresql.PostgresConnector and io.debezium.connector.jdbc.JdbcSinkConnector, as they are on Maven
// Central, and a stand-in for Confluent's Avro converter (connect/AvroConverter.java says what it shares with that).
//
// It keeps the offsets of its sources when it is stopped; killed, it begins again where it was stopped last. Not safe for
// concurrent use.
type ConnectWorker struct {
	libs       string
	dir        string
	port       int
	release    func()
	server     *process.Server
	connectors []connector
}

type connector struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
}

// Connect starts a worker for one test, on the brokers and the schema registry given. The first one fetches what it
// needs from Maven Central. It is skipped where Real is, and where there is no javac.
func Connect(t testing.TB, brokers []string, registry string) *ConnectWorker {
	t.Helper()
	skipUnwanted(t)
	w := &ConnectWorker{}
	t.Cleanup(func() {
		if err := w.remove(t.Failed()); err != nil {
			t.Error(err)
		}
	})
	err := w.prepare(t.Context(), brokers, registry)
	if err == nil {
		err = w.Restart(t.Context())
	}
	failOrSkip(t, err)
	return w
}

func (w *ConnectWorker) prepare(ctx context.Context, brokers []string, registry string) (err error) {
	for _, program := range []string{"java", "javac"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("start Kafka Connect: %w: %w", ErrNoJava, err)
		}
	}
	hash, err := hashFiles(connectFiles)
	if err != nil {
		return fmt.Errorf("start Kafka Connect: %w", err)
	}
	if w.libs, err = process.Cached(ctx, "connect/"+hash, fetchConnect); err != nil {
		return fmt.Errorf("start Kafka Connect: %w", err)
	}
	if w.dir, err = os.MkdirTemp("", "tributary-connect-"); err != nil {
		return fmt.Errorf("start Kafka Connect: %w", err)
	}
	if w.release, err = process.Guard(`kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, w.dir); err != nil {
		return err
	}
	if w.port, err = process.FreePort(); err != nil {
		return err
	}
	properties, err1 := connectFiles.ReadFile("connect/worker.properties")
	log4j, err2 := kafkaFiles.ReadFile("kafka/log4j2.properties")
	values := map[string]string{
		"brokers": strings.Join(brokers, ","), "registry": registry, "port": strconv.Itoa(w.port),
		"plugins": filepath.Join(w.libs, "plugins"), "offsets": filepath.Join(w.dir, "offsets"),
	}
	text := os.Expand(string(properties), func(name string) string { return values[name] })
	err = errors.Join(err1, err2,
		os.WriteFile(filepath.Join(w.dir, "worker.properties"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(w.dir, "log4j2.properties"), log4j, 0o644))
	if err != nil {
		return fmt.Errorf("write the configuration of Kafka Connect: %w", err)
	}
	return nil
}

// hashFiles names the content of files: what is made of them is cached under it.
func hashFiles(files embed.FS) (string, error) {
	h := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}

// fetchConnect fills dir: libs of the worker, and plugins, each in a directory of its own as plugin.path wants it.
func fetchConnect(ctx context.Context, dir string) error {
	plugins := filepath.Join(dir, "plugins")
	converter := filepath.Join(dir, "converter")
	poms := map[string][]byte{}
	for _, name := range []string{"runtime", "converter", "debezium"} {
		pom, err := connectFiles.ReadFile("connect/" + name + ".xml")
		if err != nil {
			return err
		}
		poms[name] = pom
	}
	if err := mavenLibraries(ctx, dir, poms["runtime"]); err != nil {
		return err
	}
	if err := mavenLibraries(ctx, converter, poms["converter"]); err != nil {
		return err
	}
	if err := maven(ctx, filepath.Join(dir, "debezium"), poms["debezium"], "dependency:unpack", "-DoutputDirectory="+plugins); err != nil {
		return err
	}
	if err := compileConverter(ctx, converter, filepath.Join(dir, "libs")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(converter, "libs"), filepath.Join(plugins, "avro-converter"))
}

// compileConverter adds the converter to the libraries in dir, with which and those of the worker it is compiled.
func compileConverter(ctx context.Context, dir, worker string) error {
	source, err := connectFiles.ReadFile("connect/AvroConverter.java")
	if err != nil {
		return err
	}
	libs, classes := filepath.Join(dir, "libs"), filepath.Join(dir, "classes")
	services := filepath.Join(classes, "META-INF", "services")
	file := filepath.Join(dir, "AvroConverter.java")
	if err := errors.Join(os.MkdirAll(services, 0o755), os.WriteFile(file, source, 0o644),
		os.WriteFile(filepath.Join(services, "org.apache.kafka.connect.storage.Converter"), []byte("tributary.AvroConverter\n"), 0o644)); err != nil {
		return fmt.Errorf("write converter: %w", err)
	}
	path := strings.Join([]string{filepath.Join(libs, "*"), filepath.Join(worker, "*")}, string(os.PathListSeparator))
	for _, args := range [][]string{
		{"javac", "-nowarn", "-cp", path, "-d", classes, file},
		{"jar", "--create", "--file", filepath.Join(libs, "tributary-avro-converter.jar"), "-C", classes, "."},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("compile converter: %w:\n%s", err, out)
		}
	}
	return nil
}

// Log gives the path of the worker's log.
func (w *ConnectWorker) Log() string { return filepath.Join(w.dir, "connect.log") }

// Restart starts the worker with the connectors that it had, stopping it first if it runs.
func (w *ConnectWorker) Restart(ctx context.Context) error {
	if err := w.Stop(); err != nil {
		return err
	}
	if err := w.launch(ctx); err != nil {
		return fmt.Errorf("start Kafka Connect: %w", err)
	}
	for _, c := range w.connectors {
		if err := w.create(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (w *ConnectWorker) launch(ctx context.Context) error {
	log, err := os.OpenFile(w.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dlog4j2.configurationFile="+filepath.Join(w.dir, "log4j2.properties"),
		"-cp", filepath.Join(w.libs, "libs", "*"), "org.apache.kafka.connect.cli.ConnectStandalone", filepath.Join(w.dir, "worker.properties"))
	cmd.Dir = w.dir
	cmd.Stdout, cmd.Stderr = log, log
	if w.server, err = process.Start(cmd); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "pid"), []byte(strconv.Itoa(w.server.PID())), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, realStartTimeout)
	defer cancel()
	err = process.Poll(ctx, func() (bool, error) {
		if !w.server.Alive() {
			return false, fmt.Errorf("it ended; its log ends with:\n%s", process.LastLines(w.Log()))
		}
		return w.ask(ctx, http.MethodGet, "/connectors", nil, nil) == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the worker on port %d: %w", w.port, err)
	}
	return nil
}

// Create makes a connector, which every later Restart makes again. It runs some time after this returns; see Check.
func (w *ConnectWorker) Create(ctx context.Context, name string, config map[string]string) error {
	c := connector{name, config}
	w.connectors = append(w.connectors, c)
	return w.create(ctx, c)
}

func (w *ConnectWorker) create(ctx context.Context, c connector) error {
	if err := w.ask(ctx, http.MethodPost, "/connectors", c, nil); err != nil {
		return fmt.Errorf("create connector %q: %w", c.Name, err)
	}
	return nil
}

// Check gives an error if the worker has ended or a connector or a task of one has failed.
func (w *ConnectWorker) Check(ctx context.Context) error {
	if !w.server.Alive() {
		return fmt.Errorf("kafka connect ended; its log ends with:\n%s", process.LastLines(w.Log()))
	}
	type state struct {
		State string `json:"state"`
		Trace string `json:"trace"`
	}
	var errs []error
	for _, c := range w.connectors {
		var status struct {
			Connector state   `json:"connector"`
			Tasks     []state `json:"tasks"`
		}
		if err := w.ask(ctx, http.MethodGet, "/connectors/"+c.Name+"/status", nil, &status); err != nil {
			continue // it is about to be made
		}
		for _, s := range append(status.Tasks, status.Connector) {
			if s.State == "FAILED" {
				errs = append(errs, fmt.Errorf("connector %q failed:\n%s", c.Name, s.Trace))
			}
		}
	}
	return errors.Join(errs...)
}

// ask asks the worker's REST API.
func (w *ConnectWorker) ask(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second) // the worker's own limit for making a connector
	defer cancel()
	var payload bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&payload).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", w.port, path), &payload)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Close = true // no connection is kept, and no goroutine for it
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(answer.Body); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text.String())
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text.Bytes(), into)
}

// Stop ends the worker with SIGTERM: it keeps the offsets of its sources. One that does not end within a minute is
// killed, and that is an error.
func (w *ConnectWorker) Stop() error {
	if w.server == nil {
		return nil
	}
	if err := w.server.Stop(syscall.SIGTERM, realStopTimeout); err != nil {
		return fmt.Errorf("stop Kafka Connect: %w", err)
	}
	return nil
}

// Kill ends the worker with SIGKILL.
func (w *ConnectWorker) Kill() error {
	if w.server == nil {
		return nil
	}
	if err := w.server.Kill(); err != nil {
		return fmt.Errorf("kill Kafka Connect: %w", err)
	}
	return nil
}

// remove kills the worker and removes what it wrote; where the test failed, its log is shown.
func (w *ConnectWorker) remove(failed bool) error {
	if failed && w.dir != "" {
		fmt.Fprintf(os.Stderr, "Kafka Connect's log ends with:\n%s\n", process.LastLines(w.Log()))
	}
	if err := w.Kill(); err != nil {
		return err
	}
	if w.dir != "" {
		if err := os.RemoveAll(w.dir); err != nil {
			return fmt.Errorf("remove Kafka Connect: %w", err)
		}
	}
	if w.release != nil {
		w.release()
	}
	return nil
}
