package capture

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A transaction far larger than a Kafka transaction is cut; whatever ends capture in the middle of it, each of its
// events is published once, and not a byte of it is confirmed before it is whole.
func TestLargeTransactionIsCut(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables)
		r.config.Publish.Bytes = 64 << 10
		_, stop := r.start()
		r.exec(`insert into full_bag values (0, 'before')`)
		r.fence()
		const rows = 60000
		r.exec(fmt.Sprintf(`begin;
			insert into item (id, name) select i, 'row ' || i from generate_series(1, %[1]d) i;
			insert into full_bag select i %% 7, 'same' from generate_series(1, 100) i;
			update item set id = id + 1000000 where id > %[1]d - 100;
			commit`, rows))
		topic, err := record.Topic(r.config.Source.Name, "public", "item")
		must(t, err)
		published := func(n int64) {
			eventually(t, fmt.Sprintf("%d records are published", n), func() bool { return r.ends(topic)[0] > n })
		}

		// It leaves in order: what it has sent becomes visible.
		published(1)
		must(t, stop())
		pr := r.progress()
		if pr.Inside == 0 {
			t.Fatalf("the transaction was over before it could be interrupted: %+v", pr)
		}
		if pr.EndLSN > pr.CommitLSN {
			t.Errorf("%s may be confirmed in the middle of the transaction that commits at %s", change.LSN(pr.EndLSN), change.LSN(pr.CommitLSN))
		}
		if confirmed := r.confirmed(); confirmed > change.LSN(pr.EndLSN) {
			t.Errorf("the slot is confirmed up to %s, whole is %s", confirmed, change.LSN(pr.EndLSN))
		}

		// Several times it does not come as far as that again.
		for range 3 {
			_, stop = r.start()
			must(t, stop())
			if again := r.progress(); again.Reached().Compare(pr.Reached()) < 0 {
				t.Errorf("the progress goes back from %s to %s", pr.Reached(), again.Reached())
			}
		}

		// Its connection is cut: what it has sent is aborted.
		c, stop := r.start()
		published(rows / 6)
		r.exec(fmt.Sprintf(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '%s'`, r.config.Source.slot()))
		eventually(t, "it streams again", func() bool {
			return counterValue(t, c.meter.reconnect.WithLabelValues("source")) > 0 && c.Status().Trouble == nil
		})
		published(min(r.ends(topic)[0]+5000, rows/2)) // more may have been on its way to us when the connection was cut

		// It is fenced by another instance.
		second, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- second.Run(ctx) }()
		eventually(t, "the first is fenced", func() bool {
			st := c.Status()
			return st.State == "stopped" && st.Trouble != nil && st.Trouble.Code == trouble.Fenced
		})
		if err := stop(); trouble.CodeOf(err) != trouble.Fenced {
			t.Errorf("the first ended with %v", err)
		}
		published(rows / 2)
		cancel()
		must(t, <-ended)

		_, stop = r.start()
		r.exec(`insert into item (id) values (0)`)
		r.fence()
		got := r.same("public", "item")
		if want := rows + 2*100 + 1; len(got.events) != want {
			t.Errorf("%d events, want each of %d once", len(got.events), want)
		}
		if got := r.same("public", "full_bag"); len(got.events) != 1+101 { // the truncate before its snapshot
			t.Errorf("full_bag: %d events, want each of 102 once", len(got.events))
		}
		cut := 0
		for _, pr := range r.progresses() {
			if pr.Inside != 0 {
				cut++
			}
		}
		if cut < 20 {
			t.Errorf("it was cut %d times", cut)
		}
		r.progressGrows()
		must(t, stop())
	})
}

// progressGrows fails the test where a progress record says less than the one before it.
func (r *rig) progressGrows() {
	r.t.Helper()
	var last *record.Progress
	vector := map[string][]int64{}
	for _, pr := range r.progresses() {
		if last != nil && (pr.Reached().Compare(last.Reached()) < 0 || pr.EndLSN < last.EndLSN && pr.Era == last.Era) {
			r.t.Errorf("progress %d goes back from %s, end %s, to %s, end %s", pr.N, last.Reached(), change.LSN(last.EndLSN), pr.Reached(), change.LSN(pr.EndLSN))
		}
		for topic, next := range pr.Vector {
			for i, was := range vector[topic] {
				if next[i] < was {
					r.t.Errorf("progress %d: the vector of %s goes back from %v to %v", pr.N, topic, vector[topic], next)
				}
			}
			vector[topic] = next
		}
		last = pr
	}
}

// progresses gives what the progress topic holds; progress, the newest of it.
func (r *rig) progresses() []*record.Progress {
	r.t.Helper()
	topic := record.ProgressTopic(r.config.Source.Name)
	client := r.consumer(topic)
	defer client.Close()
	end := r.ends(topic)[0]
	var list []*record.Progress
	for at := int64(0); at < end; {
		fetches := client.PollFetches(r.t.Context())
		must(r.t, fetches.Err0())
		fetches.EachRecord(func(rec *kgo.Record) {
			at = rec.Offset + 1
			if rec.Attrs.IsControl() {
				return
			}
			pr, err := record.ParseProgress(rec.Value)
			must(r.t, err)
			list = append(list, pr)
		})
	}
	return list
}

func (r *rig) progress() *record.Progress {
	r.t.Helper()
	list := r.progresses()
	if len(list) == 0 {
		r.t.Fatal("nothing was ever published")
	}
	return list[len(list)-1]
}

// confirmed gives the slot's confirmed_flush_lsn.
func (r *rig) confirmed() change.LSN {
	r.t.Helper()
	var lsn int64
	must(r.t, r.conn.QueryRow(r.t.Context(), `select (confirmed_flush_lsn - '0/0')::int8 from pg_replication_slots where slot_name = $1`,
		r.config.Source.slot()).Scan(&lsn))
	return change.LSN(lsn)
}
