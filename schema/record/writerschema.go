package record

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hamba/avro/v2"

	"github.com/tributary-cdc/tributary/schema"
)

// ErrSchema is wrapped by the errors of NewDecoder: the schema is not one that an Encoder writes.
var ErrSchema = errors.New("not the schema of a Tributary record")

// NewDecoder compiles the plan for values written with valueSchema. Fields that it does not know, as later
// versions may add them to the envelope, are passed over. It fails with ErrSchema, and with ErrDebezium too if
// NewDebeziumDecoder can read it.
func NewDecoder(valueSchema string) (*Decoder, error) {
	d, err := compile(valueSchema)
	if err != nil {
		return nil, fmt.Errorf("read value schema: %w: %w", ErrSchema, err)
	}
	return d, nil
}

func compile(text string) (*Decoder, error) {
	envelope, err := parseRecord(text)
	if err != nil {
		return nil, err
	}
	if isDebezium(envelope) {
		return nil, ErrDebezium
	}
	d := &Decoder{}
	row, err := nullableRecord(envelope, fieldAfter)
	if err != nil {
		return nil, err
	}
	if old, err := nullableRecord(envelope, fieldBefore); err != nil {
		return nil, err
	} else if old != row {
		return nil, errors.New("old and new row are different records")
	}
	if err := d.compileRow(row); err != nil {
		return nil, err
	}
	if d.envelope, err = steps(envelope, []want{
		{fieldBefore, roleBefore, ""},
		{fieldAfter, roleAfter, ""},
		{fieldOp, roleOp, "string"},
		{fieldSource, roleSource, ""},
		{fieldTransaction, roleTransaction, ""},
		{fieldUnchanged, roleUnchanged, "null|array<string>"},
		{fieldExact, roleExact, "null|map<string>"},
	}); err != nil {
		return nil, err
	}
	source, ok := field(envelope, fieldSource).Type().(*avro.RecordSchema)
	if !ok {
		return nil, fmt.Errorf("field %q is no record", fieldSource)
	}
	if d.source, err = steps(source, []want{
		{fieldTxID, roleTxID, "null|long"},
		{fieldCommitLSN, roleCommitLSN, "long"},
		{fieldCommitTime, roleCommitTime, "long"},
		{fieldEra, roleEra, "int"},
		{fieldOrigin, roleOrigin, "null|string"},
		{fieldSeq, roleSeq, "long"},
	}); err != nil {
		return nil, err
	}
	block, err := nullableRecord(envelope, fieldTransaction)
	if err != nil {
		return nil, err
	}
	if d.block, err = steps(block, []want{{fieldTableOrdinal, roleTableOrdinal, "long"}}); err != nil {
		return nil, err
	}
	return d, nil
}

func parseRecord(text string) (*avro.RecordSchema, error) {
	// hamba keeps named types in a cache for all schemas where it is not given one.
	parsed, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		return nil, err
	}
	record, ok := parsed.(*avro.RecordSchema)
	if !ok {
		return nil, fmt.Errorf("it is %s, want a record", parsed.Type())
	}
	return record, nil
}

// want is a field that a record must have.
type want struct {
	name string
	role role
	typ  string // as describe gives it; "" where it is looked at elsewhere
}

// steps gives the steps for the fields of r. Those that are wanted must be there in the order of wanted: exact,
// for one, is put into rows that have been read.
func steps(r *avro.RecordSchema, wanted []want) ([]step, error) {
	var out []step
	for _, f := range r.Fields() {
		n, err := compileNode(f.Type(), 0)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", f.Name(), err)
		}
		s := step{node: n}
		if len(wanted) > 0 && f.Name() == wanted[0].name {
			if got := n.describe(); wanted[0].typ != "" && got != wanted[0].typ {
				return nil, fmt.Errorf("field %q is %s, want %s", f.Name(), got, wanted[0].typ)
			}
			s.role = wanted[0].role
			wanted = wanted[1:]
		}
		out = append(out, s)
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("record %q has no field %q, or not in its place", r.FullName(), wanted[0].name)
	}
	return out, nil
}

func field(r *avro.RecordSchema, name string) *avro.Field {
	for _, f := range r.Fields() {
		if f.Name() == name {
			return f
		}
	}
	return nil
}

// nullableRecord gives the record T of a field of type ["null", T].
func nullableRecord(r *avro.RecordSchema, name string) (*avro.RecordSchema, error) {
	f := field(r, name)
	if f == nil {
		return nil, fmt.Errorf("record %q has no field %q", r.FullName(), name)
	}
	inner, ok := nullableType(f.Type())
	if ok {
		if record, ok := resolve(inner).(*avro.RecordSchema); ok {
			return record, nil
		}
	}
	return nil, fmt.Errorf("field %q is not a record or null", name)
}

func nullableType(s avro.Schema) (avro.Schema, bool) {
	u, ok := s.(*avro.UnionSchema)
	if !ok || len(u.Types()) != 2 || u.Types()[0].Type() != avro.Null {
		return nil, false
	}
	return u.Types()[1], true
}

func resolve(s avro.Schema) avro.Schema {
	if ref, ok := s.(*avro.RefSchema); ok {
		return ref.Schema()
	}
	return s
}

// compileRow rebuilds the relation from the record of the row, and compiles how to read it.
func (d *Decoder) compileRow(row *avro.RecordSchema) error {
	var rp relationProps
	if err := readProps(row.Props(), &rp); err != nil {
		return fmt.Errorf("record %q: %w", row.FullName(), err)
	}
	if rp.Schema == "" || rp.Table == "" || len(rp.Identity) != 1 {
		return fmt.Errorf("record %q does not say which table it is of", row.FullName())
	}
	rel := &schema.Relation{
		OID: rp.OID, Schema: rp.Schema, Name: rp.Table, Identity: schema.ReplicaIdentity(rp.Identity[0]),
		Columns: make([]schema.Column, len(row.Fields())),
	}
	d.relation, d.of = rel, row.Namespace()
	d.columns = make([]valueColumn, len(rel.Columns))
	d.names = make(map[string]place, 2*len(rel.Columns))
	keys := make(map[int]int)
	for i, f := range row.Fields() {
		p := columnProps{}
		if err := readProps(f.Props(), &p); err != nil {
			return fmt.Errorf("column %q: %w", f.Name(), err)
		}
		if p.Name == "" || p.Type == "" {
			return fmt.Errorf("column %q does not say which it is in Postgres", f.Name())
		}
		rel.Columns[i] = schema.Column{
			Name: p.Name, AttNum: p.AttNum, Type: *p.schemaType(), NotNull: p.NotNull, Default: p.Default, Generated: p.Generated,
		}
		if p.Key > 0 {
			keys[p.Key] = i
		}
		typ := f.Type()
		null := notNull
		if inner, ok := nullableType(typ); ok {
			typ, null = inner, 0
		}
		read, err := formFrom(typ)
		if err != nil {
			return fmt.Errorf("column %q: %w", f.Name(), err)
		}
		read.delim = delimiter(&rel.Columns[i].Type)
		d.columns[i] = valueColumn{form: *read, null: null}
		d.names[f.Name()] = place{column: i}
		d.names[beforePrefix+f.Name()] = place{column: i, before: true}
	}
	for n := range len(keys) {
		i, ok := keys[n+1]
		if !ok {
			return fmt.Errorf("record %q: %d columns are in the key, but none at place %d", row.FullName(), len(keys), n+1)
		}
		rel.Key = append(rel.Key, i)
	}
	return nil
}

// readProps puts the properties of a schema into a struct by their JSON names.
func readProps(props map[string]any, into any) error {
	b, err := json.Marshal(props)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("read properties: %w", err)
	}
	return nil
}

// formFrom gives the form that values of an Avro type have.
func formFrom(s avro.Schema) (*form, error) {
	switch s := s.(type) {
	case *avro.ArraySchema:
		inner, ok := nullableType(s.Items())
		if !ok {
			return nil, errors.New("the elements of an array must be nullable")
		}
		elem, err := formFrom(inner)
		if err != nil {
			return nil, err
		}
		if elem.kind == schema.KindArray {
			return nil, errors.New("an array cannot hold arrays")
		}
		return &form{kind: schema.KindArray, elem: elem}, nil
	case *avro.PrimitiveSchema:
		name, _ := s.Prop("connect.name").(string)
		f := &form{name: name}
		switch s.Type() {
		case avro.String:
			f.kind = schema.KindText
			if name == nameZoned {
				f.kind = schema.KindTimestampTZ
			}
		case avro.Boolean:
			f.kind = schema.KindBool
		case avro.Int:
			f.kind = schema.KindInt32
			if name == nameDate {
				f.kind = schema.KindDate
			}
		case avro.Long:
			f.kind = schema.KindInt64
			switch name {
			case nameTime:
				f.kind = schema.KindTime
			case nameTimestamp:
				f.kind = schema.KindTimestamp
			}
		case avro.Float:
			f.kind = schema.KindFloat32
		case avro.Double:
			f.kind = schema.KindFloat64
		case avro.Bytes:
			f.kind = schema.KindBytes
		default:
			return nil, fmt.Errorf("a column cannot have the Avro type %s", s.Type())
		}
		return f, nil
	}
	return nil, fmt.Errorf("a column cannot have the Avro type %s", s.Type())
}
