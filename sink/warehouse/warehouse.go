// Package warehouse writes to the target database. Rows, checkpoints and everything that the sink says of itself are
// written in one transaction, which begins by advancing the checkpoints with a compare-and-set: a late owner of a
// partition, a process that was paused, a second cluster under the same group name hit no row and write nothing. That
// is what makes delivery exactly-once; see Session.Apply.
//
// The package owns the schema "tributary" of the warehouse, the target tables as far as rules let it create and extend
// them, and all SQL of the sink. What is to be written is decided by the packages rule and batch.
package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Config says which warehouse, and who we are.
type Config struct {
	DSN      func() (string, error) // asked for each connection, so that a password can be changed while running
	Group    string
	Instance string // names this process in checkpoints
	Log      *slog.Logger
	Altered  func() // told of each statement that changes a target; nil: nobody wants to know
}

// Warehouse is one target database as seen by one group. It is safe for concurrent use.
type Warehouse struct {
	cfg Config

	letIn atomic.Bool // it was connected to

	mu      sync.Mutex
	targets map[any]*Target // by *rule.Plan
	again   int             // how often lookAgain was called
}

// New makes a Warehouse. It does no I/O.
func New(cfg Config) *Warehouse {
	return &Warehouse{cfg: cfg, targets: map[any]*Target{}}
}

// application is what the sink's connections call themselves; claim finds blocking backends by it.
func (w *Warehouse) application() string { return "tributary sink " + w.cfg.Group }

// maxApplicationName is what Postgres keeps of an application_name (NAMEDATALEN - 1).
const maxApplicationName = 63

// connect opens a connection for set-based writes: the planner must reach target rows through the key's index
// whatever it believes of temporary tables and arrays, whose size it does not know; compiling (jit) never pays. So there
// is one plan for each statement, and no reason to plan again: left to itself, Postgres takes a new one each time for
// arrays that are shorter than it assumes, and to plan what sameFormSQL compares takes four times as long as to do it.
func (w *Warehouse) connect(ctx context.Context) (*pgx.Conn, error) {
	dsn, err := w.cfg.DSN()
	if err != nil {
		return nil, w.unusable(&trouble.Error{Code: trouble.Config, Op: "read", Subject: "warehouse.dsn", Cause: err, Means: "nothing was attempted", Hint: "env:NAME is a variable of the environment of this process, file:/path a file that it may read"})
	}
	name := w.application()
	conn, err := postgres.Connect(ctx, dsn, name[:min(len(name), maxApplicationName)], func(c *pgx.ConnConfig) {
		for _, setting := range []string{"enable_hashjoin", "enable_mergejoin", "enable_seqscan", "jit"} {
			c.RuntimeParams[setting] = "off"
		}
		c.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
		// What was committed while a statement waited for a lock is seen by the next one, whatever the database's default is.
		c.RuntimeParams["default_transaction_isolation"] = "read committed"
		// A statement is one round trip, the first time as well; those that come again and again are prepared: see Session.run.
		c.DefaultQueryExecMode = pgx.QueryExecModeExec
	})
	if err != nil {
		return nil, w.troubled("connect to warehouse", postgres.Redact(dsn), postgres.Unnamed(err))
	}
	w.letIn.Store(true)
	return conn, nil
}

// unusable has the trouble of a connection string that cannot be had or used be one of a login, where it was good before: it, or a file
// that it names, is being replaced. A configuration that is wrong ends a sink, and what starts services does not start it again.
func (w *Warehouse) unusable(t *trouble.Error) *trouble.Error {
	if w.letIn.Load() {
		t.Code, t.Means = trouble.WarehouseRights, "nothing is lost: Kafka keeps the changes, and the sink goes on by itself"
		t.Hint = "see to warehouse.dsn, and to the files that it names (sslcert, sslkey, sslrootcert): they are read again for each connection, without a restart"
	}
	return t
}

// with runs do on a connection of its own.
func (w *Warehouse) with(ctx context.Context, do func(conn *pgx.Conn) error) error {
	conn, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	return do(conn)
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // whatever was done on it is committed or lost already
}

// troubled makes the trouble of a failed operation on the warehouse. The cause never holds values of rows.
func (w *Warehouse) troubled(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if t, ok := errors.AsType[*trouble.Error](err); ok {
		return t
	}
	t := &trouble.Error{Op: op, Subject: subject, Cause: postgres.Describe(err)}
	state := postgres.SQLState(err)
	untrusted := retry.TLSHint(t.Cause, retry.TLSKeys{CA: "sslrootcert in warehouse.dsn", Name: "the host in warehouse.dsn", Client: "sslcert and sslkey in warehouse.dsn"})
	switch {
	case errors.Is(err, postgres.ErrConnString):
		t.Code, t.Means, t.Hint = trouble.Config, "nothing was attempted", "mend warehouse.dsn, or what it names as file: or env:"
		return w.unusable(t)
	case untrusted != "":
		t.Code, t.Hint = trouble.WarehouseRights, untrusted
	case state == "":
		t.Code = trouble.WarehouseUnreachable
		t.Means = "nothing is lost: Kafka keeps the changes, and the sink goes on by itself"
		t.Hint = "check host, port and firewall"
	case state == "3D000":
		t.Code = trouble.WarehouseRights
		t.Hint = "there is no such database on that server: create it, or mend its name in warehouse.dsn; psql -l lists those that there are"
	case strings.HasPrefix(state, "28"):
		t.Code = trouble.WarehouseRights
		t.Hint = "check user, password (and until when it is valid), database, sslmode, sslcert and pg_hba.conf"
	case state == "42501":
		t.Code = trouble.WarehouseRights
		t.Hint = w.grant(t.Cause.Error())
	case state == "42P01" && strings.Contains(t.Cause.Error(), "tributary."):
		t.Code = trouble.TargetMissing
		t.Cause = fmt.Errorf("no sink has run in this database yet: %w", t.Cause)
		t.Means = "nothing was changed; if one has run, warehouse.dsn names another database"
		t.Hint = "sink check, then sink run: it makes them"
	case state == "25006":
		t.Code = trouble.WarehouseReadOnly
		t.Means = "the warehouse is a standby, or default_transaction_read_only is on"
		t.Hint = "promote it, or point warehouse.dsn to the primary; the sink goes on by itself"
	case lockedOut(err):
		t.Code = trouble.LockWait
		t.Means = "nothing is lost: what waited for the lock is tried again"
		t.Hint = "see who holds it: sink explain lock-wait"
	case state == "53100":
		t.Code = trouble.WarehouseFull
		t.Means = "what needs space is not written; nothing is lost: Kafka keeps the changes"
		t.Hint = "free disk space; the sink goes on by itself"
	case strings.HasPrefix(state, "08"), strings.HasPrefix(state, "57P"), state == "53300", state == "25P04":
		t.Code = trouble.WarehouseUnreachable
		t.Means = "nothing is lost: Kafka keeps the changes, and the sink goes on by itself"
	case strings.HasPrefix(state, "23"):
		t.Code = trouble.ConstraintViolation
		t.Hint = "drop the constraint from the target, or mend its rows; then sink resume SOURCE/TABLE\nor put the row aside: sink resume SOURCE/TABLE --park"
		if failed, ok := errors.AsType[*postgres.Error](t.Cause); ok && state == "23514" && failed.Constraint == "" { // of no CHECK
			t.Hint = "no partition takes the row: CREATE TABLE … PARTITION OF the target DEFAULT; then sink resume SOURCE/TABLE"
		}
	case strings.HasPrefix(state, "22"):
		t.Code = trouble.ValueOutOfRange
		t.Hint = "widen the target's column; then sink resume SOURCE/TABLE\nor put the row aside: sink resume SOURCE/TABLE --park"
		if _, rest, is := strings.Cut(t.Cause.Error(), "invalid input value for enum "); is {
			enum, _, _ := strings.Cut(rest, ": ")
			t.Hint = "ALTER TYPE " + enum + " ADD VALUE the label that the source's type has been given; then sink resume SOURCE/TABLE"
		}
		if strings.Contains(t.Cause.Error(), "malformed record literal") {
			t.Hint = "ALTER TYPE … ADD ATTRIBUTE or DROP ATTRIBUTE, as the source's composite type has been altered, or make the target's column text; then sink resume SOURCE/TABLE"
		}
	case (state == "55000" || state == "0A000") && strings.Contains(t.Cause.Error(), "foreign table"):
		t.Code = trouble.TargetType
		t.Means = "a DELETE or UPDATE goes to all partitions of the target, and what holds the rows of this one does not let them be written; the table is held, nothing is lost"
		t.Hint = "let it be written (updatable of a server of postgres_fdw), or ALTER TABLE the target DETACH PARTITION it; then sink resume SOURCE/TABLE"
	case strings.HasPrefix(state, "42804"), state == "42846":
		t.Code = trouble.TargetType
	default:
		t.Code = trouble.Internal
	}
	return t
}

// resumed is how hints end of what holds a table.
var resumed = regexp.MustCompile(`^then sink resume SOURCE/TABLE(; )?|[;,] then sink resume SOURCE/TABLE`)

// WithoutResume gives of a hint what is to be done, and not how a table that is held goes on, where none is.
func WithoutResume(hint string) string {
	var lines []string
	for line := range strings.SplitSeq(hint, "\n") {
		if line = resumed.ReplaceAllString(line, ""); line != "" && !strings.Contains(line, "SOURCE/TABLE") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// refusal is what Postgres says of a right that is missing, where it speaks English.
var refusal = regexp.MustCompile(`^(permission denied for|must be owner of) (database|schema|table|relation) (.+) \(SQLSTATE `)

// grant says how the right is given that a statement lacked.
func (w *Warehouse) grant(cause string) string {
	role := "the role of sink"
	if dsn, err := w.cfg.DSN(); err == nil {
		if c, err := pgx.ParseConfig(dsn); err == nil {
			role = postgres.Ident(c.User)
		}
	}
	said := refusal.FindStringSubmatch(cause)
	if said != nil && said[2] == "schema" && said[3] == "tributary" {
		return "log in as the role that sink runs as: the schema is its own (docs/security.md)"
	}
	return given(said, role) + "\nthen sink resume SOURCE/TABLE"
}

// given says how to give a role the right that was refused.
func given(said []string, role string) string {
	switch {
	case said == nil:
		return "grant what the cause names (docs/security.md)"
	case said[1] == "must be owner of":
		return fmt.Sprintf("sink did not make it: ALTER %s … OWNER TO %s; or create: false, where the rule is not to change it", strings.ToUpper(strings.Replace(said[2], "relation", "table", 1)), role)
	case said[2] == "database":
		return fmt.Sprintf("a schema is missing: GRANT CREATE ON DATABASE %s TO %s;", postgres.Ident(said[3]), role)
	case said[2] == "schema":
		return fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s;\nor say in to of the rule a schema of its own, which sink makes", postgres.Ident(said[3]), role)
	}
	return fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON … TO %s;", role)
}

// forget drops what is known of targets, so that they are looked at again.
func (w *Warehouse) forget() {
	w.mu.Lock()
	clear(w.targets)
	w.mu.Unlock()
}

// forgetTarget drops what is known of one target, by all plans: it changes. A record of the version before may follow, from
// another partition, and its columns may have other names by then.
func (w *Warehouse) forgetTarget(target rule.Target) {
	w.mu.Lock()
	maps.DeleteFunc(w.targets, func(plan any, _ *Target) bool { return plan.(*rule.Plan).Target == target })
	w.mu.Unlock()
}

// lookAgain is forgetTarget of targets for something that no flush compares. Nor is remembered what a Prepare under way finds, which may have looked before.
func (w *Warehouse) lookAgain(targets []rule.Target) {
	if len(targets) == 0 {
		return
	}
	w.mu.Lock()
	w.again++
	w.mu.Unlock()
	for _, target := range targets {
		w.forgetTarget(target)
	}
}

// partitionName names a partition for people.
func partitionName(topic string, partition int32) string {
	return fmt.Sprintf("topic %q partition %d", topic, partition)
}
