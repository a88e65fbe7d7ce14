package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A record says by a number alone which schema it was written with. A registry that was emptied, or restored from a copy that
// lacks what came after it, gives these numbers again, to other schemas:
//
//	capture:  registers orders as 1, customers as 2, orders with another column as 3, and publishes with all of them
//	registry: is restored from a copy with 1 and 2
//	capture:  meets a new version of customers, which gets 3
//	sink:     reads records of customers as orders; or, were it a version of orders, some columns as others
//
// So nothing is published with a number that such a registry gives: a running capture asks for what it has registered before it
// registers more (registry.Client), and now and then, so as to say so before somebody alters a table. What it has
// published stays as right as it was, and so does what it goes on to publish under the same numbers: it is all readable once
// the registry has its schemas again. A start compares with the progress.

// registryLooks is every how many source.refresh the registry is asked: once a minute by default.
const registryLooks = 30

// watchRegistry tells when the registry has lost what was registered, and when it has it again. A registry that does not answer is
// asked again later: who needs it says so.
func (c *Capture) watchRegistry(ctx context.Context) {
	tick := time.NewTicker(registryLooks * c.config.Source.Refresh)
	defer tick.Stop()
	for {
		err := c.registry.Check(ctx)
		switch lost := c.lost.Load(); {
		case errors.Is(err, registry.ErrLost) && lost == nil:
			lost = publish.LostSchemas("look up", "the schemas of the topics", err)
			lost.Means = "what is published can be read only by who knows its schemas already; a table that is altered, or new, stops capture"
			c.lost.Store(lost)
			c.meter.trouble(lost.Code)
			c.log.Warn("something is wrong", service.Err(lost))
		case err == nil && lost != nil:
			c.lost.Store(nil)
			c.log.Info("the registry has its schemas again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// errOtherTable says that a number is that of another table's schema, or of none of ours.
var errOtherTable = errors.New("it is not one of this table")

// version gives the version of a table whose schema the registry has under id. Errors: registry.ErrUnknownSchema, errOtherTable.
func (s *session) version(ctx context.Context, id int, oid schema.OID) (*schema.Relation, error) {
	done := s.stage.Hand(s.others.registry, waitRegistry)
	text, err := s.registry.Schema(ctx, id)
	done()
	if err != nil {
		return nil, err
	}
	decoder, err := record.NewDecoder(text)
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w: %w", id, errOtherTable, err)
	}
	if is := decoder.Relation(); is.OID != oid {
		return nil, fmt.Errorf("schema %d: %w, but of table %q", id, errOtherTable, is.QualifiedName())
	}
	return decoder.Relation(), nil
}

// beginVersion takes up a table at the start of a session: was is its progress. The version at which the stream was is
// known by its schema.
func (s *session) beginVersion(ctx context.Context, t *table, was record.TableProgress) error {
	t.reach()
	s.coverKnown(t)
	if t.ahead = was.SchemaID == 0; t.ahead {
		return nil
	}
	if was.SchemaID == t.pub.SchemaID() {
		if was.Schemas != "" && was.Schemas != t.pub.Schemas() {
			return lostSchemas(t, fmt.Errorf("schema %d, which it had, is that of another version now", was.SchemaID))
		}
		return nil
	}
	seen, err := s.version(ctx, was.SchemaID, t.catalog.Relation.OID)
	switch {
	case errors.Is(err, registry.ErrUnknownSchema) && t.pub.SchemaID() > was.SchemaID:
		s.log.Warn("the registry has lost the schema that a table had: alterations of it meanwhile are not noticed",
			"table", t.name(), "schema_id", was.SchemaID, "hint", "if it was altered: capture snapshot --table "+t.name())
		return nil
	case errors.Is(err, registry.ErrUnknownSchema), errors.Is(err, errOtherTable): // it counts from the beginning again
		return lostSchemas(t, err)
	case err != nil:
		return registry.Trouble("look up the version before of", subject(t.name()), err)
	}
	t.seen = seen
	s.cover(t, seen, false)
	t.progress.SchemaID, t.progress.Schemas, t.progress.Files = was.SchemaID, was.Schemas, was.Files
	return nil
}

// lostSchemas is why a start ends: nothing was published.
func lostSchemas(t *table, cause error) error {
	return publish.LostSchemas("look up the version before of", subject(t.name()), cause)
}
