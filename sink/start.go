package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// refuseMisfits refuses to start with rules that do not fit their tables, all at once: exit code 2. It does so only where
// somebody is likely to be looking and nothing that runs would be kept down, see unproven. A table whose rule does not fit
// is else held at its first record, as is every one where broker or registry cannot be asked now.
func (s *Sink) refuseMisfits(ctx context.Context, known []string) error {
	misfits, err := s.misfits(ctx, known)
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
		Code: trouble.Config, Op: "start with", Subject: "rules that do not fit their tables: " + count(len(misfits), "fault"),
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
	plans, err := newestPlans(ctx, s.registry, s.rules, s.unproven(known, topics.Names()))
	if err != nil {
		return nil, err
	}
	for _, n := range plans {
		found, ok := errors.AsType[*rule.Misfit](n.err)
		if !ok {
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
