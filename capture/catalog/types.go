package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema"
)

// pgType is one row of pg_type, reduced to what a column needs.
type pgType struct {
	oid        schema.OID
	class      schema.Class
	base, elem schema.OID
	baseTypmod int32
	baseName   string // of what a domain is over, with the modifier that the domain gives it
	name       string // format_type(oid, -1): "bpchar" where NULL would give "character", which in DDL is one character
}

// columnType is a type as one column uses it.
type columnType struct {
	oid    schema.OID
	typmod int32
}

// loadTypes makes sure that all of oids, and what they are built on, are known.
func (c *Catalog) loadTypes(ctx context.Context, oids []schema.OID) error {
	for {
		var missing []uint32
		for _, oid := range oids {
			if _, ok := c.types[oid]; !ok && oid != 0 {
				missing = append(missing, uint32(oid))
				c.types[oid] = &pgType{oid: oid, class: schema.ClassBase, name: "text"} // dropped since, unless found below
			}
		}
		if len(missing) == 0 {
			return nil
		}
		found, err := query(ctx, c.conn, "look up types", func(row pgx.CollectableRow) (*pgType, error) {
			var t pgType
			var class string
			err := row.Scan((*uint32)(&t.oid), &class, (*uint32)(&t.base), &t.baseTypmod, (*uint32)(&t.elem), &t.name, &t.baseName)
			if err == nil {
				t.class = schema.Class(class[0])
			}
			return &t, err
		}, `select t.oid, t.typtype::text, t.typbasetype, t.typtypmod,
		           case when t.typcategory = 'A' and t.typlen = -1 then t.typelem else 0 end, format_type(t.oid, -1),
		           case when t.typbasetype = 0 then '' else format_type(t.typbasetype, t.typtypmod) end
		      from pg_type t where t.oid = any($1::oid[])`, missing)
		if err != nil {
			for _, oid := range missing {
				delete(c.types, schema.OID(oid))
			}
			return err
		}
		oids = oids[:0:0]
		for _, t := range found {
			c.types[t.oid] = t
			oids = append(oids, t.base, t.elem)
		}
	}
}

// columnTypes gives the types of columns. Names come from the server, since format_type knows how to write a typmod.
func (c *Catalog) columnTypes(ctx context.Context, columns []columnType) ([]schema.Type, error) {
	oids := make([]schema.OID, len(columns))
	rawOIDs, typmods := make([]uint32, len(columns)), make([]int32, len(columns))
	for i, col := range columns {
		oids[i], rawOIDs[i], typmods[i] = col.oid, uint32(col.oid), col.typmod
	}
	if err := c.loadTypes(ctx, oids); err != nil {
		return nil, err
	}
	names, err := query(ctx, c.conn, "name types", pgx.RowTo[string],
		`select case when t.oid is null then 'text' else format_type(u.oid, u.typmod) end
		   from unnest($1::oid[], $2::int4[]) with ordinality u(oid, typmod, n)
		   left join pg_type t on t.oid = u.oid order by u.n`, rawOIDs, typmods)
	if err != nil {
		return nil, err
	}
	types := make([]schema.Type, len(columns))
	for i, col := range columns {
		types[i] = *c.build(col.oid, col.typmod)
		types[i].Name = names[i]
	}
	return types, nil
}

func (c *Catalog) build(oid schema.OID, typmod int32) *schema.Type {
	p := c.types[oid]
	t := &schema.Type{OID: oid, Typmod: typmod, Name: p.name, Class: p.class}
	if p.base != 0 {
		t.Base = c.build(p.base, p.baseTypmod)
		t.Base.Name = p.baseName
	}
	if p.elem != 0 {
		t.Elem = c.build(p.elem, typmod)
	}
	return t
}
