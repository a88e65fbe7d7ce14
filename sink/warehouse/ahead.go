package warehouse

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// period is the time of a partition, in UTC.
type period struct {
	from, to time.Time
	unit     string
}

// units says how partitions are called, and how far ahead they are made: so far that nobody notices if no sink runs for
// some days.
var units = map[string]struct {
	form, ahead string
	begins      func(t time.Time) bool
}{
	"day":   {"_2006_01_02", "7 days", func(time.Time) bool { return true }},
	"week":  {"_2006_01_02", "4 weeks", func(t time.Time) bool { return t.Weekday() == time.Monday }},
	"month": {"_2006_01", "3 months", func(t time.Time) bool { return t.Day() == 1 }},
	"year":  {"_2006", "1 year", func(t time.Time) bool { return t.YearDay() == 1 }},
}

// moveRows is how many rows of the default partition a new one takes over, at most: in one transaction, at the end of which
// the default partition is locked while it is looked through.
const moveRows = 100_000

// defaultSuffix ends the name of the default partition of a target that is created.
const defaultSuffix = "_default"

// table gives the name of the partition. One that is cut, since others have part of its time, is called by the day on
// which it begins, or the second.
func (p period) table(target string) string {
	form := units[p.unit].form
	switch from := p.from; {
	case from != from.Truncate(24*time.Hour):
		form = "_2006_01_02_150405"
	case !units[p.unit].begins(from):
		form = "_2006_01_02"
	}
	return suffixed(target, p.from.Format(form))
}

// suffixed appends to a name; one that gets too long for Postgres is cut, and told apart from others by a sum.
func suffixed(name, suffix string) string {
	const most = 63
	if len(name)+len(suffix) <= most {
		return name + suffix
	}
	sum := fmt.Sprintf("_%08x", crc32.ChecksumIEEE([]byte(name)))
	return strings.ToValidUTF8(name[:most-len(suffix)-len(sum)], "") + sum + suffix
}

// timeColumn is the column by which a target is partitioned.
func timeColumn(have catalogColumns, target rule.Target, name string) (*catalogColumn, error) {
	c := have.column(name)
	cause := fmt.Errorf("it has no column %q, by which partition goes", name)
	switch {
	case c == nil:
	case c.base == "timestamp with time zone", c.base == "timestamp without time zone", c.base == "date":
		return c, nil
	default:
		cause = fmt.Errorf("column %q, by which partition goes, is %s", name, c.full)
	}
	return nil, &trouble.Error{
		Code: trouble.TargetType, Op: "make partitions of", Subject: fmt.Sprintf("table %q", target.String()), Cause: cause,
		Means: "no partition is made; all else goes on", Hint: "name a column of the target that is a timestamp or a date with by in the rule",
	}
}

// literal gives a bound of the span as the column has it.
func (c *catalogColumn) literal(t time.Time) string {
	if c.base == "timestamp with time zone" {
		return postgres.Literal(t.Format("2006-01-02 15:04:05.999999+00"))
	}
	return postgres.Literal(t.Format("2006-01-02 15:04:05.999999"))
}

// missing gives the partitions that a target should have and has not, and the default partition, "" for none. Time that
// others have, or a part of it, is theirs. ages are how long rows are kept. Of two clocks each has its own: one that is wrong by more than partitions
// are made ahead would have rows of today refused.
func missing(ctx context.Context, db reader, target rule.Target, unit, by string, ages []string) (c *catalogColumn, list []TablePartition, rest string, err error) {
	have, err := readColumns(ctx, db, target)
	if err != nil || len(have) == 0 {
		return nil, nil, "", err
	}
	if c, err = timeColumn(have, target, by); err != nil {
		return nil, nil, "", err
	}
	ok, err := ranged(ctx, db, target, by)
	if err == nil && !ok {
		err = &trouble.Error{
			Code: trouble.TargetType, Op: "make partitions of", Subject: fmt.Sprintf("table %q", target.String()),
			Cause: fmt.Errorf("it is not partitioned by ranges of column %q alone", by),
			Means: "no partition is made; all else goes on",
			Hint:  fmt.Sprintf("make it anew with PARTITION BY RANGE (%s), or leave partition out of the rule", postgres.Ident(by)),
		}
	}
	if err != nil {
		return nil, nil, "", err
	}
	parent := postgres.Ident(target.Schema, target.Table)
	err = db.QueryRow(ctx, `SELECT coalesce((SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_partitioned_table p
		  JOIN pg_class c ON c.oid = p.partdefid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.partrelid = $1::text::regclass), '')`, parent).Scan(&rest)
	if err != nil {
		return nil, nil, "", err
	}
	bound := fmt.Sprintf("(%%s)::%s", c.base)
	if c.base == "timestamp with time zone" {
		bound += " AT TIME ZONE 'UTC'"
	}
	from, to := fmt.Sprintf(bound, `substring(bounds FROM ' FROM \(''([^'']*)''\)')`), fmt.Sprintf(bound, `substring(bounds FROM ' TO \(''([^'']*)''\)$')`)
	rows, err := db.Query(ctx, fmt.Sprintf(`
		WITH taken AS (
			SELECT coalesce(range_agg(tsrange(%s, %s)), '{}') AS times
			  FROM (SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::text::regclass) p
			 WHERE bounds <> 'DEFAULT'
		), clock AS (SELECT at AT TIME ZONE 'UTC' AS now FROM unnest(ARRAY[now(), $5::timestamptz]) at
		), wanted AS (
			SELECT DISTINCT period FROM clock, generate_series(date_trunc($2, now - (SELECT coalesce(max(a::interval), '0') FROM unnest($3::text[]) a)),
			       date_trunc($2, now + $4::text::interval), ('1 ' || $2)::interval) period
		)
		SELECT lower(free), upper(free)
		  FROM taken, wanted, unnest(tsmultirange(tsrange(period, period + ('1 ' || $2)::interval)) - times) free
		 ORDER BY 1`, from, to), parent, unit, ages, units[unit].ahead, hostClock())
	if err != nil {
		return nil, nil, "", err
	}
	list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (TablePartition, error) {
		p := TablePartition{Target: target, Deed: Made, span: period{unit: unit}}
		err := row.Scan(&p.span.from, &p.span.to)
		p.Name = rule.Target{Schema: target.Schema, Table: p.span.table(target.Table)}
		p.Bounds = fmt.Sprintf("FOR VALUES FROM (%s) TO (%s)", c.literal(p.span.from), c.literal(p.span.to))
		return p, err
	})
	return c, list, rest, err
}

// within is the condition that a row t belongs to a partition by column c.
func (p *TablePartition) within(c *catalogColumn) string {
	name := postgres.Ident(c.name)
	return fmt.Sprintf("t.%s >= %s AND t.%[1]s < %[3]s", name, c.literal(p.span.from), c.literal(p.span.to))
}

// inRest counts the rows of a partition that is to be made, which the default partition has.
func (p *TablePartition) inRest(ctx context.Context, db reader, c *catalogColumn, rest string) error {
	if rest == "" {
		return nil
	}
	if err := db.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s t WHERE %s", rest, p.within(c))).Scan(&p.Rows); err != nil || p.Rows <= moveRows {
		return err
	}
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "make partition of", Subject: fmt.Sprintf("table %q", p.Target.String()),
		Cause: fmt.Errorf("the default partition has %d rows of %q, and no more than %d are moved at once", p.Rows, p.Name.String(), moveRows),
		Means: "they stay where they are; other partitions and all else go on",
		Hint: fmt.Sprintf("move them when nobody minds: BEGIN; CREATE TABLE %[1]s (LIKE %[2]s INCLUDING DEFAULTS INCLUDING CONSTRAINTS); WITH d AS (DELETE FROM %[3]s t WHERE %[4]s RETURNING *) INSERT INTO %[1]s SELECT * FROM d; ALTER TABLE %[2]s ATTACH PARTITION %[1]s %[5]s; COMMIT;",
			p.quoted(), postgres.Ident(p.Target.Schema, p.Target.Table), rest, p.within(c), p.Bounds),
	}
}

// make makes a partition, with the rows that the default partition has of it. It is made beside the target and attached,
// which locks no other partition than that.
func (p *TablePartition) make(ctx context.Context, tx pgx.Tx, c *catalogColumn, rest string) error {
	parent := postgres.Ident(p.Target.Schema, p.Target.Table)
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)",
		p.quoted(), parent)); err != nil {
		return err
	}
	if rest != "" {
		have, err := readColumns(ctx, tx, p.Target)
		if err != nil {
			return err
		}
		var names []string
		for i := range have {
			if !have[i].generated {
				names = append(names, postgres.Ident(have[i].name))
			}
		}
		columns := strings.Join(names, ", ")
		if _, err := tx.Exec(ctx, fmt.Sprintf("WITH d AS (DELETE FROM %s t WHERE %s RETURNING %s) INSERT INTO %s (%[3]s) SELECT %[3]s FROM d",
			rest, p.within(c), columns, p.quoted())); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s %s", parent, p.quoted(), p.Bounds))
	return err
}

// missing gives the partitions that the target of a plan should have and has not, as far as the plan knows.
func (s *Session) missing(ctx context.Context, tx pgx.Tx, plan *rule.Plan) (c *catalogColumn, list []TablePartition, rest string, err error) {
	unit, by := plan.Partition()
	if unit == "" {
		return nil, nil, "", nil
	}
	var ages []string
	if age, _ := plan.Keep(); age != "" {
		ages = append(ages, string(age))
	}
	return missing(ctx, tx, plan.Target, unit, by, ages)
}

// ahead makes the partitions that a new target should have, as a part of tx.
func (s *Session) ahead(ctx context.Context, tx pgx.Tx, plan *rule.Plan) error {
	c, list, rest, err := s.missing(ctx, tx, plan)
	for i := range list {
		if err == nil {
			err = list[i].make(ctx, tx, c, rest)
		}
	}
	return err
}

// aheadOfRows is ahead for a target without default partition, where rows would be refused that retention has made no
// partition for yet. What keeps it from that, retention says.
func (s *Session) aheadOfRows(ctx context.Context, tx pgx.Tx, plan *rule.Plan) {
	if unit, _ := plan.Partition(); unit == "" || s.inspecting {
		return
	}
	_ = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
		c, list, rest, err := s.missing(ctx, tx, plan)
		for i := range list {
			if err == nil && rest == "" {
				err = list[i].make(ctx, tx, c, rest)
			}
		}
		return err
	})
}

// partitions finds for Inspect what becomes of the partitions of a plan's target; unfit is why nothing does.
func (s *Session) partitions(ctx context.Context, tx pgx.Tx, plan *rule.Plan) (ahead []TablePartition, unfit, err error) {
	_, list, _, err := s.missing(ctx, tx, plan)
	if t, ok := errors.AsType[*trouble.Error](err); ok {
		return nil, t, nil
	}
	if err != nil || plan.Drop() == "" {
		return list, nil, err
	}
	_, by := plan.Keep()
	ok, err := ranged(ctx, tx, plan.Target, by)
	if err != nil || ok {
		return list, nil, err
	}
	return list, &trouble.Error{
		Code: trouble.TargetType, Op: "drop old partitions of", Subject: targetName(plan),
		Cause: fmt.Errorf("it is not partitioned by ranges of column %q alone", by),
		Means: "nothing old will ever go from it",
		Hint:  "leave drop out of the rule: then rows are removed one by one; or make the table anew, by hand or by partition: month in the rule",
	}, nil
}

// PlanAhead tells which partitions MakeAhead would make now.
func (s *Session) PlanAhead(ctx context.Context, keeps []Keep, told func(TablePartition)) error {
	return s.eachAhead(ctx, keeps, func(p *TablePartition, _ *catalogColumn, _ string) error {
		told(*p)
		return nil
	})
}

// MakeAhead makes the partitions that a target should have and has not, within Retain. keeps are all feeds of the target
// whose rule says partition.
func (s *Session) MakeAhead(ctx context.Context, keeps []Keep, told func(TablePartition)) error {
	return s.eachAhead(ctx, keeps, func(p *TablePartition, c *catalogColumn, rest string) error {
		err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+detachWait+`'`)
			if err == nil {
				err = p.make(ctx, tx, c, rest)
			}
			return err
		})
		if err == nil {
			told(*p)
		}
		return err
	})
}

// eachAhead does something for each partition that is missing; an error of one does not keep it from the others.
func (s *Session) eachAhead(ctx context.Context, keeps []Keep, do func(p *TablePartition, c *catalogColumn, rest string) error) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	first, subject := &keeps[0], fmt.Sprintf("table %q", keeps[0].Target.String())
	var ages []string
	for i := range keeps {
		k := &keeps[i]
		if k.By != first.By || k.Partition != first.Partition {
			return &trouble.Error{
				Code: trouble.RuleConflict, Op: "make partitions of", Subject: subject,
				Cause: fmt.Errorf("its rules say a %s of %q and a %s of %q", first.Partition, first.By, k.Partition, k.By),
				Means: "no partition is made; all else goes on", Hint: "give all rules for it the same partition and by",
			}
		}
		if k.Age != "" {
			ages = append(ages, string(k.Age))
		}
	}
	c, list, rest, err := missing(ctx, s.conn, first.Target, first.Partition, first.By, ages)
	if err != nil {
		return s.maintaining("make partitions of", first.Target, "no partition is made; all else goes on", err)
	}
	var failed []error
	for i := range list {
		err := list[i].inRest(ctx, s.conn, c, rest)
		if err == nil {
			err = do(&list[i], c, rest)
		}
		if err != nil {
			failed = append(failed, s.maintaining("make partition of", first.Target, "it is not made; other partitions and all else go on", err))
		}
	}
	return errors.Join(failed...)
}
