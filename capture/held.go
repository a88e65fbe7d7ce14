package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A table that cannot go on is held: from the event on that cannot be published nothing of it is, and the others go on.
// The state is in the same Kafka transaction as the events around it: a crash before its commit comes to the same event
// again, a crash after it finds the table held. What the table misses meanwhile is gone when its WAL is confirmed; so it
// goes on only by a reload, whose truncate and rows stand behind all that was published of it.

// setAside holds t if err is a trouble of that table alone and the configuration wants it so; any other err, and nil, it
// gives back.
func (s *session) setAside(ctx context.Context, t *table, err error) error {
	one, ok := errors.AsType[*publish.OneTable](err)
	if !ok || s.config.Source.OnError != onErrorHold {
		return err
	}
	e := one.Err
	s.abandon(t)
	if t.catalog == nil {
		// It has been dropped since: it is in no progress, and nothing is left of it that could be read anew.
		s.meter.trouble(e.Code)
		s.log.Warn("a table that is gone at the source could not be published to its end: the rest of its changes is left out", service.Err(e))
		t.progress.Held = &record.Held{Code: string(e.Code)}
		return s.partHeld(ctx, t)
	}
	at := s.lastCommit
	if s.inTx {
		at = s.tx.CommitLSN
	}
	t.progress.Held = &record.Held{
		Code: string(e.Code), Message: e.Error(), Hint: e.Hint, LSN: record.LSN(at), Since: time.Now().UnixMicro(),
	}
	t.progress.Ranges, t.progress.Reload = nil, false
	s.changed[t.catalog.Relation.OID] = true
	s.tellHeld(t)
	return nil
}

// tellHeld makes it visible that t is held. As long as it is, the status says so of the table.
func (s *session) tellHeld(t *table) {
	s.statusDue = true
	s.told(heldTrouble(t.name(), t.progress.Held))
}

// takeBack lets a table that is held go on, for the request q that loads it anew. It is held again, with its state told
// anew, where what is wrong is wrong still.
func (s *session) takeBack(ctx context.Context, t *table, q *SnapshotRequest) error {
	held := t.progress.Held
	if !q.Reload && len(t.relation().Key) > 0 {
		s.refuse(q, fmt.Errorf("table %q is held: changes of it are missing in its topic, and only a reload makes up for them", t.name()))
		return nil
	}
	// Another instance must not meet what follows without knowing what is missing before it.
	if err := s.pub.Together(ctx); err != nil {
		return err
	}
	if topic, err := record.Topic(s.config.Source.Name, t.relation().Schema, t.relation().Name); err == nil {
		delete(s.refused, topic)
	}
	t.progress.Held, t.progress.Asked = nil, q.ID
	there, err := s.refresh(ctx, t)
	if err == nil && there {
		t.reach()
		t.ahead = true
		s.called(t, t.pub.Relation)
	}
	if err == nil && !there {
		t.progress.Held = held // until the watcher has noticed
	}
	return s.setAside(ctx, t, err)
}

// heldTrouble gives what h says of a table as a trouble.
func heldTrouble(table string, h *record.Held) *trouble.Error {
	hint := strings.TrimSpace(h.Hint + fmt.Sprintf("\ncapture snapshot --table %s --reload     when that is mended: the table goes on, and is loaded anew", service.Quote(table)))
	return &trouble.Error{
		Code: trouble.Code(h.Code), Op: "publish", Subject: subject(table), Cause: errors.New(h.Message),
		Means: fmt.Sprintf("the table is held: none of its changes from %s on is published; all other tables go on", change.LSN(h.LSN)), Hint: hint,
	}
}

// tellHeld takes over why the table is held; nil says that it is not.
func (t *TableStatus) tellHeld(h *record.Held) {
	if h == nil {
		return
	}
	told := tell(heldTrouble(t.Table, h))
	told.Since = time.UnixMicro(h.Since).UTC()
	t.State, t.Held, t.HeldLSN = service.StateHeld, &told, change.LSN(h.LSN).String()
}
