package sink

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// FormerRule tells of rows that are not as the table's rule says, since they were written under another one, or as they were removed from
// the target by somebody else. It ends when all rows have come again.
type FormerRule struct {
	Until   time.Time `json:"until"`            // rows written, or there, before
	Differs []string  `json:"differs"`          // what of them is not as the rule says
	Target  string    `json:"target,omitempty"` // where they are, if not in the target

	stays  bool   // a read of all rows is not enough
	reload bool   // it takes one that removes what is gone at the source
	sid    string // that they have, where the source has another one now: they do not come again with it
	remove string // the statement that removes those
	keeps  bool   // values of columns that are not written any more: no read changes them
	done   bool   // nothing else is otherwise, so that none is needed
	clear  string // the statement that removes those, where the columns are known
	beside bool   // what a rebuild leaves there of them, nothing removes
	empty  string // the statement that removes all rows of the source, where all come again by a rebuild from what the topics hold
}

// takeRules notes under which rules the partitions are written from now on: by whoever owns progress, where that is not nil, and the claim of each else.
func (s *Sink) takeRules(ctx context.Context, session *warehouse.Session, claims []warehouse.Claim, progress *consume.Partition) error {
	var parts []warehouse.Taken
	add := func(at, by warehouse.Place, epoch int64) {
		if route, ok := s.match(at.Topic); ok {
			parts = append(parts, warehouse.Taken{Ruled: warehouse.Ruled{Place: at, Rule: route.Meaning().Text()}, By: by, Epoch: epoch})
		}
	}
	// Who owns the progress of a source that is written as a whole writes all its tables, and claims them when something comes.
	whole := map[string]*warehouse.Claim{}
	for i := range claims {
		c := &claims[i]
		at := warehouse.Place{Topic: c.Topic, Partition: c.Number}
		if progress != nil {
			add(at, warehouse.Place{Topic: progress.Topic, Partition: progress.Number}, progress.Epoch)
		} else {
			add(at, at, c.Epoch)
		}
		if source, ok := record.ParseProgressTopic(c.Topic); ok && s.rules.Whole(source) {
			whole[source] = c
		}
	}
	if len(whole) > 0 {
		known, err := session.Checkpoints(ctx)
		if err != nil {
			return err
		}
		for at := range known {
			if by := whole[sourceOf(at.Topic)]; by != nil {
				add(at, warehouse.Place{Topic: by.Topic, Partition: by.Number}, by.Epoch)
			}
		}
	}
	if len(parts) == 0 {
		return nil
	}
	changed, err := session.TakeRules(ctx, parts)
	if err != nil || len(changed) == 0 {
		return err
	}
	claimed := map[string][]warehouse.Place{} // of which there will be views
	for i := range claims {
		if c := &claims[i]; leading(s.rules, c.Topic) == c.Topic {
			claimed[c.Topic] = append(claimed[c.Topic], warehouse.Place{Topic: c.Topic, Partition: c.Number})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range changed {
		parts := slices.Concat(claimed[topic], claimed[record.ProgressTopic(sourceOf(topic))])
		s.changed[topic] = &taken{since: time.Now(), parts: parts, ends: map[warehouse.Place]int64{}}
	}
	return nil
}

// taken is a topic that was taken over under another rule, with the ends of its partitions when they were looked at first.
type taken struct {
	since time.Time
	parts []warehouse.Place // that were claimed with it: there is no view of them before the claim is over
	ends  map[warehouse.Place]int64
}

// nothingComes is after how long a partition of which nothing was fetched counts as one without records that are to be applied: the client does not tell.
// A claim is over by then.
const nothingComes = 10 * time.Second

// settled gives the topics taken over under another rule of which all is applied that was there when they were looked at first, and all that their source
// had told of itself. Before, the log does not tell of their rows: the rule may have been changed for a column that the source has renamed, and the
// records of that are still to come. views are of before the rules are read.
func (s *Sink) settled(views []consume.View) (topics []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.changed) == 0 {
		return nil
	}
	of := map[string][]*consume.View{}
	for i := range views {
		of[views[i].Topic] = append(of[views[i].Topic], &views[i])
	}
	for topic, t := range s.changed {
		var there []warehouse.Place
		behind, lately := false, time.Since(t.since) < nothingComes
		for _, v := range slices.Concat(of[topic], of[record.ProgressTopic(sourceOf(topic))]) {
			at := warehouse.Place{Topic: v.Topic, Partition: v.Number}
			there = append(there, at)
			end, known := t.ends[at]
			if !known && v.End >= 0 {
				t.ends[at], end, known = v.End, v.End, true
			}
			behind = behind || known && v.Next < end || !known && lately
		}
		behind = behind || lately && slices.ContainsFunc(t.parts, func(at warehouse.Place) bool { return !slices.Contains(there, at) })
		if !behind {
			topics = append(topics, topic)
		}
	}
	slices.Sort(topics)
	return topics
}

// tellChanged tells in the log what of the rows of topics that are settled is not as their rules say.
func (s *Sink) tellChanged(topics []string, formers map[string][]warehouse.Former) {
	var told []string
	for _, topic := range topics { // a line for all tables of which the same is said
		s.mu.Lock()
		delete(s.changed, topic)
		s.mu.Unlock()
		route, ok := s.match(topic)
		if !ok {
			continue
		}
		differs := formerRules(route, formers[topic])
		if text := fmt.Sprint(route.Rule, differs); len(differs) > 0 && !slices.Contains(told, text) {
			told = append(told, text)
			s.log.Warn("the rule has changed: rows that are in the warehouse are not as it says", "topic", topic, "rule", fmt.Sprintf("tables[%d]", route.Rule),
				"rows", differs[len(differs)-1].Differs, "code", trouble.RowsOutdated, "hint", "sink status says what to do")
		}
	}
}

func byTopic(formers []warehouse.Former) map[string][]warehouse.Former {
	of := map[string][]warehouse.Former{}
	for _, f := range formers {
		of[f.Topic] = append(of[f.Topic], f)
	}
	return of
}

// formerRules says what of rows that were written under former rules is otherwise than the route's would have it; none of which nothing is.
func formerRules(route *rule.Route, formers []warehouse.Former) (out []FormerRule) {
	if len(formers) == 0 { // as of each table, each second
		return nil
	}
	now := route.Meaning()
	for _, f := range formers {
		one := FormerRule{Until: f.Until.UTC()}
		if f.Lost != "" {
			one.stays = now.Stays() && !f.Reload && !f.Absent
			one.Differs, one.reload = []string{f.Lost}, f.Reload
		} else if was, err := rule.ParseMeaning(f.Rule); err == nil {
			one.stays = now.Stays() || was.Stays()
			kept := was.Kept(now)
			one.keeps, one.done, one.clear = kept.Any(), !kept.More, clearing(route, kept.Columns)
			one.Differs = was.Since(now)
			rekeyed := route.Overwrites() && !f.Swept && was.Rekeyed(now, append(route.Keyed(), f.Key...))
			if rekeyed {
				one.Differs = append(one.Differs, "their keys are others: they stay beside those that come again")
				one.done, one.reload = false, true
			}
			switch {
			case was.Target != now.Target:
				one.Target = was.Target
			case was.Moved(now):
				one.sid, one.remove = was.SID, removing(route, was.SID)
			case route.Overwrites() && route.Keeps() && (rekeyed || one.stays && was.Narrowed(now)): // see rule.Meaning.Outlives
				one.stays, one.beside = true, true
				if rekeyed && !slices.Contains(route.Ignored(), "insert") { // else they do not come again
					one.empty = removing(route, route.SID)
				}
			}
		}
		if len(one.Differs) > 0 {
			out = append(out, one)
		}
	}
	return out
}

// clearing gives the statement that removes the values of columns from the rows of a route's source; "" for none.
func clearing(route *rule.Route, columns []string) string {
	if len(columns) == 0 {
		return ""
	}
	set := make([]string, len(columns))
	for i, name := range columns {
		set[i] = postgres.Ident(name) + " = NULL"
	}
	return fmt.Sprintf("UPDATE %s SET %s%s;", targetOf(route), strings.Join(set, ", "), withSID(route, route.SID))
}

// removing gives the statement that removes the rows of a route's target that have a sid, or all where it has none.
func removing(route *rule.Route, sid string) string {
	return fmt.Sprintf("DELETE FROM %s%s;", targetOf(route), withSID(route, sid))
}

func targetOf(route *rule.Route) string {
	return postgres.Ident(route.Target.Schema, route.Target.Table)
}

func withSID(route *rule.Route, sid string) string {
	if route.SIDColumn == "" {
		return ""
	}
	return fmt.Sprintf(" WHERE %s = %s", postgres.Ident(route.SIDColumn), postgres.Literal(sid))
}

// outdated tells of tables with rows that are not as their rule says: of those of which the same is said once.
func (st *Status) outdated() (all []service.Need) {
	at := map[string]int{}
	more := map[int]int{}
	for i := range st.Tables {
		t := &st.Tables[i]
		if len(t.Former) == 0 {
			continue
		}
		n := st.outdatedOf(t)
		key := t.Rule + "\n" + n.Why
		if first, ok := at[key]; ok && service.Accepts(st.accept, n.Code, t.name()) == service.Accepts(st.accept, n.Code, all[first].Subject) {
			more[first]++
			continue
		}
		at[key] = len(all)
		all = append(all, n)
	}
	for i, n := range more {
		all[i].Do = slices.Insert(all[i].Do, 1, service.Step{Note: "and so for the others, which sink status tells with: rows of another rule"})
		all[i].What = fmt.Sprintf("rows of %s and %s more are not as their rule says", all[i].Subject, service.Plural(n, "table"))
	}
	return all
}

func (st *Status) outdatedOf(t *TableStatus) service.Need {
	n := service.Need{Code: trouble.RowsOutdated, Subject: t.name(), Since: t.Former[len(t.Former)-1].Until, What: "rows of " + t.name() + " are not as its rule says"}
	var why, elsewhere, beside, clear, empty []string
	add := func(list *[]string, text string) {
		if text != "" && !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	keeps, stays, reload, left, done := false, false, false, false, true
	for i := range t.Former {
		f := &t.Former[i]
		why = append(why, fmt.Sprintf("rows of before %s: %s", f.Until.Format(time.DateTime+" UTC"), strings.Join(f.Differs, "; ")))
		keeps, stays, reload, left, done = keeps || f.keeps, stays || f.stays, reload || f.reload, left || f.beside, done && f.done
		add(&elsewhere, f.Target)
		add(&clear, f.clear)
		add(&empty, f.empty)
		if !slices.ContainsFunc(st.Tables, func(o TableStatus) bool { return o.Target == t.Target && o.sid == f.sid }) { // else another source has that sid now
			add(&beside, f.remove)
		}
	}
	n.Why = strings.Join(why, ". ")
	switch {
	case !stays && done: // nothing of it comes again
	case !stays && slices.ContainsFunc(st.Sources, func(src SourceStatus) bool { return src.Name == t.Source }):
		how, note := "capture snapshot --wait --table ", "all rows come again, and are written by the rule that there is"
		if reload {
			how, note = "capture snapshot --reload --wait --table ", note+"; those that do not come are removed"
		}
		n.Do = append(n.Do, service.Step{Command: how + service.Quote(t.Table), Note: "where " + t.Source + " is captured: " + note})
	default:
		n.Do = append(n.Do, service.Step{Command: "sink tenant rebuild " + service.Quote(t.Source), Note: "all rows that Kafka has come again out of it, of every table of the source; --plan only looks"})
	}
	for _, target := range elsewhere {
		n.Do = append(n.Do, service.Step{Note: "what is in " + target + " stays there: drop it when nobody needs it"})
	}
	for _, remove := range beside {
		n.Do = append(n.Do, service.Step{Command: remove, Note: "in the warehouse, when all rows have come again and nobody needs those with the sid of before: they stay there, beside the new ones"})
	}
	for _, sql := range clear {
		n.Do = append(n.Do, service.Step{Command: sql, Note: "in the warehouse: the values that are not written any more go; ALTER TABLE … DROP COLUMN does it, too, where nobody else writes the column"})
	}
	if keeps && len(clear) == 0 {
		n.Do = append(n.Do, service.Step{Note: "in " + t.Target + " the values of columns that are not written any more stay: UPDATE … SET … = NULL, or ALTER TABLE … DROP COLUMN where nobody else writes them"})
	}
	for _, sql := range empty { // no command: who copies all of them would lose what does not come again
		n.Do = append(n.Do, service.Step{Note: "rows under keys of before stay beside those that come. To be rid of them, and only where the topics hold everything from the beginning, " +
			"as rows that Kafka does not hold any more are lost by it: " + sql + " in the warehouse, and the rebuild once more"})
	}
	accept := "leaves the rows as they are, if that is meant"
	if keeps || left || len(beside) > 0 {
		accept = "when that is done, or if the rows are meant to stay as they are: no read of them changes what is there still"
	}
	n.Do = append(n.Do, service.Step{Command: "sink rules accept " + service.Quote(t.name()), Note: accept})
	return n
}

// Outdated gives the tables of a source, or one of them, with rows that are not as their rule says.
func (o *Operator) Outdated(ctx context.Context, source, table string) (names, topics []string, err error) {
	all, err := o.session.Formers(ctx)
	if err != nil {
		return nil, nil, err
	}
	formers := byTopic(all)
	for _, topic := range slices.Sorted(maps.Keys(formers)) {
		of, schema, name, ok := record.ParseTopic(topic)
		if !ok || of != source || table != "" && schema+"."+name != table {
			continue
		}
		// Of others nothing is told, and there is nothing to accept.
		if route, ok := matchTopic(o.rules, topic); ok && len(formerRules(route, formers[topic])) > 0 {
			names, topics = append(names, of+"/"+schema+"."+name), append(topics, topic)
		}
	}
	return names, topics, nil
}

// AcceptRules has such rows count as they are. subject is what was asked for.
func (o *Operator) AcceptRules(ctx context.Context, topics []string, subject, reason string) error {
	return o.session.AcceptRules(ctx, topics, subject, reason)
}

// checkFormer tells what of the rows that are in the warehouse would not be as the rules say.
func (s *Sink) checkFormer(ctx context.Context, c *checker, session *warehouse.Session, routes map[string]*rule.Route) {
	written, err := session.Rules(ctx)
	if err != nil {
		c.Failed("rules", err)
		return
	}
	tables := map[string][]string{} // of which the same is said
	for _, w := range written {
		route, ok := routes[w.Topic]
		if !ok {
			continue
		}
		was, err := rule.ParseMeaning(w.Rule)
		if err != nil {
			continue
		}
		if differs := was.Since(route.Meaning()); len(differs) > 0 {
			text := fmt.Sprintf("tables[%d] was another rule when rows were written. Of those: %s", route.Rule, strings.Join(differs, "; "))
			tables[text] = append(tables[text], route.Source+"/"+route.Schema+"."+route.Table)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(tables)) {
		slices.Sort(tables[text])
		c.Warn(trouble.RowsOutdated, "rows", fmt.Sprintf("%s: %s", shortened(tables[text]), text), "after the start: capture snapshot --table …, which has all rows come again; sink status names each table")
	}
}
