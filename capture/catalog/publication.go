package catalog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// Publications names the two publications of a source. Full publishes all operations of the tables that have a
// usable replica identity; Insert publishes INSERT and TRUNCATE of the others, so that their UPDATE and DELETE
// never fail because a table was published. Both publish partitions as their root, and stored generated columns where the
// server can (PostgreSQL 18).
//
// A partitioned table without a primary key whose partitions are all REPLICA IDENTITY FULL is in both: its root in
// Insert, its partitions, one by one, in Full. Postgres adds the operations up and still sends every change as the
// root's. A partition made later, which has no identity, is then published for INSERT only, and the application's
// UPDATE of it goes on working until the catalog is looked at again.
type Publications struct{ Full, Insert string }

// member is a table in a publication, as pg_publication_rel has it.
type member struct {
	oid          schema.OID
	schema, name string
	row          uint32 // OID of the membership: another one when the table was taken out and put in again
	part         bool   // only some of its rows or columns are published
}

// plan says which tables belong into which publication.
func plan(tables []*Table) (full, insert []member) {
	for _, t := range tables {
		root := member{oid: t.Relation.OID, schema: t.Relation.Schema, name: t.Relation.Name}
		switch {
		case t.Level == All && t.FullLeaves:
			insert = append(insert, root)
			for _, l := range t.Leaves {
				full = append(full, member{oid: l.OID, schema: l.Schema, name: l.Name})
			}
		case t.Level == All:
			full = append(full, root)
		case t.Level == InsertOnly:
			insert = append(insert, root)
		}
	}
	return full, insert
}

// Ensure makes the publications publish exactly tables, as their levels say, sets Member and Published of each, and says which of their
// partitions are empty. A table that moves from one to the other is in one transaction never in neither; one that somebody has had published
// in part is put in anew. It waits for no lock longer than a few seconds. Where one is not free, tables that are new, as known does not have them and
// nothing of them is published, are LeftOut so that they keep nobody waiting; late is why. Where that does not help it fails. Either way it is to be
// tried again.
func (c *Catalog) Ensure(ctx context.Context, p Publications, tables []*Table, known map[schema.OID]bool) (late, err error) {
	if err = c.ensure(ctx, p, tables); postgres.SQLState(err) != "55P03" { // a lock is not free
		return nil, err
	}
	left, leaveErr := c.leaveNew(ctx, p, tables, known)
	if leaveErr != nil || !left {
		return nil, cmp.Or(leaveErr, err)
	}
	if again := c.ensure(ctx, p, tables); again != nil {
		return nil, again
	}
	return err, nil
}

// leaveNew makes those of tables LeftOut that are new, see Ensure. Where none would be left it changes nothing.
func (c *Catalog) leaveNew(ctx context.Context, p Publications, tables []*Table, known map[schema.OID]bool) (left bool, err error) {
	published, err := query(ctx, c.conn, "list publications", pgx.RowTo[uint32],
		`select r.prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname in ($1, $2)`, p.Full, p.Insert)
	if err != nil {
		return false, err
	}
	var fresh []*Table
	stay := 0
	for _, t := range tables {
		switch {
		case t.Level == LeftOut:
		case known[t.Relation.OID], slices.Contains(published, uint32(t.Relation.OID)),
			slices.ContainsFunc(t.Leaves, func(l Leaf) bool { return slices.Contains(published, uint32(l.OID)) }):
			stay++
		default:
			fresh = append(fresh, t)
		}
	}
	if len(fresh) == 0 || stay == 0 {
		return false, nil
	}
	for _, t := range fresh {
		t.Level, t.Reason, t.Help = LeftOut, "a lock is in the way of publishing it: it is captured, with all its rows, when that is gone", ""
	}
	return true, nil
}

// ensure is Ensure where nothing is left out. What a publication publishes of all its tables is put right first, which waits for no lock on a table.
func (c *Catalog) ensure(ctx context.Context, p Publications, tables []*Table) error {
	full, insert := plan(tables)
	// LeaveOut found it in neither. Where it is in one by now, somebody with its owner's rights has brought it there since, as it says.
	var foreign []member
	for _, t := range tables {
		if t.Foreign && !t.FullLeaves {
			foreign = append(foreign, member{oid: t.Relation.OID})
		}
	}
	both := []aim{{p.Full, allOperations, full, foreign}, {p.Insert, insertOperations, insert, foreign}}
	for _, a := range both {
		if err := c.alter(ctx, a.name, func(tx pgx.Tx) error { return a.restore(ctx, tx) }); err != nil {
			return err
		}
	}
	rows, as := map[schema.OID]uint32{}, map[string]publication{}
	err := c.alter(ctx, p.Full, func(tx pgx.Tx) error {
		for _, a := range both {
			have, err := a.ensure(ctx, tx)
			if err != nil {
				return err
			}
			for _, m := range have {
				rows[m.oid] = m.row
			}
			var is publication
			if err := tx.QueryRow(ctx, `select oid, xmin::text::int8 from pg_publication where pubname = $1`, a.name).Scan(&is.oid, &is.xmin); err != nil {
				return publicationTrouble(a.name, err)
			}
			as[a.name] = is
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Member = rows[t.Relation.OID]; t.FullLeaves { // it is in both, in parts: those come and go
			t.Member += as[p.Full].oid
		}
		t.altered.full, t.altered.insert = as[p.Full].xmin, as[p.Insert].xmin
		t.Published = t.PublishedAs(t.Level, t.FullLeaves)
	}
	return c.findEmpty(ctx, tables) // not before: who has written to a partition by now may have done so before it was published
}

// PublishedAs is Published if the table were published as it was before: at a level, and its partitions one by one or not. Only Ensure finds it out.
func (t *Table) PublishedAs(level Level, parts bool) uint32 {
	switch {
	case level == InsertOnly:
		return t.altered.insert
	case parts:
		return t.altered.full + t.altered.insert
	}
	return t.altered.full
}

// alter has do alter the publication called name in a transaction that waits for no lock longer than a few seconds.
func (c *Catalog) alter(ctx context.Context, name string, do func(pgx.Tx) error) error {
	tx, err := c.conn.Begin(ctx)
	if err != nil {
		return Unreachable("begin", "", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after Commit it does nothing
	if _, err := tx.Exec(ctx, `set local lock_timeout = '3s'`); err != nil {
		return publicationTrouble(name, err)
	}
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return publicationTrouble(name, err)
	}
	return nil
}

// publication is one of ours as Ensure has made it. See Table for what it says.
type publication struct{ oid, xmin uint32 }

// aim is what a publication is to be.
type aim struct {
	name, operations string
	want             []member
	foreign          []member // which stay as they are
}

// present is what a publication publishes of its tables, beside what it is to.
type present struct {
	exists  bool
	whole   bool   // no less
	fits    bool   // no more either
	options string // with which it does
}

func (a aim) ask(ctx context.Context, tx pgx.Tx) (is present, err error) {
	var generated bool
	err = tx.QueryRow(ctx, `
		select count(*) > 0,
		       coalesce(bool_and(`+lackingOf("$2")+` = ''), false),
		       coalesce(bool_and(pubviaroot and pubinsert and pubtruncate and pubupdate = $2 and pubdelete = $2
		                         and coalesce(to_jsonb(p)->>'pubgencols', 's') = 's'), false),
		       current_setting('server_version_num')::int >= 180000
		  from pg_publication p where pubname = $1`, a.name, strings.Contains(a.operations, "update")).Scan(&is.exists, &is.whole, &is.fits, &generated)
	if err != nil {
		return is, publicationTrouble(a.name, err)
	}
	is.options = publicationOptions(a.operations, generated)
	return is, nil
}

// refused is why it could not be altered.
func (a aim) refused(is present, err error) error {
	e := publicationTrouble(a.name, err)
	if is.exists && !is.whole {
		e.Means = "somebody has had it publish less: changes of its tables do not arrive; the tables are read anew when it publishes all"
		if e.Code == trouble.SourceRights {
			e.Hint = alterSQL(a.name, is.options) + "   as the publication's owner"
		}
	}
	return e
}

// restore has a publication that publishes less than it is to publish all. Not one that a table has to leave, which ensure does in the same
// transaction: the table may have no identity any more, and while all is published its UPDATE fails.
func (a aim) restore(ctx context.Context, tx pgx.Tx) error {
	is, err := a.ask(ctx, tx)
	if err != nil || !is.exists || is.whole {
		return err
	}
	have, err := members(ctx, tx, a.name)
	if err != nil || len(without(without(have, a.foreign), a.want)) > 0 {
		return err
	}
	if _, err := tx.Exec(ctx, alterSQL(a.name, is.options)); err != nil {
		return a.refused(is, err)
	}
	return nil
}

// ensure gives the members that the publication then has, but for foreign ones.
func (a aim) ensure(ctx context.Context, tx pgx.Tx) ([]member, error) {
	is, err := a.ask(ctx, tx)
	if err != nil {
		return nil, err
	}
	switch {
	case !is.exists:
		_, err = tx.Exec(ctx, `create publication `+postgres.Ident(a.name)+` with`+is.options)
	case !is.fits:
		_, err = tx.Exec(ctx, alterSQL(a.name, is.options))
	}
	if err != nil {
		return nil, a.refused(is, err)
	}
	have, err := members(ctx, tx, a.name)
	if err != nil {
		return nil, err
	}
	have = without(have, a.foreign)
	changed, err := a.alterMembers(ctx, tx, have)
	if err != nil {
		return nil, a.refused(is, err)
	}
	if !changed {
		return have, nil
	}
	return members(ctx, tx, a.name)
}

// publicationOptions is what stands behind WITH, or SET.
func publicationOptions(operations string, generated bool) string {
	options := " (publish = '" + operations + "', publish_via_partition_root = true"
	if generated {
		options += ", publish_generated_columns = stored"
	}
	return options + ")"
}

func alterSQL(name, options string) string {
	return "ALTER PUBLICATION " + postgres.Ident(name) + " SET" + options + ";"
}

// SQL gives the statements by which an administrator makes the publications as Ensure would, on a server of this major
// version.
func (p Publications) SQL(tables []*Table, major int) string {
	full, insert := plan(tables)
	var b strings.Builder
	for _, one := range []struct {
		name, operations string
		tables           []member
	}{{p.Full, allOperations, full}, {p.Insert, insertOperations, insert}} {
		fmt.Fprintf(&b, "CREATE PUBLICATION %s", postgres.Ident(one.name))
		for i, m := range one.tables {
			b.WriteString([]string{" FOR TABLE ONLY ", ",\n    ONLY "}[min(i, 1)] + postgres.Ident(m.schema, m.name))
		}
		fmt.Fprintf(&b, "\n    WITH%s;\n", publicationOptions(one.operations, major >= 18))
	}
	return b.String()
}

// What the two publications publish.
const (
	allOperations    = "insert, update, delete, truncate"
	insertOperations = "insert, truncate"
)

// alterMembers gives the server's own error.
func (a aim) alterMembers(ctx context.Context, tx pgx.Tx, have []member) (changed bool, err error) {
	whole := slices.DeleteFunc(slices.Clone(have), func(m member) bool { return m.part })
	part := without(have, whole)
	for _, step := range []struct {
		verb string
		list []member
	}{{"drop", part}, {"add", without(a.want, whole)}, {"drop", without(whole, a.want)}} {
		if len(step.list) == 0 {
			continue
		}
		changed = true
		names := make([]string, len(step.list))
		for i, m := range step.list {
			names[i] = postgres.Ident(m.schema, m.name)
		}
		// Without ONLY a table's inheritance children would come with it; a partitioned table means the same either way.
		_, err := tx.Exec(ctx, `alter publication `+postgres.Ident(a.name)+` `+step.verb+` table only `+strings.Join(names, ", only "))
		if err != nil {
			return false, err
		}
	}
	return changed, nil
}

func without(list, other []member) []member {
	var rest []member
	for _, m := range list {
		if !slices.ContainsFunc(other, func(o member) bool { return o.oid == m.oid }) {
			rest = append(rest, m)
		}
	}
	return rest
}

func members(ctx context.Context, tx pgx.Tx, name string) ([]member, error) {
	rows, err := tx.Query(ctx, `
		select c.oid, n.nspname::text, c.relname::text, r.oid,
		       coalesce(to_jsonb(r)->>'prqual', to_jsonb(r)->>'prattrs') is not null
		  from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
		  join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
		 where p.pubname = $1`, name)
	if err != nil {
		return nil, publicationTrouble(name, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (member, error) {
		var m member
		err := row.Scan((*uint32)(&m.oid), &m.schema, &m.name, &m.row, &m.part)
		return m, err
	})
	if err != nil {
		return nil, publicationTrouble(name, err)
	}
	return list, nil
}

func publicationTrouble(name string, err error) *trouble.Error {
	e := &trouble.Error{
		Code: trouble.Publication, Op: "make publication", Subject: quoted(name), Cause: postgres.Describe(err),
		Means: "nothing was changed; tables that are not yet published are not captured",
		Hint:  "it is tried again by itself",
	}
	if postgres.SQLState(err) == "42501" {
		e.Code = trouble.SourceRights
		e.Hint = "capture's role must have CREATE on the database, and the rights of the tables' owner: capture init DSN --role prints the statements"
	}
	return e
}

// Lacking is a publication of ours that publishes less than it is to.
type Lacking struct {
	Name   string
	Lacks  string // for people: "UPDATE, DELETE"
	Mended bool   // the role may alter it, as Ensure does
	Help   string // SQL that has it publish all
}

// LackingPublications gives those of p that are there and publish less than capture wants, as somebody has altered them.
func (c *Catalog) LackingPublications(ctx context.Context, p Publications) ([]Lacking, error) {
	return query(ctx, c.conn, "list publications", func(row pgx.CollectableRow) (Lacking, error) {
		var l Lacking
		var generated bool
		if err := row.Scan(&l.Name, &l.Lacks, &l.Mended, &generated); err != nil {
			return l, err
		}
		operations := allOperations
		if l.Name == p.Insert {
			operations = insertOperations
		}
		l.Help = alterSQL(l.Name, publicationOptions(operations, generated))
		return l, nil
	}, `select name, lacks, may, current_setting('server_version_num')::int >= 180000
	      from (select pubname::text as name, pg_has_role(pubowner, 'usage') as may, `+lackingOf("pubname = $1")+` as lacks from pg_publication where pubname in ($1, $2)) l
	     where lacks <> '' order by name`, p.Full, p.Insert)
}

// lackingOf is the expression of what a row of pg_publication publishes less than it is to, for people; empty where it is nothing. updates is the
// condition that UPDATE and DELETE are asked of it.
func lackingOf(updates string) string {
	return `concat_ws(', ', case when not pubinsert then 'INSERT' end,
	                   case when not pubupdate and ` + updates + ` then 'UPDATE' end, case when not pubdelete and ` + updates + ` then 'DELETE' end,
	                   case when not pubtruncate then 'TRUNCATE' end, case when not pubviaroot then 'partitions as their table' end)`
}

// Breaking is a table that a publication of somebody else publishes although its UPDATE or DELETE fail because
// of that.
type Breaking struct{ Publication, Schema, Table string }

// BreakingPublications lists tables, of those given, whose UPDATE and DELETE the server refuses because some
// publication has them.
func (c *Catalog) BreakingPublications(ctx context.Context, tables []*Table) ([]Breaking, error) {
	var oids []uint32
	for _, t := range tables {
		if t.Level == InsertOnly && !t.Partitioned {
			oids = append(oids, uint32(t.Relation.OID))
		}
	}
	return query(ctx, c.conn, "list publications", func(row pgx.CollectableRow) (Breaking, error) {
		var b Breaking
		err := row.Scan(&b.Publication, &b.Schema, &b.Table)
		return b, err
	}, `select distinct p.pubname::text, t.schemaname::text, t.tablename::text
	      from pg_publication p join pg_publication_tables t on t.pubname = p.pubname
	      join pg_namespace n on n.nspname = t.schemaname
	      join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
	     where (p.pubupdate or p.pubdelete) and c.oid = any($1::oid[])`, oids)
}

// HavePublications says whether both are there, whatever they publish.
func (c *Catalog) HavePublications(ctx context.Context, p Publications) (bool, error) {
	var n int
	if err := c.conn.QueryRow(ctx, `select count(*) from pg_publication where pubname in ($1, $2)`, p.Full, p.Insert).Scan(&n); err != nil {
		return false, Unreachable("list publications", "", err)
	}
	return n == 2, nil
}

// DropPublications removes both.
func (c *Catalog) DropPublications(ctx context.Context, p Publications) error {
	for _, name := range []string{p.Full, p.Insert} {
		if _, err := c.conn.Exec(ctx, fmt.Sprintf(`drop publication if exists %s`, postgres.Ident(name))); err != nil {
			e := &trouble.Error{
				Code: trouble.Publication, Op: "drop publication", Subject: quoted(name), Cause: postgres.Describe(err),
				Means: "it stays, and keeps no WAL", Hint: "try again",
			}
			if postgres.SQLState(err) == "42501" {
				e.Code = trouble.SourceRights
				e.Hint = fmt.Sprintf("DROP PUBLICATION IF EXISTS %s, %s;   as their owner", postgres.Ident(p.Full), postgres.Ident(p.Insert))
			}
			return e
		}
	}
	return nil
}
