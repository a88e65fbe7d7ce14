package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// refuseMisfits refuses to start with rules that do not fit their tables or their targets, all at once: exit code 2. It does so only where
// somebody is likely to be looking and nothing that runs would be kept down, see unproven. A table whose rule does not fit
// is else held at its first record, as is every one where broker or registry cannot be asked now.
func (s *Sink) refuseMisfits(ctx context.Context, known []string) error {
	misfits, err := s.misfits(ctx, known)
	if len(known) == 0 && retry.Refused(err) {
		return err // as everywhere at a start; a group that has read anything was let in before
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("rules were not compared with their tables at the start; what does not fit will be held", service.Err(err))
	}
	if len(misfits) == 0 {
		return nil
	}
	var text strings.Builder
	for _, m := range misfits {
		fmt.Fprintf(&text, "%s: %s\n  in %s\n", m.At, m.Error(), shortened(m.topics))
		if m.Hint != "" {
			fmt.Fprintf(&text, "  -> %s\n", m.Hint)
		}
	}
	return &trouble.Error{
		Code: trouble.Config, Op: "start with", Subject: "rules that do not fit their tables: " + service.Plural(len(misfits), "fault"),
		Cause: errors.New(strings.TrimRight(text.String(), "\n")),
		Means: "nothing was read or written",
		Hint:  "mend the rules; or leave a table out by a rule before: {source: …, from: …, skip: true}",
	}
}

// unproven gives those of the topics for whose rules a start may be refused. Two things must never happen. A table's columns
// change at the source, and a pipeline that ran does not come up again after a restart: so a rule of which any table was
// read before is not looked at. A tenant is new, and keeps the others down: so neither is, once the group has read anything,
// a source that it has not read. A running pipeline that restarts has thus nothing to look up, unless its rules are new.
func (s *Sink) unproven(known, topics []string) []string {
	proven, sources := map[int]bool{}, map[string]bool{}
	for _, topic := range known {
		sources[sourceOf(topic)] = true
		if r, ok := s.match(topic); ok {
			proven[r.Rule] = true
		}
	}
	return slices.DeleteFunc(topics, func(topic string) bool {
		r, ok := s.match(topic)
		return !ok || proven[r.Rule] || len(known) > 0 && !sources[r.Source]
	})
}

// misfit is one fault of a rule with the topics of the tables that show it.
type misfit struct {
	*rule.Misfit
	topics []string
}

// misfits finds what does not fit of the rules of unproven topics. err is for what kept it from looking: then there are none.
func (s *Sink) misfits(ctx context.Context, known []string) (all []misfit, err error) {
	listing, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	topics, err := kadm.NewClient(s.consumer.Client()).ListTopics(listing)
	if err != nil {
		return nil, kafka.Trouble("list topics of", "Kafka", err)
	}
	plans, err := newestPlans(ctx, s.registry, s.rules, s.latest, s.unproven(known, topics.Names()))
	if err != nil {
		return nil, err
	}
	session := s.warehouse.Session()
	defer session.Close(context.WithoutCancel(ctx))
	looked := map[string]*rule.Misfit{}
	for _, n := range plans {
		found, ok := errors.AsType[*rule.Misfit](n.err)
		if !ok && n.plan != nil {
			if found, err = s.unfit(ctx, session, n.plan, looked); err != nil {
				return nil, err
			}
		}
		if found == nil {
			continue // it fits, or what is wrong is not the rule's
		}
		i := slices.IndexFunc(all, func(m misfit) bool { return m.At == found.At && m.Hint == found.Hint && m.Error() == found.Error() })
		if i < 0 {
			i, all = len(all), append(all, misfit{Misfit: found})
		}
		all[i].topics = append(all[i].topics, n.topic)
	}
	return all, nil
}

// unfit says what is certain of a rule and a target that do not go together, as things are: nil if nothing is. What the
// sink would do to the target is done and rolled back. Tables that many sources have alike are looked at once.
func (s *Sink) unfit(ctx context.Context, session *warehouse.Session, plan *rule.Plan, looked map[string]*rule.Misfit) (*rule.Misfit, error) {
	shape := fmt.Sprint(plan.Rule, plan.Target)
	for i := range plan.Columns {
		shape += fmt.Sprintf(" %q %s", plan.Columns[i].Name, plan.Column(i).Type.Name)
	}
	if found, ok := looked[shape]; ok {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	in, err := session.Inspect(ctx, plan)
	if err == nil {
		err = in.Unfit
	}
	var found *rule.Misfit
	switch t, ok := errors.AsType[*trouble.Error](err); {
	case !ok:
	case t.Code == trouble.TargetMissing, t.Code == trouble.TargetType, t.Code == trouble.SchemaChangeBlocked:
		found = &rule.Misfit{At: plan.Where(), Hint: warehouse.WithoutResume(t.Hint), Cause: fmt.Errorf("%s %s: %w", t.Op, t.Subject, t.Cause)}
	case t.Code == trouble.WarehouseUnreachable:
		return nil, err
	}
	looked[shape] = found
	return found, nil
}
