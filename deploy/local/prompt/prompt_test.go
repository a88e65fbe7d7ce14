package prompt

import (
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

func TestCut(t *testing.T) {
	for text, want := range map[string][]string{
		"select 1; select 2":                   {"select 1", " select 2"},
		"select 1":                             nil,
		`select ';', ";" as "a;b"; x`:          {`select ';', ";" as "a;b"`, " x"},
		"select 'it''s;'; x":                   {"select 'it''s;'", " x"},
		`select E'\';'; x`:                     {`select E'\';'`, " x"},
		`select '\'; x`:                        {`select '\'`, " x"},
		`select type';'; x`:                    {`select type';'`, " x"},
		"select $$;$$, $a$ ; $b$ ; $a$; x":     {"select $$;$$, $a$ ; $b$ ; $a$", " x"},
		"select $1; x":                         {"select $1", " x"},
		"select a$b$; x":                       {"select a$b$", " x"},
		"select 1 -- not ; here\n; x":          {"select 1 -- not ; here\n", " x"},
		"select /* ; /* ; */ ; */ 1; x":        {"select /* ; /* ; */ ; */ 1", " x"},
		"select 'open;":                        nil,
		"select $$ open;":                      nil,
		"select /* open; /* */":                nil,
		"select 1 -- open;":                    nil,
		"; x":                                  {"", " x"},
		"select 'ä;ö'; select \"ü;\", $ß$;$ß$": {"select 'ä;ö'", " select \"ü;\", $ß$;$ß$"},
	} {
		statement, rest, ok := cut(text)
		if ok != (want != nil) || ok && (statement != want[0] || rest != want[1]) {
			t.Errorf("cut(%q) = %q, %q, %v; want %q", text, statement, rest, ok, want)
		}
	}
}

func TestRun(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	run := func(interactive bool, input string) (string, error) {
		var out strings.Builder
		err := Run(t.Context(), Config{DSN: dsn, In: strings.NewReader(input), Out: &out, Interactive: interactive})
		return out.String(), err
	}
	got, err := run(false, `
create table t (n int, name text, at date);
insert into t values (1, 'Müller', '2024-02-29'), (20, E'two\nlines\x1b[31m', null), (300, '', null);
select * from t
  order by n;
delete from t where n > 1`)
	if err != nil {
		t.Fatal(err)
	}
	const want = `CREATE TABLE
INSERT 0 3
 n   | name                  | at
-----+-----------------------+------------
   1 | Müller                | 2024-02-29
  20 | two\nlines\x1b[31m    | 
 300 |                       | 
(3 rows)

DELETE 2
`
	if normalise(got) != normalise(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}

	// Piped statements stop at the first failure, typed ones do not.
	const input = "select 1 as one; select nothing; select 2 as two;\n"
	if got, err := run(false, input); err == nil || !strings.Contains(err.Error(), "nothing") || strings.Contains(got, "two") {
		t.Errorf("piped: error %v after:\n%s", err, got)
	}
	if got, err := run(true, input+"\\q\nselect 3 as three;\n"); err != nil || !strings.Contains(got, "error: ") ||
		!strings.Contains(got, "two") || strings.Contains(got, "three") || !strings.Contains(got, "=> ") {
		t.Errorf("typed: error %v after:\n%s", err, got)
	}
}

// normalise leaves out the width of the columns.
func normalise(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "---") {
			line = "---"
		}
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}
