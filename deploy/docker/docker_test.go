// Package docker holds the images and what docker-compose.yml mounts into them. Its test runs configurations, scripts
// and roles as compose does, on embedded servers.
package docker

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	compose "github.com/compose-spec/compose-go/v2/types"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/local"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
)

func TestWhatComposeMounts(t *testing.T) {
	traces := collectTraces(t)
	var source *pgx.Conn
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
		if name == "SOURCE_DSN" {
			source = conn
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
		} else {
			must(t, conn.Close(t.Context()))
		}
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
	// One more rule, so that there is something of retention to tell.
	into.Tables = append([]rule.Table{{From: "public.orders", To: "{source}.{table}", Create: true, Keep: "90 days", By: "placed"}}, into.Tables...)
	into.Retention.Every = time.Second
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
		if err == nil && rows == 15_000 && told(pipeline) {
			checkMonitoring(t, pipeline)
			_, err := source.Exec(ctx, `INSERT INTO public.customer (name) VALUES ('me'), ('you')`)
			must(t, err)
			checkTraces(ctx, t, traces)
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d rows have arrived (%v), want 15,000; sink: %s", rows, err, pipeline.Sink.Status().Headline)
		case <-ticker.C:
		}
	}
}

// What cannot be run without Docker is at least what it says to be: a small image, of nobody in particular, that knows its
// version and says whether it is healthy.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	must(t, err)
	stages := map[string]string{}
	for _, stage := range strings.Split(string(text), "\nFROM ")[1:] {
		head, rest, _ := strings.Cut(stage, "\n")
		_, name, _ := strings.Cut(head, " AS ")
		stages[name] = head + "\n" + rest
	}
	base := stages["base"]
	if !strings.HasPrefix(base, "gcr.io/distroless/static") || !strings.Contains(base, "\nUSER 65532:65532\n") || !strings.Contains(base, "image.version=\"${VERSION}\"") {
		t.Errorf("the base of the images is not as small, or as harmless, as it can be:\n%s", base)
	}
	ignored, err := os.ReadFile("Dockerfile.dockerignore")
	must(t, err)
	if !strings.Contains(base, "\nCOPY LICENSE THIRD-PARTY-LICENSES ") || !strings.Contains(string(ignored), "\n!LICENSE\n!THIRD-PARTY-LICENSES\n") {
		t.Error("the licences of what is in the images do not go along")
	}
	for name, port := range map[string]string{"capture": "9191", "sink": "9192"} {
		image, build := stages[name], stages["build-"+name]
		for _, want := range []string{
			"base AS " + name, "\nCOPY --from=build-" + name + " /out/" + name + " /" + name + "\n", "\nEXPOSE " + port + "\n", "\nENTRYPOINT [\"/" + name + "\"]\n",
			`CMD ["run", "-c", "/etc/tributary/` + name + `.yaml"]`, `CMD ["/` + name + `", "healthcheck"]`, "image.title=",
		} {
			if !strings.Contains(image+"\n", want) {
				t.Errorf("the image of %s has no %q", name, want)
			}
		}
		for _, not := range []string{"\nRUN ", "\nUSER ", "\nADD "} {
			if strings.Contains(image, not) {
				t.Errorf("the image of %s has%s", name, not)
			}
		}
		if !strings.Contains(build, `-trimpath -ldflags "$LDFLAGS"`) {
			t.Errorf("%s is built without its version", name)
		}
	}
	for _, stamp := range []string{"service.version=${VERSION}", "service.revision=${REVISION}", "CGO_ENABLED=0"} {
		if !strings.Contains(string(text), stamp) {
			t.Errorf("nothing is built with %s", stamp)
		}
	}
}

// Compose's own loader, which is strict, takes the file; everything waits for what it needs to be healthy, says itself when it is, and is
// open to this machine alone.
func TestCompose(t *testing.T) {
	load := func(profiles ...string) *compose.Project {
		options, err := cli.NewProjectOptions([]string{"../../docker-compose.yml"}, cli.WithProfiles(profiles), cli.WithResolvedPaths(true))
		must(t, err)
		project, err := options.LoadProject(t.Context())
		must(t, err)
		return project
	}
	p := load()
	for _, name := range []string{"source", "warehouse", "kafka", "registry", "capture", "sink"} {
		s, ok := p.Services[name]
		if !ok {
			t.Fatalf("%s is not started by docker compose up", name)
		}
		if s.HealthCheck == nil || len(s.HealthCheck.Test) < 2 {
			t.Errorf("%s does not say whether it is healthy", name)
		}
	}
	for name, needs := range map[string][]string{"registry": {"kafka"}, "capture": {"source", "kafka", "registry"}, "sink": {"warehouse", "kafka", "registry"}} {
		for _, other := range needs {
			if p.Services[name].DependsOn[other].Condition != compose.ServiceConditionHealthy {
				t.Errorf("%s does not wait for %s", name, other)
			}
		}
	}
	more := load("monitoring")
	if len(more.Services) <= len(p.Services) {
		t.Error("the profile monitoring starts nothing")
	}
	for name, s := range more.Services {
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s is open to others: %+v", name, port)
			}
		}
		for _, volume := range s.Volumes {
			if volume.Type != compose.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
		if s.Build == nil {
			continue
		}
		ready := "/" + name + " healthcheck --ready" // up --wait ends when it works, not when it lives
		if s.Build.Target != name || s.Image != "tributary/"+name || !s.ReadOnly || len(s.CapDrop) != 1 || strings.Join(s.HealthCheck.Test[1:], " ") != ready {
			t.Errorf("%s is %+v", name, s)
		}
	}
}

// told says whether the sink knows of all that there is: then there is a series of everything.
func told(p *local.Pipeline) bool {
	st := p.Sink.Status()
	ran := slices.ContainsFunc(st.Tables, func(t sink.TableStatus) bool { return t.ExpiredAt != nil })
	for _, c := range p.Captures { // what a capture has not looked at has no series yet
		if wal := c.Status().WAL; wal.AsOf.IsZero() || wal.SlotStatus == "" {
			return false
		}
	}
	return len(st.Tables) == 3 && len(st.Sources) == 1 && st.Sources[0].AgeSeconds != nil && len(st.Members) > 0 && ran
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
