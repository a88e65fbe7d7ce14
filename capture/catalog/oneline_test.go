package catalog

import "testing"

func TestOneLine(t *testing.T) {
	got := oneLine("a text generated always as (\nCASE\n    WHEN (n > 0) THEN 'two  spaces, it''s\n(a line)'::text\n    ELSE \"odd  name\"\nEND) stored")
	if want := "a text generated always as (CASE WHEN (n > 0) THEN 'two  spaces, it''s\n(a line)'::text ELSE \"odd  name\" END) stored"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
