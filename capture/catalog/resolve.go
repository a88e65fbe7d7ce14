package catalog

import (
	"context"
	"fmt"

	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/schema"
)

// Resolve makes the relation that a Relation message describes. The message is the truth about columns, types and
// replica identity at its place of the WAL; the catalog, which is of now, adds what the message lacks: type names,
// attnums, NOT NULL, constant defaults, the order of the key. table is what the catalog has under this OID, nil if
// it is gone; before is the version of the relation that the stream had last, nil if that is not known.
func (c *Catalog) Resolve(ctx context.Context, msg *pgoutput.Relation, table *Table, before *schema.Relation) (*schema.Relation, error) {
	rel := &schema.Relation{
		OID: msg.OID, Schema: string(msg.Namespace), Name: string(msg.Name), Identity: msg.Identity,
	}
	used := make([]columnType, len(msg.Columns))
	for i, col := range msg.Columns {
		used[i] = columnType{oid: col.TypeOID, typmod: col.Typmod}
	}
	types, err := c.columnTypes(ctx, used)
	if err != nil {
		return nil, fmt.Errorf("resolve relation %q: %w", rel.QualifiedName(), err)
	}
	var was []schema.Column
	if before != nil {
		was = before.Columns
	}
	is := &schema.Relation{}
	if table != nil {
		is = &table.Relation
	}
	names := make([]string, len(msg.Columns))
	for i := range msg.Columns {
		names[i] = string(msg.Columns[i].Name)
	}
	nums := attnums(names, was, is.Columns)
	flagged := 0
	for i, col := range msg.Columns {
		one := schema.Column{Name: names[i], Type: types[i], AttNum: nums[i]}
		if known := is.Numbered(nums[i]); known != nil {
			one.NotNull, one.Loose, one.Default = known.NotNull, known.Loose, known.Default
		}
		rel.Columns = append(rel.Columns, one)
		if col.Key {
			flagged++
		}
	}
	if table != nil && table.FullLeaves && table.Relation.Identity == schema.IdentityFull {
		rel.Identity = schema.IdentityFull // the message speaks of the root, the rows come from its partitions
	}
	rel.Key = resolveKey(rel, msg, flagged, table)
	return rel, nil
}

// resolveKey finds the key: the columns that the message flags, in the catalog's order where that has the same
// ones. Under FULL all columns are flagged and under NOTHING none is: then it is the catalog's key, if the message
// has all its columns.
func resolveKey(rel *schema.Relation, msg *pgoutput.Relation, flagged int, table *Table) []int {
	byFlags := msg.Identity == schema.IdentityDefault || msg.Identity == schema.IdentityIndex
	if table != nil {
		var key []int
		for _, k := range table.Relation.Key {
			if i := rel.Column(table.Relation.Columns[k].Name); i >= 0 && (!byFlags || flagged == 0 || msg.Columns[i].Key) {
				key = append(key, i)
			}
		}
		if len(key) == len(table.Relation.Key) && (!byFlags || flagged == 0 || len(key) == flagged) {
			return key
		}
	}
	var key []int
	if byFlags {
		for i, col := range msg.Columns {
			if col.Key {
				key = append(key, i)
			}
		}
	}
	return key
}
