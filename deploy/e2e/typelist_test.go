package e2e

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// valueType is a type of the matrix: how a column of it is declared, and the texts that are tried.
type valueType struct {
	group string // heading in docs/types.md
	name  string // as in DDL
	min   int    // first major version of Postgres that has it; 0 for all
	needs string // extension
	setup string // statements that make it
	noKey string // why it cannot be a key; "" if it can
	again string // SQL for an equal key of other bytes, from k; "" if there is none

	fixed  []string                    // extremes
	random func(r *rand.Rand) []string // more; nil for none
}

const noBtree = "no btree operators"

func some(n int, one func(r *rand.Rand) string) func(r *rand.Rand) []string {
	return func(r *rand.Rand) []string {
		var list []string
		for range n {
			list = append(list, one(r))
		}
		return list
	}
}

func matrix() []valueType {
	ints := func(bits uint) func(r *rand.Rand) []string {
		return some(20, func(r *rand.Rand) string { return fmt.Sprint(int64(r.Uint64()) >> (64 - bits) >> r.UintN(bits)) })
	}
	unsigned := func(bits uint) func(r *rand.Rand) []string {
		return some(20, func(r *rand.Rand) string { return fmt.Sprint(r.Uint64() >> (64 - bits) >> r.UintN(bits)) })
	}
	strs := func(most int) func(r *rand.Rand) []string {
		return some(20, func(r *rand.Rand) string { return text(r, most) })
	}
	all := []valueType{
		{group: "Numbers", name: "bool", fixed: []string{"t", "f"}},
		{name: "int2", fixed: []string{"0", "-32768", "32767"}, random: ints(16)},
		{name: "int4", fixed: []string{"0", "-2147483648", "2147483647"}, random: ints(32)},
		{name: "int8", fixed: []string{"0", "-9223372036854775808", "9223372036854775807"}, random: ints(64)},
		{
			name: "float4", fixed: []string{"0", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "1.17549435e-38", "16777217", "0.1"},
			random: some(30, func(r *rand.Rand) string { return fmt.Sprint(math.Float32frombits(r.Uint32())) }),
		},
		{
			name: "float8", fixed: []string{"0", "-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "9007199254740993", "0.1", "1e15", "1e16", "123456789012345680"},
			random: some(30, func(r *rand.Rand) string { return fmt.Sprint(math.Float64frombits(r.Uint64())) }),
		},
		{name: "numeric", fixed: []string{
			"0", "0.00", "-0", "NaN", "Infinity", "-Infinity", "1.0", "1.00", "1e400", "-1e-400", "0.000000000000000000000000001",
			strings.Repeat("9", 800) + "." + strings.Repeat("1", 800),
		}, random: some(30, decimal)},
		{name: "numeric(20,5)", fixed: []string{"0", "NaN", "-999999999999999.99999", "1.5"}, random: some(10, func(r *rand.Rand) string {
			return fmt.Sprintf("%d.%05d", int64(r.Uint64()>>r.UintN(40))%1e14, r.IntN(100000))
		})},
		{name: "numeric(3,-2)", min: 15, fixed: []string{"0", "12300", "-99900", "NaN"}},
		{name: "numeric(3,6)", min: 15, fixed: []string{"0", "0.000123", "-0.000999"}},
		{name: "money", fixed: []string{"0", "-0.01", "92233720368547758.07", "-92233720368547758.08", "1234.5"}},

		{group: "Text and bytes", name: "text", fixed: []string{"", " ", "NULL", "null", `\N`, `\`, "'", `"`, "{}", "\t\n\r", "é", "é", "😀", "\u200b", "\x01\x7f", strings.Repeat("x", 2000)}, random: strs(60)},
		{name: "varchar(40)", fixed: []string{"", "  trailing  ", "ä"}, random: strs(20)},
		{name: "char(5)", fixed: []string{"", "a", "ab   ", "üüüüü"}},
		{name: `"char"`, fixed: []string{"", "a", `\377`}},
		{name: "name", fixed: []string{"", "a_name", strings.Repeat("n", 63)}},
		{name: "bytea", fixed: []string{"", `\x00`, `\xdeadbeef`, `\x` + strings.Repeat("00ff", 300)}, random: some(10, func(r *rand.Rand) string {
			return fmt.Sprintf(`\x%x`, text(r, 40))
		})},
		{name: "bit(3)", fixed: []string{"000", "101", "111"}},
		{name: "varbit", fixed: []string{"", "0", "1010101010101010101010101"}},
		{name: "uuid", fixed: []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}, random: some(10, func(r *rand.Rand) string {
			return fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
		})},

		{
			group: "Dates and times", name: "date", fixed: []string{"1970-01-01", "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "0001-01-01", "0001-12-31 BC", "2000-02-29", "1900-03-01"},
			random: some(20, day),
		},
		{name: "time", fixed: []string{"00:00:00", "24:00:00", "23:59:59.999999", "00:00:00.000001"}, random: some(10, clock)},
		{name: "time(0)", fixed: []string{"00:00:00", "12:34:56.7"}},
		{name: "timetz", fixed: []string{"00:00:00+00", "24:00:00+05:30", "23:59:59.999999-15:59:59", "12:00:00+15:59"}},
		{
			name: "timestamp", fixed: []string{"1970-01-01 00:00:00", "infinity", "-infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775808", "0001-01-01 00:00:00 BC", "1969-12-31 23:59:59.999999"},
			random: some(20, func(r *rand.Rand) string { return day(r) + " " + clock(r) }),
		},
		{name: "timestamp(3)", fixed: []string{"2001-02-03 04:05:06.789"}},
		{
			name: "timestamptz", fixed: []string{"1970-01-01 00:00:00+00", "infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "9999-12-31 23:59:59.999999+00", "10000-01-01 00:00:00+00", "0001-01-01 00:00:00+00", "2024-03-31 02:30:00 Europe/Berlin"},
			random: some(20, func(r *rand.Rand) string { return day(r) + " " + clock(r) + "+00" }),
		},
		{name: "interval", fixed: []string{"0", "1 year 2 mons 3 days 04:05:06.7", "-1 mons +1 day -00:00:01", "178000000 years", "-178000000 years", "2147483647 days", "00:00:00.000001", "1 mon -1 day", "2147483647:59:59.999999", "30 days", "1 mon"}},
		{name: "interval hour to minute", fixed: []string{"04:05", "-04:05"}},

		{group: "Documents", name: "json", noKey: noBtree, fixed: []string{"null", `"null"`, "{}", "[]", ` { "b" : 1 , "a":2, "b":3 } `, "1e400", "1.0", "-0", `"\u0041\ud83d\ude00"`, `["' \\ \" "]`, strings.Repeat("[", 50) + strings.Repeat("]", 50), "123456789012345678901234567890.10"}},
		{name: "jsonb", fixed: []string{"null", `"null"`, "{}", "[]", `{"b": 1, "a": 2, "b": 3}`, "1e40", "1.0", "1.00", "123456789012345678901234567890.10", `"😀"`}},
		{name: "jsonpath", noKey: noBtree, fixed: []string{"$", `$.a[*] ? (@.b > 1)`, "strict $"}},
		{name: "xml", noKey: noBtree, fixed: []string{"<a/>", "<a b=\"c\">t &amp; u</a>", "text", "<?xml version=\"1.0\"?><a/>", "<!-- c --><a/>"}},
		{name: "tsvector", fixed: []string{"", "a:1A fat:2B,4C cat:5", "'it''s' 'a b'"}},
		{name: "tsquery", fixed: []string{"", "'fat' & ( 'rat' | !'cat' )", "'a':*AB <-> 'b'"}},

		{group: "Network", name: "inet", fixed: []string{"0.0.0.0/0", "10.1.2.3", "10.1.2.3/24", "::1", "2001:db8::/32", "::ffff:1.2.3.4"}},
		{name: "cidr", fixed: []string{"10.1.0.0/16", "2001:db8::/32", "1.2.3.4/32"}},
		{name: "macaddr", fixed: []string{"08:00:2b:01:02:03"}},
		{name: "macaddr8", fixed: []string{"08:00:2b:01:02:03:04:05"}},

		{group: "Geometry", name: "point", noKey: noBtree, fixed: []string{"(0,0)", "(-0,1e300)", "(NaN,Infinity)", "(0.1,0.2)"}},
		{name: "line", noKey: noBtree, fixed: []string{"{1,-1,0}", "{0,1,1e-300}"}},
		{name: "lseg", noKey: noBtree, fixed: []string{"[(0,0),(1,1)]"}},
		{name: "box", noKey: noBtree, fixed: []string{"(1,1),(0,0)", "(2,3),(-1,-1)"}},
		{name: "path", noKey: noBtree, fixed: []string{"[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"}},
		{name: "polygon", noKey: noBtree, fixed: []string{"((0,0),(1,1),(2,0))"}},
		{name: "circle", noKey: noBtree, fixed: []string{"<(0,0),1>", "<(1.5,-2),0>"}},

		{group: "Ranges", name: "int4range", fixed: []string{"empty", "[1,6)", "(,)", "[5,5]", "(,2147483647)"}},
		{name: "int8range", fixed: []string{"empty", "[1,9223372036854775807)", "(,)"}},
		{name: "numrange", fixed: []string{"empty", "[1.0,2.00]", "(NaN,)", "(,1e50)", "[-Infinity,Infinity]"}},
		{name: "daterange", fixed: []string{"empty", "[2020-01-01,infinity)", "[-infinity,2020-01-01)", "[4713-01-01 BC,5874897-12-30)"}},
		{name: "tsrange", fixed: []string{"empty", `["2020-01-01 00:00:00","2020-01-02 00:00:00.000001")`, "(,infinity]"}},
		{name: "tstzrange", fixed: []string{"empty", `["2020-01-01 00:00:00+00",infinity)`}},
		{name: "int4multirange", fixed: []string{"{}", "{[1,3),[7,9)}", "{(,)}"}},
		{name: "int8multirange", fixed: []string{"{}", "{[1,3),[7,9)}"}},
		{name: "nummultirange", fixed: []string{"{}", "{[1.0,2.00],(3,)}"}},
		{name: "datemultirange", fixed: []string{"{}", "{[2020-01-01,2020-01-02),[2021-01-01,infinity)}"}},
		{name: "tsmultirange", fixed: []string{`{["2020-01-01 00:00:00","2020-01-02 00:00:00")}`}},
		{name: "tstzmultirange", fixed: []string{`{["2020-01-01 00:00:00+00","2020-01-02 00:00:00+00")}`}},
		{name: "own_range", setup: "create type own_range as range (subtype = float8)", fixed: []string{"[0.5,1e300)", "empty"}},

		{group: "Of the system", name: "oid", fixed: []string{"0", "4294967295", "2147483648"}, random: unsigned(32)},
		{name: "xid", noKey: noBtree, fixed: []string{"0", "4294967295"}},
		{name: "xid8", fixed: []string{"0", "18446744073709551615"}},
		{name: "cid", noKey: noBtree, fixed: []string{"7"}},
		{name: "tid", fixed: []string{"(0,1)", "(4294967295,65535)"}},
		{name: "pg_lsn", fixed: []string{"0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"}},
		{name: "pg_snapshot", noKey: noBtree, fixed: []string{"10:20:10,14,15", "1:1:"}},
		{name: "txid_snapshot", noKey: noBtree, fixed: []string{"10:20:10,14,15"}},
		{name: "regclass", fixed: []string{"pg_class", "pg_catalog.pg_type"}},
		{name: "regtype", fixed: []string{"int4", "timestamp with time zone"}},
		{name: "regprocedure", fixed: []string{"sum(int4)"}},
		{name: "regnamespace", fixed: []string{"pg_catalog"}},
		{name: "regrole", fixed: []string{"pg_monitor"}},
		{name: "regconfig", fixed: []string{"simple"}},
		{name: "oidvector", fixed: []string{"", "1 2 3"}},
		{name: "int2vector", noKey: noBtree, fixed: []string{"1 -2 3"}},

		{group: "Users' own", name: "mood", setup: "create type mood as enum ('sad', 'so so', 'it''s \"ok\"', 'ü')", fixed: []string{"sad", "so so", `it's "ok"`, "ü"}},
		{name: "pair", setup: "create type pair as (a int, b text, c numeric[])", fixed: []string{`(1,"a,b","{1.0,NULL}")`, "(,,)", `(-5,"","{}")`, `(7,"q""uo\\te",)`}},
		{name: "positive", setup: "create domain positive as numeric(10,2) check (value > 0)", fixed: []string{"1", "99999999.99", "0.01"}},
		{name: "words", setup: "create domain words as text[]", fixed: []string{"{}", `{a,NULL,"NULL","b,c"}`, "[2:3]={x,y}"}},
		{name: `"Odd ""Type"" ü"`, setup: `create type "Odd ""Type"" ü" as enum ('a', 'B')`, fixed: []string{"a", "B"}},
		{
			name: "folded", setup: "create collation folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false); create domain folded as text collate folding",
			again: "upper(k)", fixed: []string{"", "Abc", "abcd", "e", "F", "gh"},
		},

		{group: "Of extensions", name: "citext", needs: "citext", again: "upper(k::text)::citext", fixed: []string{"", "Abc", "ABCD", "ß", "d", "E", "fg"}},
		{name: "hstore", needs: "hstore", fixed: []string{"", `"a"=>"1", "b"=>NULL, "c d"=>"\"q\""`, `"ü"=>""`}},
		{name: "ltree", needs: "ltree", fixed: []string{"", "a.b.c", "Top_1.Sub"}},
		{name: "lquery", needs: "ltree", noKey: noBtree, fixed: []string{"*.a.*{1,2}.b@*"}},
		{name: "cube", needs: "cube", fixed: []string{"(0, 0)", "(1, 2),(3, 4)"}},
		{name: "isbn", needs: "isn", fixed: []string{"978-0-393-04002-9"}},
		{name: "vector(3)", needs: "vector", fixed: []string{"[1,2,3]", "[-0.5,1e-30,3e30]", "[0,-0,0.1]", "[3.4028235e38,1e-45,-1]"}},
		{name: "vector", needs: "vector", fixed: []string{"[1]", "[1,2,3,4]"}},
		{name: "halfvec(2)", needs: "vector", fixed: []string{"[1,2]", "[-65504,6e-8]"}},
		{name: "sparsevec(5)", needs: "vector", fixed: []string{"{1:1,3:2.5}/5", "{}/5"}},
		{name: "geometry", needs: "postgis", fixed: []string{"POINT(1 2)", "SRID=4326;POLYGON((0 0,1 0,1 1,0 0))", "POINT EMPTY", "POINT ZM(0.1 -0 1e300 4)", "GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1 1))"}},
		{name: "geometry(Point,4326)", needs: "postgis", fixed: []string{"SRID=4326;POINT(1 2)", "SRID=4326;POINT(-180 90)"}},
		{name: "geography", needs: "postgis", fixed: []string{"POINT(1 2)", "LINESTRING(0 0,179.9 -89.9)"}},
		{name: "box2d", needs: "postgis", noKey: noBtree, fixed: []string{"BOX(1 2,3 4)"}},
		{name: "box3d", needs: "postgis", noKey: noBtree, fixed: []string{"BOX3D(1 2 3,4 5 6)"}},
	}
	group := ""
	for i := range all {
		if all[i].group == "" {
			all[i].group = group
		}
		group = all[i].group
	}
	return all
}

// text gives text of what is apt to be mishandled.
func text(r *rand.Rand, most int) string {
	const odd = "\\\"'{},() \t\n\rabcN_x-=>:;%$é😀\u0301\u2028\x01"
	letters := []rune(odd)
	var b strings.Builder
	for range r.IntN(most + 1) {
		b.WriteRune(letters[r.IntN(len(letters))])
	}
	return b.String()
}

func decimal(r *rand.Rand) string {
	digits := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(byte('0' + r.IntN(10)))
		}
		return b.String()
	}
	s := digits(1 + r.IntN(30))
	if r.IntN(3) > 0 {
		s += "." + digits(1+r.IntN(30))
	}
	if r.IntN(2) == 0 {
		s = "-" + s
	}
	return s
}

func day(r *rand.Rand) string {
	year := r.IntN(12000) - 3000
	d := time.Date(2000, 1, 1+r.IntN(366), 0, 0, 0, 0, time.UTC) // of a leap year
	if d.Month() == 2 && d.Day() == 29 {
		d = d.AddDate(0, 0, 1)
	}
	era := ""
	if year <= 0 {
		year, era = 1-year, " BC"
	}
	return fmt.Sprintf("%04d-%02d-%02d%s", year, d.Month(), d.Day(), era)
}

func clock(r *rand.Rand) string {
	return fmt.Sprintf("%02d:%02d:%02d.%06d", r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1_000_000))
}
