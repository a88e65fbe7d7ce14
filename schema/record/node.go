package record

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hamba/avro/v2"
)

// node is any Avro type, compiled so far that values of it can be passed over.
type node struct {
	kind  avro.Type
	parts []*node // fields of a record, branches of a union, items or values
	size  int     // of fixed
}

// maxDepth is how deep types may nest. It stops recursive ones, which we do not write.
const maxDepth = 16

func compileNode(s avro.Schema, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("types nest too deep")
	}
	n := &node{kind: s.Type()}
	add := func(s avro.Schema) error {
		part, err := compileNode(s, depth+1)
		n.parts = append(n.parts, part)
		return err
	}
	var err error
	switch s := s.(type) {
	case *avro.RefSchema:
		return compileNode(s.Schema(), depth+1)
	case *avro.RecordSchema:
		for _, f := range s.Fields() {
			err = errors.Join(err, add(f.Type()))
			if err != nil {
				break
			}
		}
	case *avro.UnionSchema:
		for _, t := range s.Types() {
			err = errors.Join(err, add(t))
			if err != nil {
				break
			}
		}
	case *avro.ArraySchema:
		err = add(s.Items())
	case *avro.MapSchema:
		err = add(s.Values())
	case *avro.FixedSchema:
		n.size = s.Size()
	case *avro.PrimitiveSchema, *avro.EnumSchema, *avro.NullSchema:
	default:
		err = fmt.Errorf("unknown Avro type %s", s.Type())
	}
	return n, err
}

// describe gives the type in a short form: "null|array<string>".
func (n *node) describe() string {
	switch n.kind {
	case avro.Union:
		var names []string
		for _, p := range n.parts {
			names = append(names, p.describe())
		}
		return strings.Join(names, "|")
	case avro.Array, avro.Map:
		return string(n.kind) + "<" + n.parts[0].describe() + ">"
	}
	return string(n.kind)
}

// skip passes over one value. Items of an array that take no bytes are refused beyond the bytes that are left
// (reader.block), so that a short value cannot keep it busy.
func (n *node) skip(r *reader) {
	switch n.kind {
	case avro.Null:
	case avro.Boolean:
		r.byte()
	case avro.Int, avro.Long, avro.Enum:
		r.long()
	case avro.Float:
		r.take(4)
	case avro.Double:
		r.take(8)
	case avro.Bytes, avro.String:
		r.bytes()
	case avro.Fixed:
		r.take(int64(n.size))
	case avro.Record:
		for _, p := range n.parts {
			p.skip(r)
		}
	case avro.Union:
		i := r.long()
		if i < 0 || i >= int64(len(n.parts)) {
			r.fail("a union has no such branch")
			return
		}
		n.parts[i].skip(r)
	case avro.Array, avro.Map:
		for k := r.block(); k > 0; k = r.block() {
			for range k {
				if r.fault != "" {
					return
				}
				if n.kind == avro.Map {
					r.bytes()
				}
				n.parts[0].skip(r)
			}
		}
	}
}
