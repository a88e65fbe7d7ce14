package capture

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

// What was left of a read was left by the key that the table had: taken for parts of another key, rows were left out in silence,
// and a key of fewer columns ended the process with each start.
func TestKeyChangesWhileTableIsRead(t *testing.T) {
	for name, key := range map[string]string{"fewer columns": "b", "another order": "b, a", "more columns": "b, a, v"} {
		for _, away := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				rows := 600
				if away {
					rows = 3000 // it has stopped before all of them are read
				}
				r := newRig(t, 0, kafkatest.Fake(t), fmt.Sprintf(`create table t (a int not null, b int not null, v text not null, primary key (a, b));
					insert into t select i, 10000 - i, 'row ' || i from generate_series(1, %d) i`, rows))
				r.config.Source.Tables = []string{"public.t"}
				r.config.Snapshot.Workers, r.config.Snapshot.ChunkRows = 1, 5
				_, stop := r.start()
				eventually(t, "rows are read", func() bool { return r.tableProgress("public.t").Rows >= 50 })
				alter := `alter table t drop constraint t_pkey, add primary key (` + key + `); insert into t values (100000, 100000, 'new')`
				if away {
					must(t, stop())
					if r.tableProgress("public.t").Done {
						t.Fatal("it has been read already")
					}
					r.exec(alter)
					r.config.Snapshot.ChunkRows = 100 // what is left is read quickly
					_, stop = r.start()
				} else {
					r.exec(alter)
				}
				eventually(t, "it is read", func() bool { return r.tableProgress("public.t").Done })
				r.fence()
				seen := map[string]bool{}
				for _, e := range r.read("public", "t").events {
					seen[e] = true
				}
				if len(seen) < rows+1 {
					t.Errorf("away %v: %d rows have come, want %d", away, len(seen), rows+1)
				}
				must(t, stop())
			})
		}
	}
}
