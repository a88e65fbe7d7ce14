package capture

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

func TestFindGapAfterFailover(t *testing.T) {
	slot := &catalog.Slot{Plugin: "pgoutput", Database: "d", ConfirmedFlushLSN: 100}
	f := func(want trouble.Code, pr record.Progress, newest change.LSN, timeline uint32, history replication.History) {
		t.Helper()
		pr.SystemID, pr.Era = "1", 1
		state := &publish.State{Progress: &pr, Newest: change.Position{Era: 1, CommitLSN: newest}}
		gap := findGap(state, slot, replication.System{ID: "1", Timeline: timeline, Database: "d"}, history, "s")
		if (gap == nil) != (want == "") || gap != nil && gap.Code != want {
			t.Fatalf("got %v, want %q", gap, want)
		}
	}
	whole := record.Progress{Timeline: 3, CommitLSN: 980, EndLSN: 1000}
	f("", whole, 980, 3, nil)
	f("", whole, 980, 4, past(1, 10, 2, 20, 3, 1000))
	f("", whole, 980, 6, past(1, 10, 2, 20, 3, 2000, 4, 3000))
	f(trouble.WrongSystem, whole, 980, 4, past(1, 10, 2, 20, 3, 999))
	f(trouble.WrongSystem, whole, 1010, 4, past(3, 1005)) // a torn commit left more than the progress says
	f(trouble.WrongSystem, whole, 980, 4, past(1, 10, 2, 20))
	f(trouble.WrongSystem, whole, 980, 2, nil) // back in time
	old := findGap(&publish.State{Progress: &whole}, slot, replication.System{Timeline: 2, Database: "d"}, nil, "s")
	if !strings.HasPrefix(old.Hint, "look at source.dsn") { // an old primary that came back is not to be loaded into the warehouse
		t.Errorf("the hint of an earlier timeline is %q", old.Hint)
	}
	inside := record.Progress{Timeline: 3, CommitLSN: 1500, EndLSN: 1000, Inside: 7}
	f("", inside, 1500, 4, past(3, 1501))
	f(trouble.WrongSystem, inside, 1500, 4, past(3, 1400))
}

// past gives a history of timelines and the LSNs at which they were left, in turn.
func past(list ...uint64) (h replication.History) {
	for i := 0; i < len(list); i += 2 {
		h = append(h, replication.Switch{Timeline: uint32(list[i]), At: change.LSN(list[i+1])})
	}
	return h
}

// standbyOf makes a standby of primary, which is stopped meanwhile, that keeps copies of its slots.
func standbyOf(t *testing.T, primary *pgtest.Cluster) *pgtest.Cluster {
	t.Helper()
	must(t, primary.Stop())
	dir := pgtest.TempDir(t)
	if out, err := exec.Command("cp", "-a", primary.DataDir(), filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A copy, so that it belongs to who runs the server.
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, "data", "postgresql.conf"), filepath.Join(dir, "data", "standby.signal")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, primary.Restart(t.Context()))
	return pgtest.New(t, pgtest.Options{Major: primary.Major(), Dir: dir, Settings: map[string]string{
		"primary_conninfo":       fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres", primary.Port()),
		"primary_slot_name":      "standby",
		"hot_standby_feedback":   "on",
		"sync_replication_slots": "on",
	}})
}

// Capture goes on with a promoted standby that has all that is published, in the same era; it refuses one that lacks
// something.
func TestFailover(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		if major < 17 {
			t.Logf("PostgreSQL %d has no slots that survive a failover", major)
			continue
		}
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("pg%d lost %t", major, lost), func(t *testing.T) {
				r := newRig(t, major, kafkatest.Fake(t), tables)
				primary := r.own(major, nil)
				r.exec(tables + `insert into item select i, 'a' from generate_series(1, 300) i`)
				r.exec(`select pg_create_physical_replication_slot('standby', true)`)
				must(t, r.conn.Close(t.Context()))
				standby := standbyOf(t, primary)
				other, err := pgx.Connect(t.Context(), standby.DSN("postgres"))
				must(t, err)
				r.conn = r.connect()
				c, stop := r.start()
				r.fence() // an update of what is yet to be read would stand for the read: fewer events
				r.exec(`update item set name = 'b' where id <= 100`)
				r.fence()
				eventually(t, "the standby has a copy of the slot that is good after a failover", func() bool {
					r.exec(`select pg_log_standby_snapshot()`) // else a running server writes one every 15 s, and the copy waits for it
					var there bool
					must(t, other.QueryRow(t.Context(), `select count(*) > 0 from pg_replication_slots where slot_name = $1 and synced and not temporary`,
						r.config.Source.slot()).Scan(&there))
					return there
				})
				must(t, other.Close(t.Context()))
				if lost { // the standby does not get what is published now
					must(t, standby.Stop())
					for _, name := range []string{"standby", ""} {
						r.exec(`alter system set synchronized_standby_slots = '` + name + `'`)
						r.exec(`select pg_reload_conf()`)
						eventually(t, "the status says which standby the server waits for", func() bool { return c.Status().WAL.Standbys == name })
						var out strings.Builder
						_ = r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out))
						if told := strings.Contains(out.String(), "the standby of slot standby is away"); told != (name != "") {
							t.Errorf("a check does not say it:\n%s", out.String())
						}
					}
				}
				r.exec(`update item set name = 'c' where id <= 50`)
				r.fence()
				must(t, stop())
				if !lost {
					var end int64
					must(t, r.conn.QueryRow(t.Context(), `select (pg_current_wal_flush_lsn() - '0/0')::int8`).Scan(&end))
					conn, err := pgx.Connect(t.Context(), standby.DSN("postgres"))
					must(t, err)
					eventually(t, "the standby has all", func() bool {
						var at int64
						must(t, conn.QueryRow(t.Context(), `select (pg_last_wal_replay_lsn() - '0/0')::int8`).Scan(&at))
						return at >= end
					})
					must(t, conn.Close(t.Context()))
				}
				must(t, primary.Kill())
				if lost {
					must(t, standby.Restart(t.Context()))
				}
				r.dsn = standby.DSN("postgres")
				r.config.Source.DSN = config.Secret(r.dsn)
				r.conn = r.connect()
				r.exec(`select pg_promote()`)
				if lost {
					r.fails(trouble.WrongSystem)
					r.options.OnGap = GapResnapshot
				}
				_, stop = r.start()
				r.exec(`update item set name = 'd' where id <= 20; delete from item where id = 300`)
				r.fence()
				got := r.same("public", "item")
				pr := r.progress()
				if want := uint16(1); !lost && (pr.Era != want || len(got.events) != 300+100+50+21) || pr.Timeline != 2 {
					t.Errorf("era %d, timeline %d, %d events; want the era and the events to go on", pr.Era, pr.Timeline, len(got.events))
				}
				must(t, stop())
			})
		}
	}
}

// A slot that was made before standbys were to keep copies of it is made one of which they do.
func TestFailoverOfASlotThatIsThere(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		if major < 17 {
			continue
		}
		r := newRig(t, major, kafkatest.Fake(t), tables)
		for _, failover := range []bool{false, true, false} {
			r.config.Source.Failover = failover
			_, stop := r.start()
			r.exec(`insert into full_bag values (1, 'a')`)
			r.fence()
			var is bool
			must(t, r.conn.QueryRow(t.Context(), `select failover from pg_replication_slots where slot_name = $1`, r.config.Source.slot()).Scan(&is))
			if is != failover {
				t.Errorf("the slot's failover is %t, configured is %t", is, failover)
			}
			must(t, stop())
		}
		r.same("public", "full_bag")
	}
}
