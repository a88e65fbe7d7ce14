package capture

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// While the rows of a table without key waited for a reader, its events went out before them: a DELETE of a row that
// the reader of the topic never had, which holds the table at a sink.
func TestTableWithoutKeyWaitsForAReader(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), `
			create table a (id int primary key, v text); insert into a select i, 'v' || i from generate_series(1, 100000) i;
			create table z (id int primary key, v text); insert into z select * from a;
			create table bag (k int, v text); alter table bag replica identity full;
			insert into bag select i, 'same' from generate_series(1, 300) i`)
		r.config.Snapshot.Workers, r.config.Snapshot.ChunkRows = 1, 1000
		_, stop := r.start()
		for i := range 100 {
			r.exec(fmt.Sprintf(`delete from bag where k = %d; update bag set v = 'other' where k = %d; insert into bag values (%[1]d, 'new')`, i, 200+i))
		}
		r.fence()
		if got := r.same("public", "bag"); !strings.HasPrefix(got.events[0], "t ") {
			t.Errorf("the topic begins with %q, want the truncate behind which the rows come", got.events[0])
		}
		must(t, stop())
	}
}
