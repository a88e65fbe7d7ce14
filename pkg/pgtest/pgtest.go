// Package pgtest runs real Postgres servers, versions 14 to 18, for tests and for the demo.
//
// A [Cluster] is one server with its data directory, made for logical replication. It can be stopped, killed,
// paused and started again on the same port, which is what tests of a pipeline need most. The programs come from
// the embedded-postgres project (https://github.com/fergusstrange/embedded-postgres), which only fetches them here:
// it cannot run a server as root, nor kill one.
//
// Postgres refuses to run as root. When we are root it runs as an unprivileged user (uid 65534, "nobody" on most
// systems), who must be able to reach its directories.
package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// DefaultMajor is the version that [Start] uses when none is asked for.
const DefaultMajor = 17

const (
	startTimeout = 3 * time.Minute
	stopTimeout  = 30 * time.Second
)

// ErrInUse says that the cluster of Options.Dir is run by another process that still lives.
var ErrInUse = process.ErrLocked

// Options says what cluster to start. The zero value is good for tests.
type Options struct {
	// Major is the version, 14 to 18; 0 is DefaultMajor.
	Major int
	// Dir keeps the cluster: its data, log and lock. It is made if needed and outlives the process, and so does a
	// server in it that nobody stopped: the next Start adopts it. As root, it must be below directories that everybody
	// may enter. "" is a temporary directory: server and directory go with the process, even when it is killed.
	Dir string
	// Programs is the directory of an installation of the same major version, whose server is run for its extensions, see
	// Installed; "" runs the embedded one.
	Programs string
	// Port on 127.0.0.1; 0 takes a free one. It stays the same over Restart.
	Port int
	// User is the superuser, "postgres" if empty. With a Password every connection must give one (SCRAM); without,
	// every local one is trusted.
	User, Password string
	// TLS, where not nil, makes it a server as one in production: every role but User has to come over TLS, with its
	// password (SCRAM). It goes with a Password.
	TLS *TLS
	// Settings for postgresql.conf, over the defaults (see defaults). ALTER SYSTEM wins over them.
	Settings map[string]string
}

// TLS is a server's certificate and key, and the authority that clients' certificates have to be of ("": none is asked
// for), as PEM files.
type TLS struct{ Cert, Key, ClientCA string }

// defaults suits tests: logical replication, small, quick, and nothing outside of the cluster's directory.
var defaults = map[string]string{
	"wal_level":              "logical",
	"max_wal_senders":        "20",
	"max_replication_slots":  "20",
	"max_connections":        "200",
	"track_commit_timestamp": "on",
	"shared_buffers":         "16MB",
	"max_wal_size":           "256MB",
	"jit":                    "off",
	// A crash of the machine may cost the data; one of the server does not. Set it to on where that matters.
	"fsync":                   "off",
	"full_page_writes":        "off",
	"listen_addresses":        "127.0.0.1",
	"unix_socket_directories": "",
	// In files of the data directory: /dev/shm is small in containers, and a killed server leaves its part there.
	"dynamic_shared_memory_type": "mmap",
	"logging_collector":          "off",
	"log_line_prefix":            "%m [%p] %a ",
	"timezone":                   "UTC",
	"log_timezone":               "UTC",
}

// Cluster is a Postgres server and its data. Its methods are safe for concurrent use, one after the other.
type Cluster struct {
	opts     Options
	binaries string
	dir      string
	port     int

	mu      sync.Mutex
	server  *process.Server // nil: never started
	release func()          // gives up what keeps others from dir and guards it
	removed bool
}

// Start starts a cluster, or adopts the one that still runs in opts.Dir (its settings stay as they are). It returns
// when the server takes connections. The first use of a version downloads it into the cache: TRIBUTARY_CACHE, or
// the user's cache directory.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Major == 0 {
		opts.Major = DefaultMajor
	}
	if opts.User == "" {
		opts.User = "postgres"
	}
	c := &Cluster{opts: opts}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("start Postgres %d: %w", opts.Major, err)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if c.binaries, err = binaries(ctx, c.opts.Major); err != nil {
		return err
	}
	if err := c.openDir(); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if c.opts.Dir == "" {
			err = errors.Join(err, c.Remove())
		} else {
			c.release()
		}
	}()
	if _, err := os.Stat(c.DataDir()); errors.Is(err, os.ErrNotExist) {
		if err := c.initDataDir(ctx); err != nil {
			return err
		}
	}
	if err := c.checkVersion(); err != nil {
		return err
	}
	if c.adopt() {
		if c.opts.Port == 0 || c.opts.Port == c.port {
			return c.awaitReady(ctx)
		}
		if err := c.Stop(); err != nil {
			return err
		}
	}
	return c.launch(ctx)
}

// openDir makes the cluster's directory ours.
func (c *Cluster) openDir() error {
	if c.opts.Dir == "" {
		dir, err := os.MkdirTemp("", "tributary-postgres-")
		if err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		c.dir = dir
		c.release, err = process.Guard(removeOrphan, dir)
		if err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
	} else {
		dir, err := filepath.Abs(c.opts.Dir)
		if err != nil {
			return fmt.Errorf("find directory: %w", err)
		}
		c.dir = dir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if c.release, err = process.TryLock(filepath.Join(dir, "lock")); err != nil {
			return fmt.Errorf("directory %q: %w", dir, err)
		}
	}
	if err := reachable(c.dir); err != nil {
		c.release()
		return err
	}
	return nil
}

// removeOrphan is run by the guard: immediate shutdown, then removal. SIGCONT is for a paused postmaster.
const removeOrphan = `
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && {
	kill -QUIT "$pid"; kill -CONT "$pid"
	n=0; while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
}
rm -rf "$1"`

// launch starts the server on the cluster's data. Where the port is ours to choose, another process may take it
// between the choice and the server's bind: then the next one is tried.
func (c *Cluster) launch(ctx context.Context) error {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		if c.opts.Port != 0 {
			c.port = c.opts.Port
		} else if c.port == 0 {
			port, err := process.FreePort()
			if err != nil {
				return err
			}
			c.port = port
		}
		err := c.launchOn(ctx)
		if err == nil || c.opts.Port != 0 || !errors.Is(err, errPortTaken) || attempt == attempts {
			return err
		}
		c.port = 0
	}
}

var errPortTaken = errors.New("port is taken")

func (c *Cluster) launchOn(ctx context.Context) error {
	if err := c.writeConfig(); err != nil {
		return err
	}
	log, err := os.OpenFile(c.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := command(filepath.Join(cmp.Or(c.opts.Programs, c.binaries), "bin", "postgres"), "-D", c.DataDir())
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = log, log
	if c.server, err = process.Start(cmd); err != nil {
		return err
	}
	if err := c.awaitReady(ctx); err != nil {
		return errors.Join(err, c.server.Kill())
	}
	return nil
}

// awaitReady reads the server's own word from postmaster.pid, as pg_ctl does.
func (c *Cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := process.Poll(ctx, func() (bool, error) {
		if !c.server.Alive() {
			return false, c.diedAtStart()
		}
		f, ok := readPIDFile(c.DataDir())
		return ok && f.pid == c.server.PID() && f.ready, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the server on port %d: %w", c.port, err)
	}
	return nil
}

func (c *Cluster) diedAtStart() error {
	log := process.LastLines(c.Log())
	if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))); err != nil {
		return fmt.Errorf("%w; its log ends with:\n%s", errPortTaken, log)
	} else if err := l.Close(); err != nil {
		return err
	}
	return fmt.Errorf("it ended; its log ends with:\n%s", log)
}

// writeConfig writes postgresql.conf anew. Settings go there rather than on the command line because the command
// line would win over ALTER SYSTEM.
func (c *Cluster) writeConfig() error {
	settings := maps.Clone(defaults)
	if c.opts.TLS != nil {
		tls, err := c.installTLS(*c.opts.TLS)
		if err != nil {
			return err
		}
		maps.Copy(settings, tls)
	}
	maps.Copy(settings, c.opts.Settings)
	settings["port"] = strconv.Itoa(c.port)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	if err := os.WriteFile(filepath.Join(c.DataDir(), "postgresql.conf"), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write postgresql.conf: %w", err)
	}
	return nil
}

// SetTLS gives the server another certificate, for connections from then on: soon, the server reads it in its own time.
// Options.TLS must have been set.
func (c *Cluster) SetTLS(tls TLS) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.TLS = &tls
	if err := c.writeConfig(); err != nil {
		return err
	}
	if err := c.server.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload Postgres: %w", err)
	}
	return nil
}

// DSN gives the connection string of the superuser for a database.
func (c *Cluster) DSN(database string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.User(c.opts.User),
		Host:   net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path:   "/" + database,
		// A server without certificate answers sslmode=prefer with one more round trip.
		RawQuery: "sslmode=disable",
	}
	if c.opts.Password != "" {
		u.User = url.UserPassword(c.opts.User, c.opts.Password)
	}
	return u.String()
}

// Port gives the port on 127.0.0.1.
func (c *Cluster) Port() int { return c.port }

// PID gives the process id of the postmaster, 0 while the server does not run.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil || !c.server.Alive() {
		return 0
	}
	return c.server.PID()
}

// Major gives the server's version, 14 to 18.
func (c *Cluster) Major() int { return c.opts.Major }

// DataDir gives the server's data directory; as root, it belongs to the user that the server runs as.
func (c *Cluster) DataDir() string { return filepath.Join(c.dir, "data") }

// Log gives the path of the server's log.
func (c *Cluster) Log() string { return filepath.Join(c.dir, "postgres.log") }

// CreateDatabase creates an empty database, with options of CREATE DATABASE.
func (c *Cluster) CreateDatabase(ctx context.Context, name string, options ...string) error {
	conn, err := pgx.Connect(ctx, c.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("create database %q: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// template0 has no connections, so that databases can be created side by side.
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0 "+strings.Join(options, " ")); err != nil {
		return fmt.Errorf("create database %q: %w", name, err)
	}
	return nil
}

// Stop shuts the server down in the fast way: transactions are rolled back, data is flushed, and every walsender
// sends its client all there is. A server that does not end within 30 s (a walsender whose client does not read) is killed and
// that is an error. Stopping a stopped server is none.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop()
}

func (c *Cluster) stop() error {
	if c.server == nil {
		return nil
	}
	// Also where somebody else has ended it: as a zombie it would keep a server of the next process from its data.
	if err := c.server.Stop(syscall.SIGINT, stopTimeout); err != nil {
		return fmt.Errorf("stop Postgres: %w", err)
	}
	return nil
}

// Kill ends the server and all its backends with SIGKILL, as a crash would.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kill()
}

func (c *Cluster) kill() error {
	if c.server == nil {
		return nil
	}
	if err := c.server.Kill(); err != nil {
		return fmt.Errorf("kill Postgres: %w", err)
	}
	return nil
}

// Restart starts the server again on the same data and port, stopping it first if it runs. It returns when the
// server takes connections, crash recovery included.
func (c *Cluster) Restart(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stop(); err != nil {
		return err
	}
	if err := c.launchOn(ctx); err != nil {
		return fmt.Errorf("restart Postgres: %w", err)
	}
	return nil
}

// Pause stops every process of the server (SIGSTOP): connections stay open and nothing answers.
func (c *Cluster) Pause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.server.Pause(); err != nil {
		return fmt.Errorf("pause Postgres: %w", err)
	}
	return nil
}

// Resume undoes Pause.
func (c *Cluster) Resume() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.server.Resume(); err != nil {
		return fmt.Errorf("resume Postgres: %w", err)
	}
	return nil
}

// Remove kills the server, if it runs, and removes the cluster's directory. The cluster cannot be used any more.
func (c *Cluster) Remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return nil
	}
	if err := c.kill(); err != nil {
		return err
	}
	if err := c.removeSharedMemory(); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove Postgres: %w", err)
	}
	c.removed = true
	c.release()
	return nil
}
