// Package schema is the neutral model of a Postgres table as it stood at one place of the WAL: its columns,
// their types, its key. capture builds it from Relation messages and the catalog, package record carries it
// inside the Avro schema, sink reads it back. It opens no connection and imports nothing of ours.
//
// Terms follow the Postgres documentation, chapters "Logical Replication" and "System Catalogs".
package schema

// ReplicaIdentity says which old values Postgres logs for UPDATE and DELETE (pg_class.relreplident).
type ReplicaIdentity byte

// The four replica identities, spelled as pg_class.relreplident spells them.
const (
	IdentityDefault ReplicaIdentity = 'd' // the primary key, nothing if there is none
	IdentityNothing ReplicaIdentity = 'n' // no old values
	IdentityFull    ReplicaIdentity = 'f' // the whole old row
	IdentityIndex   ReplicaIdentity = 'i' // the columns of one unique index
)

// String gives the word of ALTER TABLE … REPLICA IDENTITY for r, in lower case.
func (r ReplicaIdentity) String() string {
	switch r {
	case IdentityDefault:
		return "default"
	case IdentityNothing:
		return "nothing"
	case IdentityFull:
		return "full"
	case IdentityIndex:
		return "index"
	}
	return "unknown"
}

// Relation is one version of one table. It is immutable once built; slices are shared, never written.
type Relation struct {
	OID      OID
	Schema   string
	Name     string
	Identity ReplicaIdentity
	Columns  []Column
	// Key holds indexes into Columns, in the order of the key, of the columns that identify a row and make
	// the Kafka key. Empty: the table has no key, rows are told apart by all their values.
	Key []int
}

// Column is one column of a Relation, in the order in which tuples carry their values.
type Column struct {
	Name    string
	AttNum  int16 // pg_attribute.attnum; 0 where it is not known
	Type    Type
	NotNull bool
	// Loose: texts that differ may be equal, by a collation that is not deterministic. Known to capture only.
	Loose bool
	// Default is the constant that rows older than the column have (pg_attribute.attmissingval) as Postgres
	// text; nil where there is none.
	Default *string
	// Generated is the expression of a generated column, "" for an ordinary one.
	Generated string
}

// ByteEqualKey says whether two keys are equal for Postgres exactly when their canonical bytes are: only then may the
// rows be spread over partitions by them.
func (r *Relation) ByteEqualKey() bool {
	for _, k := range r.Key {
		if c := &r.Columns[k]; c.Loose || !c.Type.ByteEqual() {
			return false
		}
	}
	return true
}

// QualifiedName gives schema.name for people and logs. It is not quoted: never put it into SQL, and never
// take it apart again, since either half may hold a dot.
func (r *Relation) QualifiedName() string { return r.Schema + "." + r.Name }

// Column gives the index of the column called name, or -1.
func (r *Relation) Column(name string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// Numbered gives the column with an attnum that is known, nil for none.
func (r *Relation) Numbered(n int16) *Column {
	for i := range r.Columns {
		if n != 0 && r.Columns[i].AttNum == n {
			return &r.Columns[i]
		}
	}
	return nil
}

// IsKey says whether column i belongs to the key.
func (r *Relation) IsKey(i int) bool {
	for _, k := range r.Key {
		if k == i {
			return true
		}
	}
	return false
}

// Equal says whether two versions would be recorded in the same way: the same names, types and key. The OIDs of
// types count, so that a dropped and re-created type is noticed.
func (r *Relation) Equal(o *Relation) bool {
	if r.OID != o.OID || r.Schema != o.Schema || r.Name != o.Name || r.Identity != o.Identity ||
		len(r.Columns) != len(o.Columns) || len(r.Key) != len(o.Key) {
		return false
	}
	for i := range r.Key {
		if r.Key[i] != o.Key[i] {
			return false
		}
	}
	for i := range r.Columns {
		if !r.Columns[i].equal(&o.Columns[i]) {
			return false
		}
	}
	return true
}

func (c *Column) equal(o *Column) bool {
	sameDefault := c.Default == nil && o.Default == nil ||
		c.Default != nil && o.Default != nil && *c.Default == *o.Default
	return c.Name == o.Name && c.AttNum == o.AttNum && c.NotNull == o.NotNull && c.Loose == o.Loose &&
		c.Generated == o.Generated && sameDefault && c.Type.equal(&o.Type)
}
