package kafkatest

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// Versions of Apache Kafka.
const (
	Version      = "4.3.0" // that is started
	olderVersion = "3.9.1" // by Older
)

//go:embed kafka
var kafkaFiles embed.FS

const (
	realStartTimeout = 5 * time.Minute // 2 to 4 s on an idle machine
	realStopTimeout  = 60 * time.Second
)

var (
	// jvmQuick are for tests: ready in a third of the time, with a third of the memory.
	jvmQuick = []string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}
	// jvmSteady are for measurements: memory and collector of Kafka's own start script, as with jvmQuick collections stop
	// everything for up to 30 ms. The optimising compiler stays off: on two cores it takes as much as the broker itself for the
	// first half hour, which a broker that has run for days does not. So the broker's code is slower here than there.
	jvmSteady = []string{
		"-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-XX:+ExplicitGCInvokesConcurrent", "-XX:TieredStopAtLevel=1",
	}
)

// RealCluster is one Apache Kafka broker (KRaft, its own controller) in a process of its own. Its methods are safe
// for concurrent use, one after the other.
type RealCluster struct {
	version string
	dir     string
	libs    string
	port    int
	jvm     []string // flags
	secure  *secured // nil: a plain one
	release func()

	mu      sync.Mutex
	server  *process.Server
	removed bool
}

var (
	realMu     sync.Mutex
	realShared = map[string]*RealCluster{} // by version
)

// Real gives the Apache Kafka that all tests of this process share; it goes with the process. It runs when Real
// returns, also if an earlier test has stopped it. Its data is that of all tests: see Name.
//
// The test is skipped where there is no Java, or with TRIBUTARY_KAFKA=off. With TRIBUTARY_KAFKA=on lack of Java is an
// error.
func Real(t testing.TB) *RealCluster {
	t.Helper()
	return sharedReal(t, Version)
}

// Older is Real with the last Apache Kafka before 4.0, which ends and fences transactions by other rules (KIP-890). It is
// skipped unless TRIBUTARY_KAFKA=all.
func Older(t testing.TB) *RealCluster {
	t.Helper()
	skipUnlessAll(t, "Apache Kafka "+olderVersion)
	return sharedReal(t, olderVersion)
}

func sharedReal(t testing.TB, version string) *RealCluster {
	t.Helper()
	skipUnwanted(t)
	realMu.Lock()
	defer realMu.Unlock()
	ctx := context.WithoutCancel(t.Context()) // the cluster outlives the test
	c := realShared[version]
	if c == nil {
		c, err := startReal(ctx, version, jvmQuick, nil)
		failOrSkip(t, err)
		realShared[version] = c
		return c
	}
	if !c.running() {
		if err := c.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// StartReal starts an Apache Kafka for measurements, with a temporary directory, which goes with Remove or with this process. The
// first one fetches Kafka from Maven Central into the cache (TRIBUTARY_CACHE, or the user's cache directory). The error is
// ErrNoJava where it cannot run.
func StartReal(ctx context.Context) (*RealCluster, error) {
	return startReal(ctx, Version, jvmSteady, nil)
}

func startReal(ctx context.Context, version string, jvm []string, secure *secured) (*RealCluster, error) {
	c := &RealCluster{version: version, jvm: jvm, secure: secure}
	if err := c.prepare(ctx); err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	if err := c.Restart(ctx); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

func (c *RealCluster) prepare(ctx context.Context) (err error) {
	if _, err := exec.LookPath("java"); err != nil {
		return fmt.Errorf("%w: %w", ErrNoJava, err)
	}
	if c.libs, err = process.Cached(ctx, "kafka/"+c.version, c.fetch); err != nil {
		return err
	}
	formatted, err := process.Cached(ctx, "kafka-data/"+c.version, func(ctx context.Context, dir string) error {
		plain := &RealCluster{libs: c.libs}
		return plain.format(ctx, dir)
	})
	if err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "tributary-kafka-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if c.release, err = process.Guard(`kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, c.dir); err != nil {
		return errors.Join(err, os.RemoveAll(c.dir))
	}
	err = os.CopyFS(filepath.Join(c.dir, "data"), os.DirFS(filepath.Join(formatted, "data")))
	if err != nil {
		err = fmt.Errorf("copy data directory: %w", err)
	} else {
		err = c.configure(c.dir)
	}
	if err != nil {
		return errors.Join(err, c.Remove())
	}
	return nil
}

func (c *RealCluster) fetch(ctx context.Context, dir string) error {
	pom, err := kafkaFiles.ReadFile("kafka/pom.xml")
	if err != nil {
		return fmt.Errorf("fetch Kafka %s: %w", c.version, err)
	}
	return mavenLibraries(ctx, dir, bytes.ReplaceAll(pom, []byte("${version}"), []byte(c.version)))
}

// configure chooses the ports and writes the configuration into dir.
func (c *RealCluster) configure(dir string) error {
	port, err := process.FreePort()
	if err != nil {
		return err
	}
	controller, err := process.FreePort()
	if err != nil {
		return err
	}
	c.port = port
	server, err1 := kafkaFiles.ReadFile("kafka/server.properties")
	log4j, err2 := kafkaFiles.ReadFile("kafka/log4j2.properties")
	values := map[string]string{
		"port": strconv.Itoa(port), "controller": strconv.Itoa(controller), "data": filepath.Join(dir, "data"),
	}
	text := os.Expand(string(server), func(name string) string { return values[name] })
	if c.secure != nil {
		secure, err := c.secure.properties(port, controller)
		if err != nil {
			return err
		}
		text += secure // what stands last counts
	}
	err = errors.Join(err1, err2,
		os.WriteFile(filepath.Join(dir, "server.properties"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(dir, "log4j2.properties"), log4j, 0o644))
	if err != nil {
		return fmt.Errorf("write Kafka's configuration: %w", err)
	}
	return nil
}

// format makes the data directory that every cluster starts from: a copy saves the two seconds of a JVM.
func (c *RealCluster) format(ctx context.Context, dir string) error {
	if err := c.configure(dir); err != nil {
		return err
	}
	const clusterID = "MkU3OEVBNTcwNTJENDM2Qg"
	cmd := exec.CommandContext(ctx, "java", "-XX:TieredStopAtLevel=1", "-cp", c.classPath(),
		"kafka.tools.StorageTool", "format", "-t", clusterID, "-c", filepath.Join(dir, "server.properties"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format Kafka's data directory: %w:\n%s", err, out)
	}
	return nil
}

func (c *RealCluster) classPath() string { return filepath.Join(c.libs, "libs", "*") }

// Addrs gives the broker's host:port.
func (c *RealCluster) Addrs() []string {
	return []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))}
}

// PID gives the process id of the broker, 0 while it does not run.
func (c *RealCluster) PID() int {
	if !c.running() {
		return 0
	}
	return c.server.PID()
}

// Log gives the path of the broker's log.
func (c *RealCluster) Log() string { return filepath.Join(c.dir, "kafka.log") }

func (c *RealCluster) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server != nil && c.server.Alive()
}

// Restart starts the broker again on the same data and port, stopping it first if it runs, and returns when clients
// see it.
func (c *RealCluster) Restart(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stop(); err != nil {
		return err
	}
	if err := c.launch(ctx); err != nil {
		return fmt.Errorf("start Apache Kafka: %w", err)
	}
	return nil
}

func (c *RealCluster) launch(ctx context.Context) error {
	log, err := os.OpenFile(c.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("java", slices.Concat(c.jvm, []string{
		"-Dlog4j2.configurationFile=" + filepath.Join(c.dir, "log4j2.properties"),
		"-cp", c.classPath(), "kafka.Kafka", filepath.Join(c.dir, "server.properties"),
	})...)
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = log, log
	if c.server, err = process.Start(cmd); err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(c.dir, "pid"), []byte(strconv.Itoa(c.server.PID())), 0o644)
	if err == nil {
		err = c.awaitReady(ctx)
	}
	if err != nil {
		return errors.Join(err, c.server.Kill())
	}
	return nil
}

// awaitReady waits until the metadata names the broker: the controller has then unfenced it.
func (c *RealCluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, realStartTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer client.Close()
	err = process.Poll(ctx, func() (bool, error) {
		if !c.server.Alive() {
			return false, fmt.Errorf("it ended; its log ends with:\n%s", process.LastLines(c.Log()))
		}
		request := kmsg.NewPtrMetadataRequest()
		request.Topics = []kmsg.MetadataRequestTopic{} // none
		response, err := request.RequestWith(ctx, client)
		return err == nil && len(response.Brokers) == 1, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the broker on port %d: %w", c.port, err)
	}
	return nil
}

// Stop ends the broker with SIGTERM. One that does not end within a minute is killed, and that is an error.
func (c *RealCluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop()
}

func (c *RealCluster) stop() error {
	if c.server == nil {
		return nil
	}
	if err := c.server.Stop(syscall.SIGTERM, realStopTimeout); err != nil {
		return fmt.Errorf("stop Apache Kafka: %w", err)
	}
	return nil
}

// Kill ends the broker with SIGKILL.
func (c *RealCluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kill()
}

func (c *RealCluster) kill() error {
	if c.server == nil {
		return nil
	}
	if err := c.server.Kill(); err != nil {
		return fmt.Errorf("kill Apache Kafka: %w", err)
	}
	return nil
}

// Pause stops the broker's process (SIGSTOP): connections stay open and nothing answers.
func (c *RealCluster) Pause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.Pause()
}

// Resume undoes Pause.
func (c *RealCluster) Resume() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.Resume()
}

// Remove kills the broker, if it runs, and removes its data. The cluster cannot be used any more.
func (c *RealCluster) Remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return nil
	}
	if err := c.kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove Apache Kafka: %w", err)
	}
	c.removed = true
	c.release()
	return nil
}
