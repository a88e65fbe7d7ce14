package sink

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// keeps gives the feeds whose rules say keep or partition.
func keeps(ctx context.Context, session *warehouse.Session, rules *rule.Set) ([]warehouse.Keep, error) {
	feeds, err := session.AllFeeds(ctx)
	if err != nil {
		return nil, err
	}
	var out []warehouse.Keep
	for _, f := range feeds {
		route, ok := matchTopic(rules, f.Topic)
		if !ok || route.Target != f.Target || route.SIDThere() != f.SID {
			continue // written by a rule of before: nobody says what becomes of its rows
		}
		age, by := route.Keep()
		if unit, _ := route.Partition(); age != "" || unit != "" {
			f.SIDColumn = route.SIDColumn
			out = append(out, warehouse.Keep{Feed: f, Age: age, By: by, Drop: route.Drop(), Partition: unit})
		}
	}
	return out, nil
}

// byTarget gives those of which is true, by target: a partition holds rows of all that write it.
func byTarget(list []warehouse.Keep, is func(warehouse.Keep) bool) (targets [][]warehouse.Keep) {
	at := map[rule.Target]int{}
	for _, k := range list {
		if !is(k) {
			continue
		}
		i, ok := at[k.Target]
		if !ok {
			i = len(targets)
			at[k.Target], targets = i, append(targets, nil)
		}
		targets[i] = append(targets[i], k)
	}
	return targets
}

func makes(k warehouse.Keep) bool   { return k.Partition != "" }
func drops(k warehouse.Keep) bool   { return k.Drop != "" }
func forever(k warehouse.Keep) bool { return k.Age == "" }

// gone counts the rows of each topic that went with partitions. Those of a partition go when it is detached.
type gone map[string]int64

func (g gone) add(p warehouse.TablePartition) (rows int64) {
	if p.Deed != warehouse.Detached {
		return 0
	}
	for topic, n := range p.Of {
		g[topic] += n
	}
	return p.Rows
}

// pace waits as long as so many rows may take.
func pace(ctx context.Context, rate int) func(rows int64) error {
	return func(rows int64) error {
		timer := time.NewTimer(time.Duration(rows) * time.Second / time.Duration(rate))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		}
	}
}

// retainer removes rows that are too old. Every sink of the group tries; one at a time does it.
type retainer struct {
	s       *Sink
	session *warehouse.Session // connected only while it is at work
	stage   *service.Stage
	kept    map[string]keptBack // by topic
}

// keptBack is a run that something of the target kept from its end. It is told of until there is another.
type keptBack struct {
	ranAt time.Time
	err   error
}

func newRetainer(s *Sink) *retainer {
	return &retainer{s: s, session: s.warehouse.Session(), stage: s.stages.Stage("retention", waitWarehouse), kept: map[string]keptBack{}}
}

func (r *retainer) run(ctx context.Context) error {
	defer r.session.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(min(r.s.cfg.Retention.Every, time.Minute))
	defer tick.Stop()
	for failures := 0; ; {
		r.stage.Busy()
		err := r.round(ctx)
		r.stage.Idle()
		if ctx.Err() != nil {
			return nil
		}
		// An error that waiting does not mend is waited for, too: /status says what it is, and old rows stay meanwhile.
		r.s.retrying("retention", err)
		var again <-chan time.Time
		if trouble.CodeOf(err) == trouble.WarehouseUnreachable { // or the sink would be said to wait for a server that is back
			failures++
			again = time.After(backoff.Wait(failures))
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-tick.C:
		}
	}
}

// round removes what is too old of the feeds whose last run is long enough ago.
func (r *retainer) round(ctx context.Context) error {
	_, err := r.session.Retain(ctx, func() error {
		list, err := keeps(ctx, r.session, r.s.rules)
		if err != nil {
			return err
		}
		done, err := r.session.Retained(ctx)
		if err != nil {
			return err
		}
		paused := func(k warehouse.Keep) bool { return r.s.pausedTopic(k.Topic) }
		// What was noted by a clock that was far ahead says nothing. What is less ahead is: the clock of this host may be behind that of another sink, and each
		// would not believe what the other has noted.
		early := func(k warehouse.Keep) bool {
			ago, every := time.Since(done[k.Topic].RanAt), r.s.cfg.Retention.Every
			return ago < every && ago > -max(every, 24*time.Hour)
		}
		told := func(p warehouse.TablePartition) {
			r.s.log.Info("a partition was "+string(p.Deed), "table", p.Target.String(), "partition", p.Name.String(), "rows", p.Rows)
		}
		gone, stays := gone{}, map[rule.Target]error{}
		var failed []error
		for _, keeps := range byTarget(list, makes) {
			if err := r.session.MakeAhead(ctx, keeps, told); err != nil {
				failed = append(failed, err)
			}
		}
		for _, keeps := range byTarget(list, drops) {
			if slices.ContainsFunc(keeps, paused) || !slices.ContainsFunc(keeps, func(k warehouse.Keep) bool { return !early(k) }) {
				continue
			}
			if err := r.session.DropPartitions(ctx, keeps, func(p warehouse.TablePartition) {
				told(p)
				r.s.metrics.expired.WithLabelValues(p.Target.String()).Add(float64(gone.add(p)))
			}); err != nil {
				failed, stays[keeps[0].Target] = append(failed, err), err
			}
		}
		if err := r.session.DropForsaken(ctx, told); err != nil {
			failed = append(failed, err)
		}
		for _, k := range list {
			if forever(k) || paused(k) {
				continue
			}
			if early(k) {
				if kept, is := r.kept[k.Topic]; is && kept.ranAt.Equal(done[k.Topic].RanAt) {
					failed = append(failed, kept.err)
				}
				continue
			}
			wait := pace(ctx, r.s.cfg.Retention.Rate)
			e, err := r.session.Expire(ctx, k, gone[k.Topic], func(rows int64) error {
				r.s.metrics.expired.WithLabelValues(k.Target.String()).Add(float64(rows))
				return wait(rows)
			})
			delete(r.kept, k.Topic)
			if err != nil {
				failed = append(failed, err)
			}
			if err := errors.Join(stays[k.Target], err); err != nil {
				r.kept[k.Topic] = keptBack{e.RanAt, err}
			}
			delete(stays, k.Target) // of those that write it, the first tells
			if rows := e.Removed - gone[k.Topic]; rows > 0 {
				r.s.log.Info("old rows were removed", "topic", k.Topic, "table", k.Target.String(), "rows", rows, "keep", string(k.Age))
			}
		}
		return errors.Join(failed...)
	})
	return err
}

// RetentionPlan gives, for each feed whose rule says keep, how many rows are too old now, and the partitions that are to
// be made, detached or dropped.
func (o *Operator) RetentionPlan(ctx context.Context, told func(k warehouse.Keep, e warehouse.Expired), partition func(warehouse.TablePartition)) error {
	list, err := keeps(ctx, o.session, o.rules)
	if err != nil {
		return err
	}
	for _, keeps := range byTarget(list, makes) {
		if err := o.session.PlanAhead(ctx, keeps, partition); err != nil {
			return err
		}
	}
	for _, keeps := range byTarget(list, drops) {
		if err := o.session.PlanPartitions(ctx, keeps, partition); err != nil {
			return err
		}
	}
	if err := o.session.PlanForsaken(ctx, partition); err != nil {
		return err
	}
	for _, k := range slices.DeleteFunc(list, forever) {
		e, err := o.session.CountExpired(ctx, k)
		if err != nil {
			return err
		}
		told(k, e)
	}
	return nil
}

// errRetentionRuns says that a sink is at it.
var errRetentionRuns = errors.New("retention runs already, in a sink or by another sink retention run")

// RunRetention makes the partitions that are missing and removes what is too old now, at most rate rows a second beside
// what is in old partitions. What fails for one target keeps it from no other.
func (o *Operator) RunRetention(ctx context.Context, rate int, told func(k warehouse.Keep, removed int64), partition func(warehouse.TablePartition)) error {
	ours, err := o.session.Retain(ctx, func() error {
		list, err := keeps(ctx, o.session, o.rules)
		failed := []error{err}
		gone, stays := gone{}, map[rule.Target]bool{}
		for _, keeps := range byTarget(list, makes) {
			failed = append(failed, o.session.MakeAhead(ctx, keeps, partition))
		}
		for _, keeps := range byTarget(list, drops) {
			err := o.session.DropPartitions(ctx, keeps, func(p warehouse.TablePartition) {
				gone.add(p)
				partition(p)
			})
			failed, stays[keeps[0].Target] = append(failed, err), err != nil
		}
		failed = append(failed, o.session.DropForsaken(ctx, partition))
		for _, k := range list {
			if forever(k) || stays[k.Target] {
				continue
			}
			e, err := o.session.Expire(ctx, k, gone[k.Topic], pace(ctx, rate))
			failed = append(failed, err)
			if rows := e.Removed - gone[k.Topic]; err == nil || rows > 0 {
				told(k, rows)
			}
			if ctx.Err() != nil || trouble.CodeOf(err) == trouble.WarehouseUnreachable {
				break
			}
		}
		return errors.Join(failed...)
	})
	if err == nil && !ours {
		err = errRetentionRuns
	}
	return err
}
