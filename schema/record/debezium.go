package record

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Records that Debezium's own Postgres connector wrote, in Avro: the same envelope without what we add to it. Types, key
// and position have to be told from what is there.
// https://debezium.io/documentation/reference/stable/connectors/postgresql.html

// ErrDebezium is wrapped by the error of NewDecoder for a schema of Debezium's: NewDebeziumDecoder reads it.
var ErrDebezium = errors.New("it is a schema of Debezium's connector")

// isDebezium says whether an envelope is Debezium's: it has the position of a row and not that of a transaction.
func isDebezium(envelope *avro.RecordSchema) bool {
	f := field(envelope, fieldSource)
	if f == nil {
		return false
	}
	source, ok := f.Type().(*avro.RecordSchema)
	return ok && field(source, fieldCommitLSN) == nil && field(source, fieldLSN) != nil
}

// NewDebeziumDecoder compiles the plan for values that Debezium wrote with valueSchema. keySchema is that of the
// record's key; "" for a record without one, whose table then has no key.
//
// Of what such an event holds, this is different: Tx.CommitLSN is the row's own LSN, the commit's is not in it. Position
// is that of DebeziumPosition, and zero where the record has none: rows of an incremental snapshot, and all records of
// versions that do not write source.sequence. A value that Debezium replaced by its placeholder for unchanged TOAST is
// Unchanged; the placeholder must be the default one. Columns of Refused are null.
//
// It fails with ErrSchema.
func NewDebeziumDecoder(valueSchema, keySchema string) (*Decoder, error) {
	d, err := compileDebezium(valueSchema, keySchema)
	if err != nil {
		return nil, fmt.Errorf("read schemas of Debezium: %w: %w", ErrSchema, err)
	}
	return d, nil
}

func compileDebezium(valueText, keyText string) (*Decoder, error) {
	envelope, err := parseRecord(valueText)
	if err != nil {
		return nil, err
	}
	if !isDebezium(envelope) {
		return nil, errors.New("it is no envelope; is a transformation (ExtractNewRecordState) at work?")
	}
	row, err := nullableRecord(envelope, fieldAfter)
	if err != nil {
		return nil, err
	}
	d := &Decoder{debezium: true}
	if err := d.debeziumRow(row); err != nil {
		return nil, err
	}
	if keyText != "" {
		key, err := parseRecord(keyText)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		for _, f := range key.Fields() {
			i := d.relation.Column(f.Name())
			if i < 0 {
				return nil, fmt.Errorf("the row has no field %q, which the key has", f.Name())
			}
			d.relation.Key = append(d.relation.Key, i)
		}
	}
	if d.envelope, err = anySteps(envelope, []want{
		{fieldBefore, roleBefore, ""},
		{fieldAfter, roleAfter, ""},
		{fieldSource, roleSource, ""},
		{fieldOp, roleOp, "string"},
	}); err != nil {
		return nil, err
	}
	d.source, err = anySteps(field(envelope, fieldSource).Type().(*avro.RecordSchema), []want{
		{fieldLSN, roleLSN, "long"},
		{fieldSequence, roleSequence, "string"},
		{fieldSnapshot, roleSnapshot, "string"},
		{fieldTxID, roleTxID, "long"},
		{fieldMillis, roleMillis, "long"},
		{fieldMicros, roleMicros, "long"},
	})
	return d, err
}

// anySteps gives the steps for the fields of r, in which those that are wanted may come in any order and be nullable.
// Those of the source that are not there are done without: they came with versions of Debezium.
func anySteps(r *avro.RecordSchema, wanted []want) ([]step, error) {
	var out []step
	for _, f := range r.Fields() {
		typ, null := optional(f.Type())
		n, err := compileNode(typ, 0)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", f.Name(), err)
		}
		s := step{node: n, null: null}
		for _, w := range wanted {
			if w.name != f.Name() {
				continue
			}
			if got := n.describe(); w.typ != "" && got != w.typ {
				return nil, fmt.Errorf("field %q is %s, want %s", f.Name(), got, w.typ)
			}
			s.role = w.role
		}
		out = append(out, s)
	}
	return out, nil
}

// notNull is the branch of null in a type that is no union of null and another.
const notNull = -1

// optional takes a union of null and one other type apart: Connect puts null second where the default is not null.
func optional(s avro.Schema) (inner avro.Schema, null int) {
	u, ok := s.(*avro.UnionSchema)
	if !ok || len(u.Types()) != 2 {
		return s, notNull
	}
	for i, t := range u.Types() {
		if t.Type() == avro.Null {
			return u.Types()[1-i], i
		}
	}
	return s, notNull
}

// debeziumRow makes the relation from the record of the row, and compiles how to read it.
func (d *Decoder) debeziumRow(row *avro.RecordSchema) error {
	name, _ := row.Prop("connect.name").(string)
	parts := strings.Split(name, ".")
	if len(parts) < 3 {
		return fmt.Errorf("record %q does not say in connect.name which table it is of", row.FullName())
	}
	d.relation = &schema.Relation{
		Schema: parts[len(parts)-3], Name: parts[len(parts)-2], Identity: schema.IdentityDefault,
		Columns: make([]schema.Column, len(row.Fields())),
	}
	d.columns = make([]valueColumn, len(row.Fields()))
	d.refused = make([]error, len(row.Fields()))
	for i, f := range row.Fields() {
		typ, null := optional(f.Type())
		c := valueColumn{null: null}
		column := schema.Column{Name: f.Name(), NotNull: null == notNull}
		known, err := debeziumForm(typ)
		if err != nil {
			n, nodeErr := compileNode(typ, 0)
			if nodeErr != nil {
				return fmt.Errorf("column %q: %w", f.Name(), nodeErr)
			}
			d.refused[i] = err
			c.form = form{read: func(r *reader, arena []byte) []byte { n.skip(r); return arena }}
			c.refused = true
		} else {
			c.form, column.Type = known.form, known.typ
			c.placeholder = c.form.placeholder()
		}
		d.relation.Columns[i], d.columns[i] = column, c
	}
	return nil
}

// Refused says why the values of a column of the relation cannot be read, or not as they were; nil if they can.
func (d *Decoder) Refused(column int) error {
	if d.refused == nil {
		return nil
	}
	return d.refused[column]
}

// Debezium says whether the decoder reads what Debezium wrote.
func (d *Decoder) Debezium() bool { return d.debezium }

// placeholder is what stands for a TOASTed value that the UPDATE did not touch (unavailable.value.placeholder).
const placeholder = "__debezium_unavailable_value"

// placeholder gives the text of the placeholder in a column of form f; nil where there is none. In arrays of numbers
// each element is a byte of it.
func (f *form) placeholder() []byte {
	switch f.kind {
	case schema.KindText:
		return []byte(placeholder)
	case schema.KindBytes:
		return fmt.Appendf(nil, `\x%x`, placeholder)
	case schema.KindArray:
		switch f.elem.kind {
		case schema.KindText:
			return []byte("{" + placeholder + "}")
		case schema.KindInt16, schema.KindInt32, schema.KindInt64:
			var numbers []string
			for _, b := range []byte(placeholder) {
				numbers = append(numbers, strconv.Itoa(int(b)))
			}
			return []byte("{" + strings.Join(numbers, ",") + "}")
		}
	}
	return nil
}

// settleUnchanged ends the reading of a row: what the columns took for the placeholder can be one only in what an UPDATE
// made of a row.
func settleUnchanged(ev *change.Event) {
	for i := range ev.Before {
		if ev.Before[i].State == change.Unchanged {
			ev.Before[i].State = change.Present
		}
	}
	if ev.Op != change.Read {
		return
	}
	for i := range ev.After {
		if ev.After[i].State == change.Unchanged {
			ev.After[i].State = change.Present
		}
	}
}

// readDebeziumSource reads the source of an event.
func (d *Decoder) readDebeziumSource(r *reader, ev *change.Event) {
	var last, lsn uint64
	var hasLast, beginning, hasLSN, snapshot, incremental bool
	var millis, micros int64
	for i := range d.source {
		s := &d.source[i]
		if !r.present(s.null) {
			continue
		}
		switch s.role {
		case roleLSN:
			lsn, hasLSN = uint64(r.long()), true
		case roleSequence:
			sequence := r.bytes()
			last, hasLast = lastCommit(sequence)
			beginning = bytes.HasPrefix(sequence, []byte("[null,"))
		case roleSnapshot:
			switch word := r.bytes(); {
			case string(word) == "incremental":
				incremental = true
			case string(word) != "false":
				snapshot = true
			}
		case roleTxID:
			ev.Tx.XID = uint32(r.long()) // it may hold the epoch, too
		case roleMillis:
			millis = r.long()
		case roleMicros:
			micros = r.long()
		default:
			s.node.skip(r)
		}
	}
	if ev.Tx.CommitTime = micros; micros == 0 {
		ev.Tx.CommitTime = millis * 1000
	}
	ev.Tx.CommitLSN = change.LSN(lsn)
	switch {
	case !hasLSN || incremental:
	case snapshot:
		ev.Position = debeziumSnapshot
	case hasLast:
		ev.Position = DebeziumPosition(change.LSN(last), change.LSN(lsn))
	case beginning:
		// Of the first transaction that the connector reads: there was no commit before it.
		ev.Position = DebeziumPosition(change.LSN(lsn), change.LSN(lsn))
	}
}

// lastCommit reads the first part of source.sequence: ["24023119","24023128"] or [null,"24023128"].
func lastCommit(sequence []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(sequence, []byte(`["`))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(string(digits), 10, 64)
	return v, err == nil
}

// DebeziumTies is how many events that share a DebeziumPosition can be counted in the lowest bits of its Seq, which are 0: more
// than the rows that a page, and thus a multi-insert, can hold (MaxHeapTuplesPerPage).
const DebeziumTies = 1 << 11

// DebeziumPosition orders what Debezium reads from one server: by the commit before the row's transaction, which grows from
// transaction to transaction, and within it by the row's own LSN. Neither would do alone: rows of transactions that
// ran side by side have LSNs in the order in which they were written, not in that of their commits. Several rows can share a
// position: those of one multi-insert, and the halves of a change of a key. Its era is 0, before all of ours.
//
// It is zero for a row that is more than 256 GiB of WAL away from the commit before its transaction, for which Seq has
// no room.
func DebeziumPosition(commit, row change.LSN) change.Position {
	const (
		alignment = 8 // of records in the WAL
		middle    = int64(change.SnapshotSeq / DebeziumTies / 2)
	)
	distance := int64(row-commit) / alignment
	if distance <= -middle || distance >= middle {
		return change.Position{}
	}
	return change.Position{CommitLSN: commit, Seq: uint64(middle+distance) * DebeziumTies}
}

// debeziumSnapshot is the position of all rows of a snapshot, before all changes: also before those whose LSN is lower than
// the snapshot's since they were written before it and committed after it.
var debeziumSnapshot = change.Position{Seq: DebeziumTies}

// typedForm is how a column travels, and of which type it is as far as that can be told.
type typedForm struct {
	form
	typ schema.Type
}

func plainType(oid schema.OID, name string) schema.Type {
	return schema.Type{OID: oid, Typmod: -1, Name: name, Class: schema.ClassBase}
}

// anyText is the type of a column that is a string in Connect and could be anything in Postgres: text, inet, an enum.
var anyText = schema.Type{Typmod: -1}

// byName are the forms with a connect.name, by that and Avro type.
var byName = map[string]typedForm{
	"int " + nameDate:        {form{kind: schema.KindDate, read: readDate}, plainType(schema.OIDDate, "date")},
	"long " + nameTime:       {form{kind: schema.KindTime, read: readTime(1)}, plainType(schema.OIDTime, "time without time zone")},
	"string " + nameUUID:     {form{}, plainType(schema.OIDUUID, "uuid")},
	"string " + nameJSON:     {form{}, plainType(schema.OIDJSON, "json")},
	"string " + nameXML:      {form{}, plainType(schema.OIDXML, "xml")},
	"string " + nameTSVector: {form{}, plainType(schema.OIDTSVector, "tsvector")},
	"string " + nameZoned: {
		form{kind: schema.KindTimestampTZ, read: readZoned}, plainType(schema.OIDTimestampTZ, "timestamp with time zone"),
	},
	"string io.debezium.time.ZonedTime": {form{kind: schema.KindTimestampTZ, read: readZonedTime}, plainType(schema.OIDTimeTZ, "time with time zone")},
	"string io.debezium.time.Interval":  {form{}, plainType(schema.OIDInterval, "interval")},
	"string io.debezium.data.Enum":      {form{}, anyText},
	"string io.debezium.data.Ltree":     {form{}, anyText},

	"long " + nameTimestamp:           {form{kind: schema.KindTimestamp, read: readTimestamp(1)}, timestampType},
	"long io.debezium.time.Timestamp": {form{kind: schema.KindTimestamp, read: readTimestamp(1000)}, timestampType},
	"int io.debezium.time.Time":       {form{kind: schema.KindTime, read: readTime(1000)}, plainType(schema.OIDTime, "time without time zone")},

	// time.precision.mode=connect
	"int org.apache.kafka.connect.data.Date":       {form{kind: schema.KindDate, read: readDate}, plainType(schema.OIDDate, "date")},
	"int org.apache.kafka.connect.data.Time":       {form{kind: schema.KindTime, read: readTime(1000)}, plainType(schema.OIDTime, "time without time zone")},
	"long org.apache.kafka.connect.data.Timestamp": {form{kind: schema.KindTimestamp, read: readTimestamp(1000)}, timestampType},

	"record io.debezium.data.VariableScaleDecimal": {form{read: readScaledDecimal}, plainType(schema.OIDNumeric, "numeric")},
}

var timestampType = plainType(schema.OIDTimestamp, "timestamp without time zone")

// byType are the forms without a connect.name.
var byType = map[avro.Type]typedForm{
	avro.String:  {form{}, anyText},
	avro.Boolean: {form{kind: schema.KindBool}, plainType(schema.OIDBool, "boolean")},
	avro.Int:     {form{kind: schema.KindInt32}, plainType(schema.OIDInt4, "integer")},
	avro.Long:    {form{kind: schema.KindInt64}, plainType(schema.OIDInt8, "bigint")},
	avro.Float:   {form{kind: schema.KindFloat32}, plainType(schema.OIDFloat4, "real")},
	avro.Double:  {form{kind: schema.KindFloat64}, plainType(schema.OIDFloat8, "double precision")},
	avro.Bytes:   {form{kind: schema.KindBytes}, plainType(schema.OIDBytea, "bytea")},
}

const nameDecimal = "org.apache.kafka.connect.data.Decimal"

// refusals say what to do about forms that do not hold what was in the database, by connect.name.
var refusals = map[string]string{
	"io.debezium.time.MicroDuration": "it makes days of 24 hours and months of 30.4 days of an interval; interval.handling.mode=string keeps it",
	"io.debezium.data.Bits":          "it does not say how many bits a bit varying has",
}

// debeziumForm gives the form of an Avro type. The error says why there is none.
func debeziumForm(s avro.Schema) (typedForm, error) {
	if array, ok := s.(*avro.ArraySchema); ok {
		return debeziumArray(array)
	}
	name := ""
	if p, ok := resolve(s).(interface{ Prop(string) any }); ok {
		name, _ = p.Prop("connect.name").(string)
		if name == nameDecimal {
			return decimalForm(p.Prop("connect.parameters"))
		}
		if t, _ := p.Prop("connect.type").(string); t == "int16" && name == "" {
			return typedForm{form{kind: schema.KindInt16}, plainType(schema.OIDInt2, "smallint")}, nil
		}
	}
	if why, ok := refusals[name]; ok {
		return typedForm{}, fmt.Errorf("Debezium wrote it as %s: %s", name, why)
	}
	if name != "" {
		if f, ok := byName[string(s.Type())+" "+name]; ok {
			return f, nil
		}
		return typedForm{}, fmt.Errorf("Debezium wrote it as %s (%s), from which its value cannot be told", name, s.Type())
	}
	if f, ok := byType[s.Type()]; ok {
		return f, nil
	}
	return typedForm{}, fmt.Errorf("Debezium wrote it as Avro %s, from which its value cannot be told", s.Type())
}

func debeziumArray(s *avro.ArraySchema) (typedForm, error) {
	inner, null := optional(s.Items())
	if null != 0 {
		return typedForm{}, errors.New("the elements of an array must be nullable")
	}
	elem, err := debeziumForm(inner)
	if err != nil || elem.kind == schema.KindArray {
		return typedForm{}, errors.Join(err, errors.New("it is an array of such values"))
	}
	t := schema.Type{Typmod: -1, Elem: &elem.typ}
	if elem.typ.Name != "" {
		t.Name = elem.typ.Name + "[]"
	}
	return typedForm{form{kind: schema.KindArray, elem: &elem.form, delim: ','}, t}, nil
}

// decimalForm gives the form of Connect's Decimal, whose scale is in the schema.
func decimalForm(parameters any) (typedForm, error) {
	p, _ := parameters.(map[string]any)
	text, _ := p["scale"].(string)
	scale, err := strconv.Atoi(text)
	if err != nil || scale > maxScale || scale < -maxScale {
		return typedForm{}, errors.New("Debezium wrote it as a decimal without a scale")
	}
	t := plainType(schema.OIDNumeric, "numeric")
	text, _ = p["connect.decimal.precision"].(string)
	if precision, err := strconv.Atoi(text); err == nil && precision > 0 && precision <= 1000 {
		t.Name = fmt.Sprintf("numeric(%d,%d)", precision, scale)
		t.Typmod = int32(precision<<16|scale&math.MaxUint16) + 4 // VARHDRSZ
	}
	return typedForm{form{read: func(r *reader, arena []byte) []byte {
		return appendDecimal(arena, r.bytes(), scale)
	}}, t}, nil
}
