package sink_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
)

func TestTopicTruncated(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(many(10, func(i int) event { return ins(r, i) })...)
	deleteRecords(t, shop, "shop.public.t", 5)
	shop.tx(ins(other, 1))
	w.start(w.cfg)
	w.rows(`SELECT code, topic, message LIKE '%the first offset that is left is 5', hint LIKE '%next_offset in tributary.checkpoint to 5,%' FROM tributary.quarantine`, "topic-truncated|shop.public.t|t|t")
	w.rows(`SELECT id FROM public.other`, "1")
	w.rows(`SELECT to_regclass('public.t')`, "∅")
}

// TestTopicMadeAnew: what the new topic holds does not follow on what was applied.
func TestTopicMadeAnew(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(ins(r, 1), ins(r, 2))
	w.start(w.cfg)
	w.complete(shop)
	deleteTopic(t, shop, "shop.public.t")
	lsn, n := shop.lsn, shop.n
	shop = w.source("shop") // the client before sticks to the topic before
	shop.lsn, shop.n = lsn, n
	shop.tx(ins(r, 7), ins(r, 8), ins(r, 9), ins(r, 10), ins(other, 1))
	w.rows(`SELECT code FROM tributary.quarantine`, "topic-recreated")
	w.rows(`SELECT id FROM public.other`, "1")
	// Letting it go on without a decision about the checkpoint changes nothing.
	attempt := w.query(`SELECT attempt FROM tributary.quarantine`)
	w.exec(`DELETE FROM tributary.quarantine`)
	w.eventually(true, func() any {
		now := w.query(`SELECT attempt FROM tributary.quarantine`)
		return len(now) == 1 && now[0] != attempt[0]
	})
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2")
	w.exec(`DELETE FROM tributary.checkpoint WHERE topic = 'shop.public.t'; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2", "7", "8", "9", "10")
}

func TestPartitionsAdded(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	w.start(w.cfg)
	w.complete(shop)
	if _, err := kadm.NewClient(shop.client).CreatePartitions(t.Context(), 2, "shop.public.t"); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT DISTINCT code FROM tributary.quarantine`, "topic-partitions-changed")
}
