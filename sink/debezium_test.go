package sink

import (
	"testing"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// What is dropped of a partition that a connector of Debezium writes, and what is not.
func TestDebeziumRepeats(t *testing.T) {
	row := func(commit, lsn change.LSN, at int64) *change.Event {
		return &change.Event{Op: change.Create, Position: record.DebeziumPosition(commit, lsn), Tx: change.Transaction{CommitTime: at}}
	}
	snapshot := func(at int64) *change.Event {
		return &change.Event{Op: change.Read, Position: change.Position{Seq: record.DebeziumTies}, Tx: change.Transaction{CommitTime: at}}
	}
	var pt *part
	apply := func(ev *change.Event) {
		t.Helper()
		if pt.repeated(ev) {
			t.Fatalf("%v at %d is dropped, behind %v at %d", ev.Position, ev.Tx.CommitTime, pt.advance.Position, pt.committed)
		}
		pt.take(ev, headers{position: pt.next(ev)})
	}
	drop := func(ev *change.Event) {
		t.Helper()
		if !pt.repeated(ev) {
			t.Fatalf("%v at %d is applied, behind %v at %d", ev.Position, ev.Tx.CommitTime, pt.advance.Position, pt.committed)
		}
	}

	// Two transactions side by side, the second to commit with a row before those of the first; then again.
	pt = &part{}
	for range 2 {
		apply(snapshot(10))
	}
	stream := []*change.Event{row(632, 632, 9), row(800, 640, 11), row(800, 904, 11), row(1600, 896, 12), row(1600, 1608, 12)}
	for _, ev := range stream {
		apply(ev)
	}
	for _, ev := range stream {
		drop(ev)
	}
	apply(row(2400, 2400, 13))

	// Three rows of one multi-insert, of which two have come when the connector is killed.
	pt = &part{}
	first, tied := row(800, 808, 11), row(800, 880, 11)
	apply(first)
	apply(tied)
	apply(tied)
	drop(first)
	drop(tied)
	drop(tied)
	apply(tied)
	// And again, with a flush between: what came before the last flush is in the position.
	again := &part{committed: pt.committed, replay: pt.replay}
	again.advance.Position = pt.advance.Position
	pt = again
	drop(first)
	for range 3 {
		drop(tied)
	}
	apply(row(1600, 1608, 12))

	// The source is on another server, whose LSNs are lower: what it commits is new.
	apply(row(8, 16, 20))
	apply(row(8, 24, 20))
	drop(row(8, 16, 20))
	drop(row(8, 24, 20))
	// It is taken anew: the position goes back with the snapshot.
	apply(row(80_000, 80_008, 30))
	apply(snapshot(31))
	apply(row(800, 808, 31))

	// Without a position nothing can be dropped; nor is what we have written ourselves compared with it.
	apply(&change.Event{Op: change.Update, Tx: change.Transaction{CommitTime: 1}})
	pt.advance.Position = change.Position{Era: 1, CommitLSN: 5, Seq: 2}
	apply(row(1, 1, 1))
}
