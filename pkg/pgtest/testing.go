package pgtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// New starts a cluster for one test and removes it with the test.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Postgres %d on port %d: its log ends with:\n%s", c.Major(), c.Port(), process.LastLines(c.Log()))
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Patience is how long a test waits for what is to come. A busy machine takes its time, and only a test that fails waits so
// long.
const Patience = 90 * time.Second

var (
	sharedMu sync.Mutex
	shared   = map[int]*Cluster{}
)

// Shared gives the cluster of a version (0 is DefaultMajor) that all tests of this process use; it goes with the
// process. A test creates a database of its own in it, see Database, and must not stop it. Slots and roles are the
// cluster's: name them after the database and remove them.
func Shared(t testing.TB, major int) *Cluster {
	t.Helper()
	if major == 0 {
		major = DefaultMajor
	}
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if c, ok := shared[major]; ok {
		return c
	}
	// Not the test's context: the cluster outlives the test.
	c, err := Start(context.WithoutCancel(t.Context()), Options{Major: major, Settings: map[string]string{
		"max_wal_senders":       "60",
		"max_replication_slots": "100",
		"max_connections":       "400",
	}})
	if err != nil {
		t.Fatal(err)
	}
	shared[major] = c
	return c
}

var databases atomic.Int64

// InWords has texts of a database in the order of a dictionary, where _ comes before letters and A behind a, not in that of their bytes. Postgres 14 has no
// such databases without locales of the machine.
const InWords = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"

// Database creates an empty database with a name of its own and gives its DSN. It is not dropped with the test:
// what a failed test left behind (connections, slots) must not make it fail twice. options are those of CREATE DATABASE.
func Database(t testing.TB, c *Cluster, options ...string) (dsn string) {
	t.Helper()
	name := fmt.Sprintf("test_%d_%d", databases.Add(1), os.Getpid())
	if err := c.CreateDatabase(t.Context(), name, options...); err != nil {
		t.Fatal(err)
	}
	return c.DSN(name)
}

// Majors gives the versions to test: TRIBUTARY_PG ("14,18" or "all"), DefaultMajor if it is not set.
func Majors(t testing.TB) []int {
	t.Helper()
	majors, err := parseMajors(os.Getenv("TRIBUTARY_PG"))
	if err != nil {
		t.Fatal(err)
	}
	return majors
}

func parseMajors(s string) ([]int, error) {
	all := []int{14, 15, 16, 17, 18}
	switch s {
	case "":
		return []int{DefaultMajor}, nil
	case "all":
		return all, nil
	}
	var majors []int
	for word := range strings.SplitSeq(s, ",") {
		major, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || !slices.Contains(all, major) {
			return nil, fmt.Errorf("TRIBUTARY_PG: %q is not one of 14 to 18, nor \"all\"", word)
		}
		majors = append(majors, major)
	}
	return majors, nil
}

// Installed finds the newest Postgres on this machine, where Debian's packages put it, that has an extension the embedded
// ones lack. Its directory is for Options.Programs.
func Installed(extension string) (major int, dir string, ok bool) {
	for major := 18; major >= 14; major-- {
		dir := fmt.Sprintf("/usr/lib/postgresql/%d", major)
		_, noServer := os.Stat(dir + "/bin/postgres")
		_, noExtension := os.Stat(fmt.Sprintf("/usr/share/postgresql/%d/extension/%s.control", major, extension))
		if noServer == nil && noExtension == nil {
			return major, dir, true
		}
	}
	return 0, "", false
}

// FreeAddress gives an address of this machine at which nobody listens, and that no other test or demo is given, for what has to be known
// before it is started.
func FreeAddress() (string, error) { return process.FreeAddress() }

// TempDir gives a directory for Options.Dir that is removed with the test. Unlike t.TempDir's it can be reached by
// the user that Postgres runs as when we are root.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tributary-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
