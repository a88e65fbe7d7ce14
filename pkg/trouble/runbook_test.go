package trouble

import "testing"

func TestRunbook(t *testing.T) {
	b := parseRunbook("# gap\n\n**You see** x\n\n**Why** Somebody `moved`\nthe [slot](a.md).\n\n**It means** Nothing.\n\nMore.\n\n**Do** First look:\n" +
		"```sql\nSELECT 1;\n```\nThen:\n```sh\ncapture run\n```\nor\n```sh\ncapture snapshot --table …\n```\n\n**Good when** y\n")
	if b.Why != "Somebody moved the slot." || b.Means != "Nothing." || b.Do != "First look:" || len(b.Commands) != 2 || b.Commands[1] != "capture run" {
		t.Errorf("%+v", b)
	}
	if _, ok := RunbookOf("no-such-code"); ok {
		t.Error("there is a runbook of a code that is none")
	}
}
