package capture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

const randomTables = `
create table toasted (id int primary key, n int, big text);
alter table toasted alter big set storage external;
create table whole (id int primary key, n int, big text);
alter table whole alter big set storage external;
alter table whole replica identity full;
create table pair (a int, b text, n int, primary key (b, a));
create table bag (k int, v text);
alter table bag replica identity full;
create table part (id int primary key, n int) partition by hash (id);
create table part_0 partition of part for values with (modulus 2, remainder 0);
create table part_1 partition of part for values with (modulus 2, remainder 1);
`

var randomNames = []string{"toasted", "whole", "pair", "bag", "part"}

// Whatever the application does and whatever happens to capture and broker meanwhile, the topics fold to the source's
// rows, and positions only grow. TRIBUTARY_SEED repeats what a seed does; TRIBUTARY_RANDOM says for how long ("10m").
func TestRandom(t *testing.T) {
	seed, lasts := uint64(time.Now().UnixNano()), 8*time.Second
	if text := os.Getenv("TRIBUTARY_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	if text := os.Getenv("TRIBUTARY_RANDOM"); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		must(t, err)
	}
	t.Logf("TRIBUTARY_SEED=%d", seed)
	for _, major := range pgtest.Majors(t) {
		kafka := kafkatest.Fake(t)
		r := newRig(t, major, kafka, randomTables)
		r.config.Topics.Overrides = []publish.TopicOverride{{Table: "public.whole", Partitions: 3}, {Table: "public.part", Partitions: 2}}
		r.config.Publish.Bytes, r.config.Snapshot.ChunkRows = 128<<10, 40
		r.exec(`insert into toasted select i, 0, repeat('x', 3000) from generate_series(1, 300) i;
			insert into whole select i, 0, repeat('y', 3000) from generate_series(1, 300) i;
			insert into pair select i, chr(65 + i % 26), 0 from generate_series(1, 300) i;
			insert into bag select i % 5, 'same' from generate_series(1, 300) i; insert into part select i, 0 from generate_series(1, 300) i`)
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		var writers sync.WaitGroup
		committed := make([]int, 3)
		for i := range committed {
			w := &writer{Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
			conn := r.connect()
			writers.Go(func() {
				// A capture that is ended once a second must still get along.
				pace := time.NewTicker(5 * time.Millisecond)
				defer pace.Stop()
				for ctx.Err() == nil {
					<-pace.C
					// A deadlock or a key that is there already ends the transaction: as good as any other rollback.
					_, err := conn.Exec(t.Context(), w.transaction())
					if err == nil {
						committed[i]++
					} else if !errors.As(err, new(*pgconn.PgError)) {
						t.Error(err)
						return
					}
					if conn.PgConn().TxStatus() != 'I' {
						if _, err := conn.Exec(t.Context(), "rollback"); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		stop, faults := r.torment(ctx, rand.New(rand.NewPCG(seed, 99)), kafka)
		cancel()
		writers.Wait()
		r.fence()
		events := 0
		for _, name := range randomNames {
			events += len(r.same("public", name).events)
		}
		r.progressGrows()
		t.Logf("%v transactions, %d events, faults: %v", committed, events, faults)
		if t.Failed() {
			t.Logf("TRIBUTARY_SEED=%d", seed)
		}
		must(t, stop())
	}
}

// torment makes things happen to capture and broker until ctx ends; a capture runs then. It counts what it has done.
func (r *rig) torment(ctx context.Context, rnd *rand.Rand, kafka *kafkatest.FakeCluster) (stop func() error, faults map[string]int) {
	r.t.Helper()
	faults = map[string]int{}
	c, stop := r.start()
	// One that was about to try again when a newer one began may have fenced that one.
	end := func(stop func() error) {
		if err := stop(); err != nil && trouble.CodeOf(err) != trouble.Fenced {
			r.t.Fatalf("capture ended: %v", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			end(stop)
			_, stop = r.start()
			return stop, faults
		case <-time.After(time.Duration(rnd.IntN(1000)) * time.Millisecond):
		}
		kinds := []string{"restart", "fenced", "connection", "cut", "broker killed", "broker restarted", "asked"}
		what := kinds[rnd.IntN(len(kinds))]
		faults[what]++
		switch what {
		case "restart":
			end(stop)
			c, stop = r.start()
		case "fenced":
			next, stopNext, err := r.tryStart()
			if trouble.CodeOf(err) == trouble.Fenced {
				continue // the older one was about to try again, before the newer one had claimed the source
			}
			must(r.t, err)
			end(stop)
			c, stop = next, stopNext
		case "connection":
			r.exec(fmt.Sprintf(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '%s' and active`, r.config.Source.slot()))
		case "cut":
			kafka.Cut()
		case "broker killed":
			must(r.t, kafka.Kill())
			must(r.t, kafka.Restart(r.t.Context()))
		case "broker restarted":
			must(r.t, kafka.Restart(r.t.Context()))
		case "asked":
			r.request(SnapshotRequest{Tables: []string{"public." + randomNames[rnd.IntN(len(randomNames))]}, Reload: rnd.IntN(2) == 0})
		}
		if c.Status().State == "stopped" {
			end(stop)
			c, stop = r.start()
		}
	}
}

// writer makes up transactions.
type writer struct{ *rand.Rand }

func (w *writer) transaction() string {
	var b strings.Builder
	b.WriteString("begin;\n")
	for range 1 + w.IntN(5) {
		switch w.IntN(12) {
		case 0: // undone
			b.WriteString("savepoint s;\n" + w.statement() + "rollback to s;\n")
		case 1: // kept
			b.WriteString("savepoint s;\n" + w.statement() + "release s;\n")
		default:
			b.WriteString(w.statement())
		}
	}
	if w.IntN(10) == 0 {
		return b.String() + "rollback"
	}
	return b.String() + "commit"
}

func (w *writer) statement() string {
	id, other, n := w.IntN(500), w.IntN(500), w.IntN(1000000)
	keyed := []string{"toasted", "whole", "part"}[w.IntN(3)]
	switch w.IntN(40) {
	case 0:
		if w.IntN(4) > 0 {
			return "analyze bag;\n"
		}
		return "truncate " + []string{"bag", "part", "pair, toasted"}[w.IntN(3)] + ";\n"
	case 1:
		return fmt.Sprintf("insert into toasted select i, %[1]d, repeat('z', 2500) from generate_series(1000 + %[2]d, 1100 + %[2]d) i on conflict do nothing;\n", n, id)
	case 2:
		return "delete from toasted where id > 1000;\n"
	case 3, 4: // swap two keys
		return fmt.Sprintf("update %[1]s set id = -1 - %[2]d where id = %[2]d; update %[1]s set id = %[2]d where id = %[3]d; update %[1]s set id = %[3]d where id = -1 - %[2]d;\n", keyed, id, other)
	case 5, 6, 7:
		return fmt.Sprintf("update %s set id = %d where id = %d;\n", keyed, other, id)
	case 8, 9, 10:
		return fmt.Sprintf("delete from %s where id = %d;\n", keyed, id)
	case 11, 12, 13:
		return fmt.Sprintf("insert into toasted values (%d, %d, repeat('%d ', 1500)) on conflict (id) do update set n = excluded.n;\n", id, n, n%10)
	case 14, 15:
		return fmt.Sprintf("update toasted set big = repeat('%d ', %d) where id = %d;\n", n%10, n%3000, id)
	case 16, 17, 18:
		return fmt.Sprintf("insert into whole values (%d, %d, repeat('%d ', 1500)) on conflict (id) do update set n = excluded.n;\n", id, n, n%10)
	case 19, 20:
		return fmt.Sprintf("insert into part values (%d, %d) on conflict (id) do update set n = excluded.n;\n", id, n)
	case 21, 22, 23, 24:
		return fmt.Sprintf("insert into bag values (%d, 'v%d'), (%[1]d, 'v%[2]d');\n", id%5, n%3)
	case 25, 26:
		return fmt.Sprintf("delete from bag where ctid = (select ctid from bag where k = %d limit 1);\n", id%5)
	case 27, 28:
		return fmt.Sprintf("update bag set v = 'w%d' where ctid = (select ctid from bag where k = %d limit 1);\n", n%3, id%5)
	case 29, 30:
		return fmt.Sprintf("insert into pair values (%d, '%c', %d) on conflict (b, a) do update set n = excluded.n;\n", id, 'A'+rune(n%26), n)
	case 31, 32:
		return fmt.Sprintf("update pair set b = '%c' where a = %d and b = (select min(b) from pair where a = %[2]d);\n", 'A'+rune(n%26), id)
	case 33:
		return fmt.Sprintf("delete from pair where a = %d;\n", id)
	}
	return fmt.Sprintf("update %s set n = %d where id = %d;\n", keyed, n, id)
}
