package sink_test

import (
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/schema/record"
)

// TestNumberOfAnotherSource: a registry has lost its schemas, and the first that comes has its number given to a table of another
// source that has the same name and other columns. Records of before are not read by it.
func TestNumberOfAnotherSource(t *testing.T) {
	w := newWorld(t)
	old := w.source("old")
	old.tx(ins(relation("t", "id integer key", "street text", "city text"), 1, "street", "city"))
	w.registry = kafkatest.Registry(t)
	w.cfg.Registry.URL = w.registry
	w.cfg.Tables[0].To = "{source}.{table}"
	other := w.source("new")
	other.tx(ins(relation("t", "id integer key", "city text", "street text"), 1, "city", "street"))
	w.start(w.cfg)
	w.complete(other)
	w.rows(`SELECT topic, code FROM tributary.quarantine`, "old.public.t|schema-unknown")
	w.rows(`SELECT city, street, to_regclass('old.t') FROM "new".t`, "city|street|∅")
}

// TestNewestIsAnOlderForm: a table goes back to a form that it had before, whose schema has its number of then, while a later number
// is that of a form which is no more. A sink that starts first after that goes by the names of today, as one does that lived through it.
func TestNewestIsAnOlderForm(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	today, between := relation("t", "id integer key", "note text"), relation("t", "id integer key", "remark text")
	shop.tx(ins(today, 1, "first"))
	shop.tx(ins(between, 2, "between"))
	e := shop.table(today, 0)
	id, err := shop.reg.Register(t.Context(), e.Topic()+"-value", e.ValueSchema())
	if err != nil {
		t.Fatal(err)
	}
	shop.tables = []record.TableProgress{{Schema: "public", Table: "t", SchemaID: id}}
	shop.tx(ins(today, 3, "today"))
	w.rules(`{from: public.t, columns: [id, note]}`)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT id, note FROM public.t ORDER BY 1`, "1|first", "2|between", "3|today")
}
