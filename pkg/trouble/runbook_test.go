package trouble

import (
	"strings"
	"testing"
)

func TestRunbook(t *testing.T) {
	b := parseRunbook("# gap\n\n**You see** x\n\n**Why** Somebody `moved`\nthe [slot](a.md).\n\n**It means** Nothing.\n\nMore.\n\n**Do** First look:\n"+
		"```sql\nSELECT 1;\n```\nThen:\n```sh\ncapture run\n```\nor\n```sh\ncapture snapshot --table …\n```\n\n**Good when** y\n", ofCodes)
	if b.Why != "Somebody moved the slot." || b.Means != "Nothing." || b.Do != "First look:" || len(b.Commands) != 2 || b.Commands[1] != "capture run" {
		t.Errorf("%+v", b)
	}
	if _, ok := RunbookOf("no-such-code"); ok {
		t.Error("there is a runbook of a code that is none")
	}
	b = parseRunbook("# TributaryX\n\n**Meaning** For 2 min.\n\n**Impact** None.\n\n**Look**\n```sh\ncapture status\n```\n\n**Do**\n1. Wait.\n\n**Afterwards** y\n", ofAlerts)
	if b.Why != "For 2 min." || b.Means != "None." || b.Do != "1. Wait." || len(b.Commands) != 0 {
		t.Errorf("%+v", b)
	}
}

// What is said of where defects are reported is one address, in runbooks and in hints.
func TestIssues(t *testing.T) {
	for _, code := range Codes() {
		book, _ := RunbookOf(code)
		if strings.Count(book.Text, "/issues") != strings.Count(book.Text, "<"+Issues+">") {
			t.Errorf("the runbook of %s names another address than %s", code, Issues)
		}
	}
	if hint := Report("capture"); !strings.Contains(hint, Issues+" ") || !strings.HasSuffix(hint, ": capture support-bundle") {
		t.Errorf("%q", hint)
	}
}
