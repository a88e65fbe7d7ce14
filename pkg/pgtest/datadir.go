package pgtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
	"golang.org/x/sys/unix"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// unprivileged is the user and group as which Postgres runs when we are root.
const unprivileged = 65534

func isRoot() bool { return os.Geteuid() == 0 }

// serverUID is the owner of data directories.
func serverUID() int {
	if isRoot() {
		return unprivileged
	}
	return os.Geteuid()
}

// command is exec.Command as the user that Postgres may run as. It has the environment of no user: PGDATA, PGPORT
// and the like would be read.
func command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	if isRoot() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged}}
	}
	return cmd
}

// reachable makes sure that the unprivileged user can enter dir, which is ours, and its parents, which are not.
func reachable(dir string) error {
	if !isRoot() {
		return nil
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("open directory to uid %d: %w", unprivileged, err)
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return fmt.Errorf("look at directory: %w", err)
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("directory %q is closed to uid %d, as which Postgres runs for root, by the mode of %q: "+
				"choose another one (TMPDIR and TRIBUTARY_CACHE move the defaults)", dir, unprivileged, parent)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

var versions = map[int]embeddedpostgres.PostgresVersion{
	14: embeddedpostgres.V14,
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

// binaries gives the directory of a version's programs.
func binaries(ctx context.Context, major int) (string, error) {
	version, ok := versions[major]
	if !ok {
		return "", fmt.Errorf("no Postgres %d here, only 14 to 18", major)
	}
	dir, err := process.Cached(ctx, filepath.Join("postgres", string(version)), func(ctx context.Context, dir string) error {
		return process.Fetch(ctx, func() error { return fetch(version, dir) })
	})
	if err != nil {
		return "", err
	}
	return dir, reachable(dir)
}

// fetch has the library download and unpack a version, and nothing more: its data path lies below a file, so that
// what it does next, preparing the data directory, fails whoever we are. Success is seen by the programs, not by
// the library's answer.
func fetch(version embeddedpostgres.PostgresVersion, dir string) error {
	work, err := os.MkdirTemp("", "tributary-download-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(work)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil { // what is half unpacked counts as there
		return fmt.Errorf("prepare download: %w", err)
	}
	blocker := filepath.Join(work, "file")
	if err := os.WriteFile(blocker, nil, 0o600); err != nil {
		return fmt.Errorf("prepare download: %w", err)
	}
	err = embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		Port(0).
		CachePath(filepath.Join(work, "cache")).
		RuntimePath(filepath.Join(work, "run")).
		BinariesPath(dir).
		DataPath(filepath.Join(blocker, "data")).
		Logger(io.Discard)).
		Start()
	http.DefaultClient.CloseIdleConnections() // the library's; they are goroutines
	if _, missing := os.Stat(filepath.Join(dir, "bin", "postgres")); missing != nil {
		return fmt.Errorf("download Postgres %s: %w", version, errors.Join(err, missing))
	}
	return makeReadable(dir)
}

// makeReadable undoes the effect of a strict umask: the server's user is not the one who unpacked.
func makeReadable(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// initDataDir makes the data directory from a template: initdb takes a second or two, a copy a tenth of it. It is
// made under another name and then renamed, so that a half-made one is never started.
func (c *Cluster) initDataDir(ctx context.Context) error {
	version := string(versions[c.opts.Major])
	name := filepath.Join("postgres-data", fmt.Sprintf("%s-uid%d", version, serverUID()))
	template, err := process.Cached(ctx, name, func(_ context.Context, dir string) error {
		return c.initdb(dir)
	})
	if err != nil {
		return err
	}
	making := filepath.Join(c.dir, "data.new")
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("remove half-made data directory: %w", err)
	}
	if err := copyDir(filepath.Join(template, "data"), making); err != nil {
		return fmt.Errorf("copy data directory: %w", err)
	}
	if err := giveSystemID(making); err != nil {
		return err
	}
	if c.opts.User != "postgres" || c.opts.Password != "" {
		if err := c.setSuperuser(making); err != nil {
			return err
		}
	}
	if err := os.Rename(making, c.DataDir()); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	return nil
}

func (c *Cluster) initdb(dir string) error {
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Chown(data, serverUID(), -1); err != nil {
		return fmt.Errorf("give data directory to uid %d: %w", serverUID(), err)
	}
	cmd := command(filepath.Join(c.binaries, "bin", "initdb"), "-D", data,
		"-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust", "--no-sync")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w:\n%s", err, out)
	}
	return nil
}

// setSuperuser names the superuser in single-user mode, before anybody can connect.
func (c *Cluster) setSuperuser(data string) error {
	var sql strings.Builder
	user := `"` + strings.ReplaceAll(c.opts.User, `"`, `""`) + `"`
	if c.opts.User != "postgres" {
		fmt.Fprintf(&sql, "CREATE ROLE %s SUPERUSER LOGIN REPLICATION CREATEROLE CREATEDB BYPASSRLS;\n", user)
	}
	if c.opts.Password != "" {
		fmt.Fprintf(&sql, "ALTER ROLE %s PASSWORD '%s';\n", user, strings.ReplaceAll(c.opts.Password, "'", "''"))
		hba := "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
		if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
			return fmt.Errorf("write pg_hba.conf: %w", err)
		}
	}
	cmd := command(filepath.Join(c.binaries, "bin", "postgres"), "--single", "-D", data,
		"-c", "exit_on_error=on", "-c", "fsync=off", "-c", "dynamic_shared_memory_type=mmap", "postgres")
	cmd.Dir = c.dir
	cmd.Stdin = strings.NewReader(sql.String())
	if err := cmd.Run(); err != nil { // not its output: that may repeat the statement with the password
		return fmt.Errorf("set up superuser %s: %w", user, err)
	}
	return nil
}

// installTLS copies the files to where the server may read them, writes who has to come how, and gives the settings. The
// superuser comes with and without TLS.
func (c *Cluster) installTLS(tls TLS) (map[string]string, error) {
	settings := map[string]string{"ssl": "on"}
	for name, file := range map[string]string{"ssl_cert_file": tls.Cert, "ssl_key_file": tls.Key, "ssl_ca_file": tls.ClientCA} {
		settings[name] = ""
		if file == "" {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("install certificate: %w", err)
		}
		settings[name] = name + ".pem" // in the data directory
		target := filepath.Join(c.DataDir(), settings[name])
		if err := os.WriteFile(target, content, 0o600); err != nil {
			return nil, fmt.Errorf("install certificate: %w", err)
		}
		if err := os.Chown(target, serverUID(), -1); err != nil {
			return nil, fmt.Errorf("install certificate: %w", err)
		}
	}
	wanted := ""
	if tls.ClientCA != "" {
		wanted = " clientcert=verify-full"
	}
	user := `"` + strings.ReplaceAll(c.opts.User, `"`, `""`) + `"`
	hba := "host all " + user + " 127.0.0.1/32 scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256" + wanted + "\n"
	if err := os.WriteFile(filepath.Join(c.DataDir(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return nil, fmt.Errorf("write pg_hba.conf: %w", err)
	}
	return settings, nil
}

// copyDir copies a data directory, with its owner and modes. Links (tablespaces) are not in a fresh one.
func copyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			err = os.Mkdir(target, info.Mode().Perm())
		} else {
			err = copyFile(path, target, info.Mode().Perm())
		}
		if err == nil && isRoot() {
			err = os.Chown(target, unprivileged, unprivileged)
		}
		return err
	})
}

func copyFile(from, to string, mode fs.FileMode) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	_, err = io.Copy(dst, src)
	return err
}

// giveSystemID gives a copied data directory a system identifier of its own, made of time and chance as initdb
// makes it: clusters with one identifier would look to us like one source. It stands in pg_control, whose checksum
// covers it, and in the first page of each WAL segment (xlp_sysid of XLogLongPageHeaderData).
func giveSystemID(data string) error {
	id := uint64(time.Now().Unix())<<32 | uint64(rand.Uint32())

	control := filepath.Join(data, "global", "pg_control")
	b, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("give a system identifier: %w", err)
	}
	at, ok := checksumOffset(b)
	if !ok {
		return fmt.Errorf("give a system identifier: no checksum found in pg_control of %d bytes", len(b))
	}
	binary.NativeEndian.PutUint64(b, id)
	binary.NativeEndian.PutUint32(b[at:], crc32.Checksum(b[:at], castagnoli))
	if err := os.WriteFile(control, b, 0o600); err != nil {
		return fmt.Errorf("give a system identifier: %w", err)
	}

	segments, err := filepath.Glob(filepath.Join(data, "pg_wal", strings.Repeat("?", 24)))
	if err != nil {
		return fmt.Errorf("give a system identifier: %w", err)
	}
	for _, segment := range segments {
		if err := overwrite(segment, 24, binary.NativeEndian.AppendUint64(nil, id)); err != nil {
			return fmt.Errorf("give a system identifier: %w", err)
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumOffset finds pg_control's checksum: the last field of a structure whose size differs between versions,
// over all that stands before it.
func checksumOffset(control []byte) (int, bool) {
	for at := 64; at+4 <= len(control) && at < 1024; at += 4 {
		if crc32.Checksum(control[:at], castagnoli) == binary.NativeEndian.Uint32(control[at:]) {
			return at, true
		}
	}
	return 0, false
}

func overwrite(path string, offset int64, b []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteAt(b, offset)
	return err
}

// checkVersion refuses data of another version, with a better word than the server's.
func (c *Cluster) checkVersion() error {
	b, err := os.ReadFile(filepath.Join(c.DataDir(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("look at data directory: %w", err)
	}
	if have := strings.TrimSpace(string(b)); have != strconv.Itoa(c.opts.Major) {
		return fmt.Errorf("directory %q holds data of Postgres %s", c.dir, have)
	}
	return nil
}

// adopt takes over the server that runs on the data directory, if one does.
func (c *Cluster) adopt() bool {
	f, ok := readPIDFile(c.DataDir())
	if !ok || f.port == 0 {
		return false
	}
	server := process.Adopt(f.pid)
	// The file stays behind after a crash, and another process may have the number now. The server works in its
	// data directory.
	data, err := filepath.EvalSymlinks(c.DataDir())
	if err != nil || !server.Alive() || process.WorkingDir(f.pid) != data {
		return false
	}
	c.server, c.port = server, f.port
	return true
}

// pidFile is what postmaster.pid says (src/include/utils/pidfile.h).
type pidFile struct {
	pid         int
	port        int
	sharedMemID int // System V shared memory segment, -1 if there is none
	ready       bool
}

func readPIDFile(data string) (f pidFile, ok bool) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}, false
	}
	// 0 pid, 1 data directory, 2 start time, 3 port, 4 socket directory, 5 address, 6 "key id" of shared memory, 7 status
	lines := strings.Split(string(b), "\n")
	number := func(i int, field int) int {
		if i >= len(lines) {
			return 0
		}
		fields := strings.Fields(lines[i])
		if field >= len(fields) {
			return 0
		}
		n, _ := strconv.Atoi(fields[field])
		return n
	}
	f = pidFile{pid: number(0, 0), port: number(3, 0), sharedMemID: -1}
	if len(lines) > 6 && len(strings.Fields(lines[6])) == 2 {
		f.sharedMemID = number(6, 1)
	}
	f.ready = len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready"
	return f, f.pid > 0
}

// removeSharedMemory removes the small segment that marks a data directory as used. The server does so when it
// stops, and when it starts again after a crash, but one that is killed and never started leaves it for ever.
func (c *Cluster) removeSharedMemory() error {
	f, ok := readPIDFile(c.DataDir())
	if !ok || f.sharedMemID < 0 {
		return nil
	}
	_, err := unix.SysvShmCtl(f.sharedMemID, unix.IPC_RMID, nil)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIDRM) {
		return fmt.Errorf("remove shared memory segment: %w", err)
	}
	return nil
}
