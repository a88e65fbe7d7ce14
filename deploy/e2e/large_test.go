package e2e

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// TestLargeRows takes values of 20 MB, or of TRIBUTARY_LARGE=200, from end to end by snapshot and stream, over topics that
// are configured for them; over others their table is held, and goes on when the limit is raised.
func TestLargeRows(t *testing.T) {
	megabytes := 20
	if text := os.Getenv("TRIBUTARY_LARGE"); text != "" {
		var err error
		megabytes, err = strconv.Atoi(text)
		must(t, err)
		was := patience
		patience = 20 * time.Minute
		t.Cleanup(func() { patience = was })
	}
	kafka := kafkatest.Fake(t)
	registry := kafkatest.Registry(t)
	cluster := pgtest.Shared(t, 17)
	dsn, warehouse := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	s := newSource(t, "large", dsn, kafka, registry)
	t.Cleanup(func() { dropSlot(t, dsn, "tributary_large") })
	dwh := connect(t, warehouse)
	size := megabytes * 1_000_000
	most := 2*size + size/10 + 2<<20 // under REPLICA IDENTITY FULL a record has the old row as well
	// Text of several bytes a letter, with what COPY escapes; bytes of all values. Neither is made of one letter: it would
	// be compressed to nothing on its way.
	text := fmt.Sprintf(`(select left(string_agg(md5(i::text) || E'\\\t\né', ''), %d) from generate_series(1, %d) i)`, size, size/36+1)
	bytes := fmt.Sprintf(`(select substr(string_agg(decode(md5(i::text), 'hex'), ''::bytea), 1, %d) from generate_series(1, %d) i)`, size, size/16+1)
	exec(t, s.conn, `create table doc (id int primary key, n int, t text, b bytea); alter table doc alter t set storage external, alter b set storage external;
		create table small (id int primary key)`)
	exec(t, s.conn, `insert into doc values (1, 0, `+text+`, null), (2, 0, 'short', `+bytes+`)`)

	stop := s.startCapture(t)
	startGroup(t, kafka, registry, warehouse, "large", `{from: "public.*", to: "public.{table}"}`)
	exec(t, s.conn, `insert into small values (1)`)
	eventually(t, "the table is held and the other goes on", func() bool {
		held := false
		for _, one := range s.capture.Status().Tables {
			held = held || one.Table == "public.doc" && one.Held != nil && strings.Contains(one.Held.Cause, "key (id)") && strings.Contains(one.Held.Cause, "bytes")
		}
		return held && scalar[bool](t, dwh, `select to_regclass('public.small') is not null`) && scalar[int](t, dwh, `select count(*) from public.small`) == 1
	})
	stop()
	setMessageBytes(t, kafka, "large.public.doc", most)
	s.config.Topics.MaxMessageBytes = config.Bytes(most)
	s.startCapture(t)
	exec(t, s.conn, `select pg_logical_emit_message(true, 'tributary', '{"snapshot": {"id": "again", "tables": ["public.doc"], "reload": true}}')`)
	exec(t, s.conn, `insert into small values (2)`)
	fence(t, dwh, "large", []*source{s}, "read")
	for _, sql := range []string{
		`insert into doc values (3, 0, ` + text + ` || 'x', null)`, `insert into doc values (4, 0, null, ` + bytes + `)`, `update doc set n = 1`, `update doc set id = 5 where id = 3`,
		`update doc set b = substr(b, 2) where id = 4`, `alter table doc replica identity full`, `update doc set n = 2 where id = 1`, `delete from doc where id = 2`,
	} {
		exec(t, s.conn, sql)
	}
	fence(t, dwh, "large", []*source{s}, "changed")
	for _, held := range textsOf(t, dwh, `select table_name || ': ' || message from tributary.quarantine`) {
		t.Errorf("quarantined: %s", held)
	}
	const sums = `select concat_ws(' ', id, n, length(t), md5(t), length(b), md5(b)) from public.doc order by 1`
	want := texts(t, dsn, sums)
	if len(want) != 3 {
		t.Errorf("%d rows", len(want))
	}
	differ(t, "doc", want, texts(t, warehouse, sums))
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("values of %d MB; capture, sink and broker in one process have taken %d MB from the system", megabytes, m.Sys/1_000_000)
}

// setMessageBytes raises what a topic takes.
func setMessageBytes(t *testing.T, kafka kafkatest.Cluster, topic string, bytes int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	value := strconv.Itoa(bytes)
	answers, err := kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &value}}, topic)
	must(t, err)
	must(t, answers[0].Err)
}
