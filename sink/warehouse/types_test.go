package warehouse

import "testing"

func TestHolds(t *testing.T) {
	is := func(want bool, from string, to ...string) {
		t.Helper()
		for _, to := range to {
			if holds(from, to) != want {
				t.Errorf("%s into %s: %v", from, to, !want)
			}
		}
	}
	is(true, "integer", "integer", "bigint", "numeric", "double precision", "text", "character varying(5)")
	is(false, "integer", "smallint", "real", "numeric(20,0)", "boolean", "date", "jsonb", "integer[]")
	is(false, "bigint", "integer", "double precision")
	is(true, "numeric(5,2)", "numeric", "numeric(5,2)", "numeric(7,2)", "numeric(7,3)", "text")
	is(false, "numeric(5,2)", "numeric(5,3)", "numeric(5,1)", "bigint", "double precision")
	is(false, "numeric", "numeric(10,2)")
	is(true, "real", "double precision", "real")
	is(false, "double precision", "real", "numeric")
	is(true, "text", "character varying(10)", "text", "public.mood", "public.citext")
	is(false, "text", "integer", "bytea", "date", "character(5)", "name", "text[]")
	is(true, "character(5)", "text", "character(9)")
	is(true, "timestamp(3) without time zone", "timestamp without time zone", "timestamp(3) without time zone", "timestamp(4) without time zone")
	is(false, "timestamp without time zone", "timestamp(3) without time zone", "timestamp with time zone", "date")
	is(true, "timestamp without time zone", "timestamp(6) without time zone")
	is(true, "bit(3)", "bit(3)", "bit(5)") // an error, not another value
	is(true, "integer[]", "integer[]", "text")
	is(false, "integer[]", "bigint[]", "integer")
	is(true, "json", "jsonb")
	is(true, "public.geometry(Point,4326)", "public.geometry(Point,4326)", "text")
	is(false, "public.geometry(Point,4326)", "integer")
}

func TestWidens(t *testing.T) {
	is := func(want bool, old, now string) {
		t.Helper()
		if widens(old, now) != want {
			t.Errorf("%s to %s: %v", old, now, !want)
		}
	}
	is(true, "integer", "bigint")
	is(true, "integer", "numeric")
	is(true, "numeric(5,2)", "numeric(7,2)")
	is(true, "numeric(5,2)", "numeric")
	is(true, "timestamp(3) without time zone", "timestamp without time zone")
	is(true, "character varying(5)", "character varying(10)")
	is(true, "character varying(5)", "text")
	is(false, "character varying(10)", "character varying(5)")
	is(false, "text", "character varying(5)")
	is(false, "character varying(10)", "integer")
	is(false, "bigint", "integer")
	is(false, "integer", "text")
	is(false, "boolean", "text")
	is(false, "text", "integer")
}
