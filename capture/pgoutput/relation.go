package pgoutput

import "github.com/tributary-cdc/tributary/schema"

// minColumnBytes is the least that a column takes in a Relation message: flags, the end of the name, type, typmod.
const minColumnBytes = 1 + 1 + 4 + 4

// flagKey marks a column of the replica identity.
const flagKey = 1

func (d *Decoder) relation(c *cursor) {
	r := &d.Relation
	r.OID = schema.OID(c.uint32())
	r.Namespace = namespace(c)
	r.Name = c.text()
	r.Identity = schema.ReplicaIdentity(c.byte())
	switch r.Identity {
	case schema.IdentityDefault, schema.IdentityNothing, schema.IdentityFull, schema.IdentityIndex:
	default:
		c.fail("the replica identity is none that Postgres has")
	}
	r.Columns = r.Columns[:0]
	n := int(c.uint16())
	if n > c.rest()/minColumnBytes {
		c.fail("it has room for fewer columns than it says")
		return
	}
	for range n {
		r.Columns = append(r.Columns, Column{
			Key:     c.byte()&flagKey != 0,
			Name:    c.text(),
			TypeOID: schema.OID(c.uint32()),
			Typmod:  int32(c.uint32()),
		})
	}
}
