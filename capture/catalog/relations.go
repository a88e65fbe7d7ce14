package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema"
)

// relation is pg_class with what hangs on it.
type relation struct {
	oid          schema.OID
	schema, name string
	kind         string // r, p, f, m
	persistence  string // p, u
	identity     schema.ReplicaIdentity
	partition    bool
	tuples       int64
	file         int64 // pg_class.relfilenode
	columns      []attribute
	primary      []int16 // attnums of the primary key if it can identify rows
	replident    []int16 // attnums of the index of REPLICA IDENTITY USING INDEX
}

type attribute struct {
	num      int16
	name     string
	typ      columnType
	notNull  bool
	loose    bool // see schema.Column
	unsent   bool // it is generated, and not in the stream
	defaults bool // it has a default, or an identity
	missing  *string
}

// root says whether it is a partitioned table, and no partition.
func (r *relation) root() bool { return r.kind == "p" && !r.partition }

// identityKey gives the attnums that Postgres logs for old rows; nil when it logs all or none.
func (r *relation) identityKey() []int16 {
	switch r.identity {
	case schema.IdentityDefault:
		return r.primary
	case schema.IdentityIndex:
		return r.replident
	}
	return nil
}

// missing gives the value that rows have which are older than the column, nil where there is none.
func (r *relation) missing(column string) *string {
	for _, a := range r.columns {
		if a.name == column {
			return a.missing
		}
	}
	return nil
}

func (r *relation) names(nums []int16) []string {
	var names []string
	for _, num := range nums {
		for _, a := range r.columns {
			if a.num == num {
				names = append(names, a.name)
			}
		}
	}
	return names
}

// relations lists what can hold rows, or stand for what does; of some OIDs, where they are given.
//
// Here, and in what is asked beside it, no function may lock a table, as pg_table_size, pg_get_expr and pg_partition_tree
// do. The stream waits for the answer, and such a lock can wait for the stream:
//
//	reader:      reads a table without key, and waits for the stream to take its rows
//	application: TRUNCATE of that table waits for the reader
//	stream:      asks for a table's size, and waits behind the TRUNCATE
func (c *Catalog) relations(ctx context.Context, of []uint32) ([]*relation, error) {
	list, err := query(ctx, c.conn, "list tables", func(row pgx.CollectableRow) (*relation, error) {
		var r relation
		var identity string
		err := row.Scan((*uint32)(&r.oid), &r.schema, &r.name, &r.kind, &r.persistence, &identity, &r.partition, &r.tuples, &r.file)
		if err == nil {
			r.identity = schema.ReplicaIdentity(identity[0])
		}
		return &r, err
	}, `select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
	           c.relispartition, greatest(c.reltuples, 0)::int8, c.relfilenode::int8
	      from pg_class c join pg_namespace n on n.oid = c.relnamespace
	     where c.relkind in ('r', 'p', 'f', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
	       and n.nspname !~ '^pg_(toast|temp_)'`+among("c.oid", of)+`
	     order by n.nspname, c.relname`, given(of)...)
	if err != nil {
		return nil, err
	}
	byOID := make(map[schema.OID]*relation, len(list))
	for _, r := range list {
		byOID[r.oid] = r
	}
	if err := c.attributes(ctx, byOID, of); err != nil {
		return nil, err
	}
	return list, c.indexes(ctx, byOID, of)
}

// among is the condition that an OID is one of some, which are parameter 1; none where they are not given.
func among(column string, of []uint32) string {
	if of == nil {
		return ""
	}
	return " and " + column + " = any($1::oid[])"
}

// given are the parameters of a statement with among.
func given(of []uint32) []any {
	if of == nil {
		return nil
	}
	return []any{of}
}

func (c *Catalog) attributes(ctx context.Context, byOID map[schema.OID]*relation, of []uint32) error {
	type found struct {
		relation schema.OID
		attribute
	}
	list, err := query(ctx, c.conn, "list columns", func(row pgx.CollectableRow) (found, error) {
		var f found
		err := row.Scan((*uint32)(&f.relation), &f.num, &f.name, (*uint32)(&f.typ.oid), &f.typ.typmod, &f.notNull, &f.loose, &f.unsent, &f.defaults, &f.missing)
		return f, err
	}, `select a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, a.attnotnull,
	           exists (select from pg_collation l where l.oid = a.attcollation and not l.collisdeterministic),
	           a.attgenerated <> '' and not (a.attgenerated = 's' and current_setting('server_version_num')::int >= 180000),
	           a.atthasdef or a.attidentity <> '' or exists (select from pg_type y where y.oid = a.atttypid and y.typdefault is not null),
	           case when a.atthasmissing then (a.attmissingval::text::text[])[1] end
	      from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
	     where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'f', 'm')
	       and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp_)'`+among("a.attrelid", of)+`
	     order by a.attrelid, a.attnum`, given(of)...)
	if err != nil {
		return err
	}
	for _, f := range list {
		if r := byOID[f.relation]; r != nil {
			r.columns = append(r.columns, f.attribute)
		}
	}
	return nil
}

func (c *Catalog) indexes(ctx context.Context, byOID map[schema.OID]*relation, of []uint32) error {
	type found struct {
		relation           schema.OID
		primary, replident bool
		columns            []int16
	}
	list, err := query(ctx, c.conn, "list keys", func(row pgx.CollectableRow) (found, error) {
		var f found
		err := row.Scan((*uint32)(&f.relation), &f.primary, &f.replident, &f.columns)
		return f, err
	}, `select indrelid, indisprimary, indisreplident, (indkey::int2[])[0:indnkeyatts - 1]
	      from pg_index
	     where (indisprimary or indisreplident) and indisvalid and indimmediate and indpred is null
	       and indrelid >= 16384`+among("indrelid", of), given(of)...)
	if err != nil {
		return err
	}
	for _, f := range list {
		r := byOID[f.relation]
		if r == nil {
			continue
		}
		if f.primary {
			r.primary = f.columns
		}
		if f.replident {
			r.replident = f.columns
		}
	}
	return nil
}

// branch is a table below a root, or the root.
type branch struct{ root, oid schema.OID }

// trees gives what is below roots, and these, in the order of roots and OIDs.
func (c *Catalog) trees(ctx context.Context, roots []uint32) ([]branch, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	return query(ctx, c.conn, "list partitions", func(row pgx.CollectableRow) (branch, error) {
		var b branch
		err := row.Scan((*uint32)(&b.root), (*uint32)(&b.oid))
		return b, err
	}, `with recursive tree(root, relid) as (
	        select r.oid, r.oid from unnest($1::oid[]) r(oid)
	        union
	        select t.root, i.inhrelid from tree t join pg_inherits i on i.inhparent = t.relid where not i.inhdetachpending
	    )
	    select root, relid from tree order by 1, 2`, roots)
}

// leavesOf gives the partitions that hold rows of each root.
func leavesOf(relations []*relation, trees []branch) map[schema.OID][]*relation {
	byOID := make(map[schema.OID]*relation, len(relations))
	for _, r := range relations {
		byOID[r.oid] = r
	}
	leaves := map[schema.OID][]*relation{}
	for _, b := range trees {
		if l := byOID[b.oid]; l != nil && l.kind != "p" {
			leaves[b.root] = append(leaves[b.root], l)
		}
	}
	return leaves
}
