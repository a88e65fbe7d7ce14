package record

import (
	"encoding/json"
	"fmt"

	"github.com/tributary-cdc/tributary/schema"
)

// The Avro schemas of a relation as JSON. The order of fields in these structs is that in the text, which is thus
// the same for the same relation: registries compare texts.

type avroRecord struct {
	Type           string      `json:"type"` // "record"
	Name           string      `json:"name"`
	Namespace      string      `json:"namespace,omitempty"`
	Fields         []avroField `json:"fields"`
	ConnectVersion int         `json:"connect.version,omitempty"`
	ConnectName    string      `json:"connect.name,omitempty"`
	*relationProps
}

type avroField struct {
	Name    string          `json:"name"`
	Type    any             `json:"type"`
	Default json.RawMessage `json:"default,omitempty"`
	*columnProps
}

type avroType struct {
	Type           string `json:"type"`
	Items          any    `json:"items,omitempty"`
	Values         any    `json:"values,omitempty"`
	ConnectVersion int    `json:"connect.version,omitempty"`
	ConnectName    string `json:"connect.name,omitempty"`
	ConnectType    string `json:"connect.type,omitempty"`
	// Of Debezium's enumerations.
	ConnectParameters map[string]string `json:"connect.parameters,omitempty"`
	ConnectDefault    string            `json:"connect.default,omitempty"`
}

// relationProps stands on the record of the row, and says what Avro cannot say of the table.
type relationProps struct {
	Schema   string     `json:"pg.schema"`
	Table    string     `json:"pg.table"`
	OID      schema.OID `json:"pg.oid"`
	Identity string     `json:"pg.identity"` // pg_class.relreplident
}

// columnProps stands on each field of the row, and says what Avro cannot say of the column.
type columnProps struct {
	Name string `json:"pg.name"`
	typeProps
	AttNum    int16   `json:"pg.attnum,omitempty"`
	NotNull   bool    `json:"pg.notnull,omitempty"`
	Key       int     `json:"pg.key,omitempty"` // place in the key, from 1
	Default   *string `json:"pg.default,omitempty"`
	Generated string  `json:"pg.generated,omitempty"`
}

type typeProps struct {
	Type   string     `json:"pg.type"`
	OID    schema.OID `json:"pg.oid"`
	Typmod int32      `json:"pg.typmod"`
	Class  string     `json:"pg.class"` // pg_type.typtype
	Base   *typeProps `json:"pg.base,omitempty"`
	Elem   *typeProps `json:"pg.elem,omitempty"`
}

func propsOfType(t *schema.Type) *typeProps {
	if t == nil {
		return nil
	}
	p := &typeProps{Type: t.Name, OID: t.OID, Typmod: t.Typmod, Base: propsOfType(t.Base), Elem: propsOfType(t.Elem)}
	if t.Class != 0 {
		p.Class = string(rune(t.Class))
	}
	return p
}

func (p *typeProps) schemaType() *schema.Type {
	if p == nil {
		return nil
	}
	t := &schema.Type{Name: p.Type, OID: p.OID, Typmod: p.Typmod, Base: p.Base.schemaType(), Elem: p.Elem.schemaType()}
	if p.Class != "" {
		t.Class = schema.Class(p.Class[0])
	}
	return t
}

// Names of the records.
const (
	nameEnvelope = "Envelope"
	nameValue    = "Value"
	nameKey      = "Key"
	nameSource   = "io.debezium.connector.postgresql.Source"
	nameBlock    = "event.block"
)

var defaultNull = json.RawMessage("null")

func nullable(t any) any { return []any{"null", t} }

// avroOf gives the Avro type of values of form f.
func avroOf(f *form) any {
	t := avroType{ConnectName: f.name}
	if f.name != "" {
		t.ConnectVersion = 1
	}
	switch f.kind {
	case schema.KindBool:
		t.Type = "boolean"
	case schema.KindInt16:
		t.Type, t.ConnectType = "int", "int16"
	case schema.KindInt32, schema.KindDate:
		t.Type = "int"
	case schema.KindInt64, schema.KindTime, schema.KindTimestamp:
		t.Type = "long"
	case schema.KindFloat32:
		t.Type = "float"
	case schema.KindFloat64:
		t.Type = "double"
	case schema.KindBytes:
		t.Type = "bytes"
	case schema.KindArray:
		t.Type, t.Items = "array", nullable(avroOf(f.elem))
	default:
		t.Type = "string"
	}
	if t.ConnectName == "" && t.ConnectType == "" && t.Items == nil {
		return t.Type
	}
	return t
}

// keySchemaText gives the schema of a relation's keys. It holds nothing that can change while the key stays.
func keySchemaText(namespace string, rel *schema.Relation) (string, error) {
	r := avroRecord{
		Type: "record", Name: nameKey, Namespace: namespace,
		ConnectVersion: 1, ConnectName: namespace + "." + nameKey,
	}
	for _, i := range rel.Key {
		c := &rel.Columns[i]
		f := formOf(&c.Type, true)
		r.Fields = append(r.Fields, avroField{Name: avroName(c.Name), Type: avroOf(&f)})
	}
	return marshal(&r)
}

// valueSchemaText gives the schema of a relation's envelopes.
func valueSchemaText(namespace string, rel *schema.Relation) (string, error) {
	row := avroRecord{
		Type: "record", Name: nameValue, Namespace: namespace, Fields: []avroField{},
		ConnectVersion: 1, ConnectName: namespace + "." + nameValue,
		relationProps: &relationProps{Schema: rel.Schema, Table: rel.Name, OID: rel.OID, Identity: string(rune(rel.Identity))},
	}
	for i := range rel.Columns {
		c := &rel.Columns[i]
		p := &columnProps{
			Name: c.Name, typeProps: *propsOfType(&c.Type), AttNum: c.AttNum, NotNull: c.NotNull,
			Default: c.Default, Generated: c.Generated,
		}
		for place, k := range rel.Key {
			if k == i {
				p.Key = place + 1
			}
		}
		f := formOf(&c.Type, p.Key > 0)
		field := avroField{Name: avroName(c.Name), Type: avroOf(&f), columnProps: p}
		if p.Key == 0 {
			field.Type, field.Default = nullable(field.Type), defaultNull
		}
		row.Fields = append(row.Fields, field)
	}
	envelope := avroRecord{
		Type: "record", Name: nameEnvelope, Namespace: namespace,
		ConnectVersion: 1, ConnectName: namespace + "." + nameEnvelope,
		Fields: []avroField{
			{Name: fieldBefore, Type: nullable(&row), Default: defaultNull},
			{Name: fieldAfter, Type: nullable(namespace + "." + nameValue), Default: defaultNull},
			{Name: fieldOp, Type: "string"},
			{Name: fieldSource, Type: &sourceSchema},
			{Name: fieldMillis, Type: nullable("long"), Default: defaultNull},
			{Name: fieldMicros, Type: nullable("long"), Default: defaultNull},
			{Name: fieldTransaction, Type: nullable(&blockSchema), Default: defaultNull},
			{Name: fieldUnchanged, Type: nullable(avroType{Type: "array", Items: "string"}), Default: defaultNull},
			{Name: fieldExact, Type: nullable(avroType{Type: "map", Values: "string"}), Default: defaultNull},
		},
	}
	return marshal(&envelope)
}

// Fields of the envelope that the decoder reads.
const (
	fieldBefore      = "before"
	fieldAfter       = "after"
	fieldOp          = "op"
	fieldSource      = "source"
	fieldTransaction = "transaction"
	fieldUnchanged   = "unchanged"
	fieldExact       = "exact"
)

// Fields of source and transaction that the decoder reads.
const (
	fieldTxID         = "txId"
	fieldCommitLSN    = "commit_lsn"
	fieldCommitTime   = "commit_ts_us"
	fieldEra          = "era"
	fieldOrigin       = "origin"
	fieldSeq          = "seq"
	fieldTableOrdinal = "data_collection_order"
	// Debezium's, which has no others to tell position and commit time.
	fieldLSN      = "lsn"
	fieldSequence = "sequence"
	fieldSnapshot = "snapshot"
	fieldMillis   = "ts_ms"
	fieldMicros   = "ts_us"
)

// sourceSchema is Debezium's record of that name with fields of ours. Those that a relation and session have in
// common come first, then those of a transaction, then seq: the encoder copies the first two from memory.
var sourceSchema = avroRecord{
	Type: "record", Name: "Source", Namespace: "io.debezium.connector.postgresql",
	ConnectVersion: 1, ConnectName: nameSource,
	Fields: []avroField{
		{Name: "version", Type: "string"},
		{Name: "connector", Type: "string"},
		{Name: "name", Type: "string"},
		{Name: "db", Type: "string"},
		{Name: "schema", Type: "string"},
		{Name: "table", Type: "string"},
		{Name: "system_id", Type: "string"},
		{Name: "timeline", Type: "long"},
		{Name: fieldSequence, Type: nullable("string"), Default: defaultNull},
		{Name: "xmin", Type: nullable("long"), Default: defaultNull},

		{Name: fieldMillis, Type: "long"},
		{Name: fieldSnapshot, Type: []any{avroType{
			Type: "string", ConnectVersion: 1, ConnectName: "io.debezium.data.Enum", ConnectDefault: "false",
			ConnectParameters: map[string]string{"allowed": "first,first_in_data_collection,last_in_data_collection,last,false,true,incremental"},
		}, "null"}, Default: json.RawMessage(`"false"`)},
		{Name: fieldTxID, Type: nullable("long"), Default: defaultNull},
		{Name: fieldLSN, Type: nullable("long"), Default: defaultNull},
		{Name: fieldCommitLSN, Type: "long"},
		{Name: fieldCommitTime, Type: "long"},
		{Name: fieldEra, Type: "int"},
		{Name: fieldOrigin, Type: nullable("string"), Default: defaultNull},

		{Name: fieldSeq, Type: "long"},
	},
}

var blockSchema = avroRecord{
	Type: "record", Name: "block", Namespace: "event", ConnectVersion: 1, ConnectName: nameBlock,
	Fields: []avroField{
		{Name: "id", Type: "string"},
		{Name: "total_order", Type: "long"},
		{Name: fieldTableOrdinal, Type: "long"},
	},
}

func marshal(r *avroRecord) (string, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("write Avro schema %q: %w", r.Name, err)
	}
	return string(b), nil
}
