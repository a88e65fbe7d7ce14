package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/mask"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// fragileTables may have values each of which the server cannot make a text: XX000 of another message than that of a value of 600 MB,
// for which a test has no time.
const fragileTables = `
create type fragile;
create function fragile_in(cstring) returns fragile language internal immutable strict as 'byteain';
create function fragile_out(fragile) returns cstring language internal immutable strict as 'pg_ndistinct_out';
create type fragile (input = fragile_in, output = fragile_out, like = bytea);
create table doc (id int primary key, note text, body fragile, raw bytea);
create table bag (id int, note text, body fragile, raw bytea);
alter table bag replica identity full;
create table other (id int primary key);
insert into other values (1);
`

// TestUnreadableRowHoldsItsTable: a row that the server cannot give ended capture, for every table; and so it did where its column was
// excluded.
func TestUnreadableRowHoldsItsTable(t *testing.T) {
	for _, table := range []string{"doc", "bag"} {
		t.Run(table, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), fragileTables+fmt.Sprintf(`insert into %[1]s select i, 'n' from generate_series(1, 250) i; insert into %[1]s values (500, 'n', '\x00', '\x01')`, table))
			c, stop := r.start()
			r.fence()
			held := r.isHeld(c, "public."+table, trouble.SnapshotFailed)
			if !strings.Contains(held.Message, `read the rows of table "public.`+table+`": `) || !strings.Contains(held.Message, "MVNDistinct") || !strings.Contains(held.Hint, "columns in capture.yaml") {
				t.Errorf("it says %s; %s", held.Message, held.Hint)
			}
			_, look, _ := strings.Cut(held.Hint, "\n")
			look, _, _ = strings.Cut(look, ";")
			if !strings.Contains(look, `octet_length("raw")`) || !strings.Contains(look, `octet_length("note")`) {
				t.Errorf("the hint is %s", held.Hint)
			}
			r.exec(look)
			r.exec(`insert into other values (2)`)
			r.fence()
			r.same("public", "other")
			r.exec(fmt.Sprintf(`update %s set note = 'missed' where id = 3`, table))
			must(t, stop())

			r.config.Columns = []publish.Columns{{Table: "public." + table, Exclude: []string{"body"}}}
			c, stop = r.start()
			r.fence()
			r.isHeld(c, "public."+table, trouble.SnapshotFailed)
			r.reload("public." + table)
			got, want := r.read("public", table), r.sourceOf("public."+table, "id, note, raw")
			slices.Sort(got.rows)
			if !slices.Equal(got.rows, want) {
				t.Errorf("the topic has %d rows, the source %d", len(got.rows), len(want))
			}
			eventually(t, "nothing is said of it any more", func() bool { return len(c.Status().Alarms) == 0 })
			must(t, stop())
		})
	}
}

// Values that nobody gets are not read.
func TestUnpublishedIsNotRead(t *testing.T) {
	for what, columns := range map[string]publish.Columns{
		"excluded": {Table: "public.*", Exclude: []string{"body"}},
		"masked":   {Table: "public.*", Mask: []publish.Mask{{Column: "body", As: string(mask.Null)}}},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), fragileTables+`insert into doc values (1, 'n', '\x00', '\x01'), (2, 'n', '\x00', '\x01'); insert into bag select * from doc`)
			r.config.Columns = []publish.Columns{columns}
			_, stop := r.start()
			r.fence()
			list := "id, note, raw"
			if what == "masked" {
				list = "id, note, null, raw"
			}
			for _, table := range []string{"doc", "bag"} {
				got, want := r.read("public", table), r.sourceOf("public."+table, list)
				slices.Sort(got.rows)
				if !slices.Equal(got.rows, want) {
					t.Errorf("%s: got %s, want %s", table, got.rows, want)
				}
			}
			must(t, stop())
		})
	}
}

func TestUnreadableRowStopsWhereItIsToldTo(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), fragileTables+`insert into doc values (1, 'n', '\x00')`)
	r.config.Source.OnError = "stop"
	r.fails(trouble.SnapshotFailed)
}

// The words of a server for a bytea of 600 MiB, and for one that goes away.
func TestSnapshotTrouble(t *testing.T) {
	known := &table{catalog: &catalog.Table{Relation: schema.Relation{
		Schema: "public", Name: "Doc", Columns: []schema.Column{{Name: "id", Type: schema.Type{OID: schema.OIDInt4}}, {Name: "Body", Type: schema.Type{OID: schema.OIDBytea}}}, Key: []int{0},
	}}}
	for state, want := range map[string]trouble.Code{"XX000": trouble.SnapshotFailed, "54000": trouble.SnapshotFailed, "57P01": trouble.SourceUnreachable, "": trouble.SourceUnreachable} {
		err := error(&pgconn.PgError{Code: state, Message: "invalid memory alloc request size 1258291203"})
		if state == "" {
			err = errors.New("connection reset")
		}
		_, one := errors.AsType[*publish.OneTable](snapshotTrouble("reader", known, err))
		e, _ := errors.AsType[*trouble.Error](snapshotTrouble("reader", known, err))
		if e.Code != want || one != (want == trouble.SnapshotFailed) {
			t.Errorf("%q: %v (%s), of one table: %t", state, e, e.Code, one)
		}
		if one && !strings.Contains(e.Hint, "\nSELECT ctid, \"id\" FROM \"public\".\"Doc\" WHERE 2.0 * coalesce(octet_length(\"Body\"), 0) > 1e9;     ") {
			t.Errorf("the hint is %s", e.Hint)
		}
	}
}
