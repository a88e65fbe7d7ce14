// Package docker holds the images and what docker-compose.yml mounts into them. Its test runs configurations, scripts
// and roles as compose does, on embedded servers.
package docker

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/local"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

func TestWhatComposeMounts(t *testing.T) {
	for name, db := range map[string]struct{ database, script, role string }{
		"SOURCE_DSN":    {"shop", "source.sql", "tributary_capture"},
		"WAREHOUSE_DSN": {"dwh", "warehouse.sql", "tributary_sink"},
	} {
		cluster := pgtest.New(t, pgtest.Options{Password: "postgres"})
		must(t, cluster.CreateDatabase(t.Context(), db.database))
		script, err := os.ReadFile(db.script)
		must(t, err)
		conn, err := postgres.Connect(t.Context(), cluster.DSN(db.database), "test")
		must(t, err)
		_, err = conn.Exec(t.Context(), string(script))
		must(t, err)
		must(t, conn.Close(t.Context()))
		// The role and its password as docker-compose.yml says them.
		compose, err := os.ReadFile("../../docker-compose.yml")
		must(t, err)
		_, login, found := strings.Cut(string(compose), name+": postgres://")
		login, _, cut := strings.Cut(login, "@")
		if !found || !cut || !strings.HasPrefix(login, db.role+":") {
			t.Fatalf("docker-compose.yml has no %s with the role %s", name, db.role)
		}
		t.Setenv(name, strings.Replace(cluster.DSN(db.database), "postgres:postgres@", login+"@", 1))
	}
	var from capture.Config
	var into sink.Config
	must(t, config.Load("capture.yaml", &from))
	must(t, config.Load("sink.yaml", &into))
	from.HTTP.Listen, into.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0"
	broker, err := local.StartBroker(local.BrokerConfig{Dir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { must(t, broker.Close()) })
	pipeline, err := local.NewPipeline(broker, []capture.Config{from}, into, nil)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	group := service.NewGroup(ctx)
	group.Go("pipeline", pipeline.Run)
	t.Cleanup(func() { cancel(); must(t, group.Wait()) })

	dsn, err := into.Warehouse.DSN.Reveal()
	must(t, err)
	conn, err := postgres.Connect(ctx, dsn, "test")
	must(t, err)
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the test is over
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		var rows int64
		err := conn.QueryRow(ctx, `SELECT count(*) FROM shop.order_line`).Scan(&rows)
		if err == nil && rows == 15_000 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d rows have arrived (%v), want 15,000; sink: %s", rows, err, pipeline.Sink.Status().Headline)
		case <-ticker.C:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
