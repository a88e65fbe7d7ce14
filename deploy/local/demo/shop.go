package demo

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
)

//go:embed shop.sql
var shopSQL string

// shop is one source: a database of its own.
type shop struct {
	name string  // of the database and of the source
	sid  string  // value of the column sid in the warehouse
	seed float64 // of what is in it at first
	dsn  string
}

func shops() []shop {
	return []shop{{name: "rental_eu", sid: "eu", seed: 0.25}, {name: "rental_us", sid: "us", seed: 0.75}}
}

const (
	warehouseDatabase = "dwh"
	targetSchema      = "sales"
	application       = "tributary demo"
)

// table is one of a shop's tables.
type table struct {
	name    string
	columns []string
}

// clusters are the two servers.
type clusters struct {
	source, warehouse *pgtest.Cluster
}

// start starts the servers, or takes over those that a killed demo left running.
func (c *clusters) start(ctx context.Context, dir string) error {
	group := service.NewGroup(ctx)
	for name, cluster := range map[string]**pgtest.Cluster{"source": &c.source, "warehouse": &c.warehouse} {
		group.Go(name, func(ctx context.Context) (err error) {
			*cluster, err = pgtest.Start(ctx, pgtest.Options{Dir: filepath.Join(dir, name), User: "demo"})
			return err
		})
	}
	err := group.Wait()
	if errors.Is(err, pgtest.ErrInUse) {
		err = fmt.Errorf("%w\nthe demo runs already, in another terminal: end it there, or give this one a directory of its own: make demo DEMO_DIR=…", err)
	}
	return errors.Join(err, ctx.Err())
}

func (c *clusters) stop() error {
	var errs []error
	for _, cluster := range []*pgtest.Cluster{c.source, c.warehouse} {
		if cluster != nil {
			errs = append(errs, cluster.Stop())
		}
	}
	return errors.Join(errs...)
}

// ensureDatabase creates a database unless it is there.
func ensureDatabase(ctx context.Context, cluster *pgtest.Cluster, name string) error {
	conn, err := postgres.Connect(ctx, cluster.DSN("postgres"), application)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&there); err != nil || there {
		return err
	}
	return cluster.CreateDatabase(ctx, name)
}

// open creates the shop's database and fills it, unless a former demo did. Tables and rows come in one transaction: a
// demo that is killed in it leaves an empty database.
func (s *shop) open(ctx context.Context, cluster *pgtest.Cluster) (rows int64, tables []table, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("prepare database %q: %w", s.name, postgres.Describe(err))
		}
	}()
	s.dsn = cluster.DSN(s.name)
	if err := ensureDatabase(ctx, cluster, s.name); err != nil {
		return 0, nil, err
	}
	conn, err := postgres.Connect(ctx, s.dsn, application)
	if err != nil {
		return 0, nil, err
	}
	defer closeConn(ctx, conn)
	if tables, err = tablesOf(ctx, conn, "public"); err != nil {
		return 0, nil, err
	}
	if len(tables) == 0 {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT setseed($1)`, s.seed); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, shopSQL)
			return err
		})
		if err != nil {
			return 0, nil, err
		}
		// Estimates of the numbers of rows, which autovacuum would make later.
		if _, err := conn.Exec(ctx, `ANALYZE`); err != nil {
			return 0, nil, err
		}
		if tables, err = tablesOf(ctx, conn, "public"); err != nil {
			return 0, nil, err
		}
	}
	counts, err := countRows(ctx, conn, "public", tables)
	for _, n := range counts {
		rows += n
	}
	return rows, tables, err
}

// tablesOf lists the tables of a schema, partitioned ones once.
func tablesOf(ctx context.Context, conn *pgx.Conn, schema string) ([]table, error) {
	rows, err := conn.Query(ctx, `
		SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum)
		  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		 GROUP BY c.relname ORDER BY c.relname`, schema)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.name, &t.columns)
	})
}

// countRows counts the rows of tables, in one snapshot.
func countRows(ctx context.Context, conn *pgx.Conn, schema string, tables []table) (map[string]int64, error) {
	counts := map[string]int64{}
	if len(tables) == 0 {
		return counts, nil
	}
	selects := make([]string, len(tables))
	for i, t := range tables {
		selects[i] = fmt.Sprintf("SELECT %s, count(*) FROM %s", postgres.Literal(t.name), postgres.Ident(schema, t.name))
	}
	rows, err := conn.Query(ctx, strings.Join(selects, " UNION ALL "))
	if err != nil {
		return nil, err
	}
	var name string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { counts[name] = n; return nil })
	return counts, err
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	_ = conn.Close(context.WithoutCancel(ctx)) // the server ends the session either way
}

// addressFile holds the connection strings of a running demo, for Databases.
const addressFile = "databases.json"

func writeAddresses(dir string, addresses map[string]string) error {
	b, err := json.MarshalIndent(addresses, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, addressFile), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the addresses of the databases: %w", err)
	}
	return nil
}

// Database gives the connection string of a database of the demo that runs in dir: "dwh", "rental_eu" or "rental_us";
// "" is "dwh".
func Database(dir, name string) (dsn string, err error) {
	if name == "" {
		name = warehouseDatabase
	}
	b, err := os.ReadFile(filepath.Join(dir, addressFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find database %q: no demo runs in %q; start it with make demo, or give a connection string", name, dir)
	}
	if err != nil {
		return "", fmt.Errorf("find database %q: %w", name, err)
	}
	addresses := map[string]string{}
	if err := json.Unmarshal(b, &addresses); err != nil {
		return "", fmt.Errorf("find database %q: read %s: %w", name, addressFile, err)
	}
	if dsn, ok := addresses[name]; ok {
		return dsn, nil
	}
	return "", fmt.Errorf("find database %q: there are %s", name, strings.Join(slices.Sorted(maps.Keys(addresses)), ", "))
}
