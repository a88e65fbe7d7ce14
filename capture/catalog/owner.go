package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
)

// LeaveOut makes those of tables LeftOut, and Foreign, that the role may not bring into p, and that nobody has brought there: to
// publish a table takes its owner's rights, and one that is made by somebody else must not keep all others from being captured.
// Where that would leave none it changes nothing: then the role is the wrong one, which Ensure tells. It gives those that it found.
func (c *Catalog) LeaveOut(ctx context.Context, p Publications, tables []*Table) (foreign []*Table, err error) {
	roots := map[schema.OID]*Table{} // of all that is to be published
	var oids []uint32
	publish := func(oid schema.OID, t *Table) { roots[oid], oids = t, append(oids, uint32(oid)) }
	captured := 0
	for _, t := range tables {
		if t.Level == LeftOut {
			continue
		}
		captured++
		publish(t.Relation.OID, t)
		if t.FullLeaves {
			for _, l := range t.Leaves {
				publish(l.OID, t)
			}
		}
	}
	type owner struct {
		oid        schema.OID
		name, role string
		super      bool
	}
	list, err := query(ctx, c.conn, "list owners", func(row pgx.CollectableRow) (o owner, err error) {
		err = row.Scan((*uint32)(&o.oid), &o.name, &o.super, &o.role)
		return o, err
	}, `select c.oid, o.rolname::text, o.rolsuper, current_user::text
	      from pg_class c join pg_roles o on o.oid = c.relowner
	     where c.oid = any($1::oid[]) and not pg_has_role(c.relowner, 'usage')
	       and not exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
	                        where r.prrelid = c.oid and p.pubname in ($2, $3))
	     order by c.oid`, oids, p.Full, p.Insert)
	if err != nil {
		return nil, err
	}
	of := map[*Table]owner{}
	for _, o := range list {
		if t := roots[o.oid]; of[t] == (owner{}) { // else another of its partitions has said so
			foreign, of[t] = append(foreign, t), o
		}
	}
	if len(foreign) == captured {
		return foreign, nil
	}
	for t, o := range of {
		name, publication := postgres.Ident(t.Relation.Schema, t.Relation.Name), p.Insert
		if t.Level == All && !t.FullLeaves {
			publication = p.Full
		}
		t.Level, t.Foreign = LeftOut, true
		t.Reason = fmt.Sprintf("its owner is %q, whose rights %q does not have: publishing it takes them", o.name, o.role)
		t.Help = fmt.Sprintf("GRANT %s TO %s;", postgres.Ident(o.name), postgres.Ident(o.role))
		if o.super { // whose rights no service should have
			t.Help = fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE ONLY %s;\n%s", postgres.Ident(publication), name, GrantRead(&t.Relation, o.role))
		}
	}
	return foreign, nil
}

// Role gives the name under which the connection logged in.
func (c *Catalog) Role() string { return c.conn.Config().User }

// Unread is a table that is to be captured and whose rows the role may not read.
type Unread struct {
	Table *Table
	Help  string // SQL that lets it
}

// Unreadable gives those of tables that are to be captured and that the role may not read: they would be held when their rows are read.
func (c *Catalog) Unreadable(ctx context.Context, tables []*Table) ([]Unread, error) {
	of := map[schema.OID]*Table{}
	var oids []uint32
	for _, t := range tables {
		if t.Level != LeftOut {
			of[t.Relation.OID], oids = t, append(oids, uint32(t.Relation.OID))
		}
	}
	return query(ctx, c.conn, "list rights of", func(row pgx.CollectableRow) (Unread, error) {
		var oid schema.OID
		var role string
		var granted bool
		if err := row.Scan((*uint32)(&oid), &role, &granted); err != nil {
			return Unread{}, err
		}
		u := Unread{Table: of[oid], Help: GrantRead(&of[oid].Relation, role)}
		if granted { // so it is row level security
			u.Help = fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", postgres.Ident(role))
		}
		return u, nil
	}, `select oid, current_user::text, granted
	      from (select c.oid, has_schema_privilege(c.relnamespace, 'usage') and has_any_column_privilege(c.oid, 'select') as granted
	              from pg_class c where c.oid = any($1::oid[])) t
	     where not granted or row_security_active(oid)
	     order by oid`, oids)
}

// GrantRead gives the SQL that lets role read the rows of a table.
func GrantRead(rel *schema.Relation, role string) string {
	role = postgres.Ident(role)
	return fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;\nGRANT SELECT ON %s TO %s;", postgres.Ident(rel.Schema), role, postgres.Ident(rel.Schema, rel.Name), role)
}
