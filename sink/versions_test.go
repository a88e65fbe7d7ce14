package sink_test

import (
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
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
