package rule

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tributary-cdc/tributary/schema"
)

// namedType is a type that a rule can ask for, by the name that format_type gives it.
type namedType struct {
	oid, array schema.OID
	mods       bool // takes numbers in parentheses
	class      typeClass
}

// typeClass says which types can be read as which.
type typeClass uint8

const (
	otherClass typeClass = iota
	textClass
	boolClass
	wholeClass
	numberClass
	floatClass
	timeClass // date, timestamps
	dayClass  // time of day
	jsonClass
	bytesClass
	uuidClass
)

var namedTypes = map[string]namedType{
	"text":                        {schema.OIDText, 1009, false, textClass},
	"character varying":           {schema.OIDVarchar, 1015, true, textClass},
	"boolean":                     {schema.OIDBool, 1000, false, boolClass},
	"smallint":                    {schema.OIDInt2, 1005, false, wholeClass},
	"integer":                     {schema.OIDInt4, 1007, false, wholeClass},
	"bigint":                      {schema.OIDInt8, 1016, false, wholeClass},
	"numeric":                     {schema.OIDNumeric, 1231, true, numberClass},
	"real":                        {schema.OIDFloat4, 1021, false, floatClass},
	"double precision":            {schema.OIDFloat8, 1022, false, floatClass},
	"date":                        {schema.OIDDate, 1182, false, timeClass},
	"timestamp without time zone": {schema.OIDTimestamp, 1115, false, timeClass},
	"timestamp with time zone":    {schema.OIDTimestampTZ, 1185, false, timeClass},
	"time without time zone":      {schema.OIDTime, 1183, false, dayClass},
	"interval":                    {schema.OIDInterval, 1187, false, otherClass},
	"json":                        {schema.OIDJSON, 199, false, jsonClass},
	"jsonb":                       {schema.OIDJSONB, 3807, false, jsonClass},
	"bytea":                       {schema.OIDBytea, 1001, false, bytesClass},
	"uuid":                        {schema.OIDUUID, 2951, false, uuidClass},
}

var typeAliases = map[string]string{
	"varchar": "character varying", "bool": "boolean", "int2": "smallint", "int": "integer", "int4": "integer",
	"int8": "bigint", "decimal": "numeric", "float4": "real", "float8": "double precision", "float": "double precision",
	"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone", "time": "time without time zone",
}

var errType = errors.New("not a type that a rule knows; write text, varchar(n), boolean, smallint, integer, bigint, numeric(p,s), real, " +
	"double precision, date, timestamp, timestamptz, time, interval, json, jsonb, bytea or uuid, with [] for an array")

var typeForm = regexp.MustCompile(`^([a-z0-9 ]+?) ?(\( ?[0-9]{1,4} ?(?:, ?[0-9]{1,4} ?)?\))?( ?\[\])?$`)

// typeByName gives the type that a configuration names.
func typeByName(name string) (schema.Type, error) {
	parts := typeForm.FindStringSubmatch(strings.Join(strings.Fields(strings.ToLower(name)), " "))
	if parts == nil {
		return schema.Type{}, errType
	}
	base := parts[1]
	if full, ok := typeAliases[base]; ok {
		base = full
	}
	known, ok := namedTypes[base]
	if !ok || parts[2] != "" && !known.mods {
		return schema.Type{}, errType
	}
	t := schema.Type{OID: known.oid, Typmod: -1, Name: base, Class: schema.ClassBase}
	if parts[2] != "" {
		t.Name += strings.ReplaceAll(parts[2], " ", "")
		t.Typmod = 0 // some: what it is, is in the name
	}
	if parts[3] == "" {
		return t, nil
	}
	element := t
	return schema.Type{OID: known.array, Typmod: t.Typmod, Name: t.Name + "[]", Class: schema.ClassBase, Elem: &element}, nil
}

// mustType is typeByName for a name of ours.
func mustType(name string) schema.Type {
	t, err := typeByName(name)
	if err != nil {
		panic("rule: type " + name)
	}
	return t
}

// classOf gives the class of a type, looking through domains.
func classOf(t *schema.Type) typeClass {
	for t.Base != nil {
		t = t.Base
	}
	for name := range namedTypes {
		if known := namedTypes[name]; known.oid == t.OID {
			return known.class
		}
	}
	switch t.OID {
	case schema.OIDBpchar, schema.OIDName, schema.OIDChar, schema.OIDXML:
		return textClass
	case schema.OIDOID:
		return wholeClass
	}
	return otherClass
}

// castable says whether Postgres reads the texts of from as values of to, but for values that are out of to's range.
func castable(from, to *schema.Type) error {
	if e := to.Element(); e != nil {
		f := from.Element()
		if f == nil {
			if classOf(from) == textClass {
				return nil
			}
			return fmt.Errorf("%s is no array", from.Name)
		}
		return castable(f, e)
	}
	f, t := classOf(from), classOf(to)
	if t == textClass || f == textClass {
		return nil
	}
	refuse := func(hint string) error { return fmt.Errorf("a %s cannot be read as %s%s", from.Name, to.Name, hint) }
	if from.Element() != nil {
		return refuse("; cast it to text")
	}
	switch {
	case f == t && f != otherClass, f == otherClass && from.OID == to.OID,
		f == wholeClass && (t == numberClass || t == floatClass),
		f == numberClass && t == floatClass, f == floatClass && t == numberClass:
		return nil
	case t == wholeClass && (f == numberClass || f == floatClass):
		return refuse("; write set with int(column), which cuts the fraction")
	case t == boolClass && f == wholeClass:
		return refuse("; write set with column != 0")
	}
	return refuse("; cast it to text, or compute it with set")
}

// keepsKey says whether values that are equal as from, and only those, are equal as to.
func keepsKey(from, to *schema.Type) bool {
	f, t := classOf(from), classOf(to)
	switch {
	case from.Element() != nil || to.Element() != nil:
		return false
	case t == textClass && strings.HasPrefix(to.Name, "text"):
		return f != otherClass || from.ByteEqual()
	case f == wholeClass:
		return t == wholeClass || t == numberClass && to.Typmod < 0
	}
	return from.OID == to.OID && to.Typmod < 0 && from.ByteEqual()
}
