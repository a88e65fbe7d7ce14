package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// raisers name, for each code, the test, or the page that a test follows, in which real servers raise it.
var raisers = map[trouble.Code]string{
	trouble.Config:                 "capture TestMissingRights",
	trouble.SourceUnreachable:      "capture TestUnreachable",
	trouble.SourceRights:           "capture TestMissingRights",
	trouble.WALLevel:               "capture TestWALLevelReplica",
	trouble.ServerVersion:          "sink TestUpgrade",
	trouble.SlotInUse:              "capture TestSlotInUse",
	trouble.SlotMissing:            "capture TestSlotGoneOrAdvancedIsAGap",
	trouble.SlotLost:               "docs/operations/slot-lost.md",
	trouble.SlotWaits:              "capture TestSlotWaitsForTransaction",
	trouble.OldTransaction:         "capture TestSlotWaitsForTransaction",
	trouble.SlotsExhausted:         "capture TestSlotsExhausted",
	trouble.Gap:                    "capture TestSlotGoneOrAdvancedIsAGap",
	trouble.WrongSystem:            "capture TestFailover",
	trouble.WALBudget:              "capture TestBudgetAlarmWhileKafkaIsAway",
	trouble.TableWithoutIdentity:   "capture TestTablesWithoutWAL",
	trouble.PublicationBreaksApp:   "capture TestPublicationBreaksApplication",
	trouble.Publication:            "capture TestPause",
	trouble.SnapshotFailed:         "capture TestSnapshotIsGivenUp",
	trouble.SnapshotRereads:        "capture TestRereadsForAnOpenTransaction",
	trouble.RecordTooLarge:         "capture TestRowTooLargeForTheBroker",
	trouble.RecordInvalid:          "sink TestBadRecordsHoldOneTable",
	trouble.KafkaUnreachable:       "capture TestUnreachable",
	trouble.KafkaAuth:              "deploy/cmd/docs TestSecured",
	trouble.KafkaNotAuthorised:     "deploy/cmd/docs TestACLsOfSecurityPage",
	trouble.KafkaNotEnoughReplicas: "capture TestNotEnoughReplicas",
	trouble.KafkaProduce:           "capture/publish TestHangingOfAnother",
	trouble.IdentityUnreachable:    "deploy/cmd/docs TestTokens",
	trouble.TopicPartitionsChanged: "capture TestChangedPartitionsHoldTheirTable",
	trouble.TopicName:              "capture TestTableWithoutTopicIsHeld",
	trouble.TopicTruncated:         "sink TestTopicTruncated",
	trouble.TopicRecreated:         "sink TestTopicMadeAnew",
	trouble.Fenced:                 "capture TestFencedByNewerInstance",
	trouble.TransactionTimeout:     "capture TestTransactionTimesOut",
	trouble.RegistryUnreachable:    "capture TestUnreachable",
	trouble.RegistryAuth:           "pkg/registry TestTrouble",
	trouble.SchemaUnknown:          "capture TestRegistryLostItsSchemas",
	trouble.SchemaIncompatible:     "capture TestRefusedSchemaHoldsItsTable",
	trouble.WarehouseUnreachable:   "sink TestWarehouseAway",
	trouble.WarehouseRights:        "docs/runbooks/warehouse-rights.md",
	trouble.WarehouseReadOnly:      "sink TestWarehouseReadOnly",
	trouble.WarehouseFull:          "sink TestFullForOneTable",
	trouble.CheckpointFenced:       "sink TestWarehouseGoesBack",
	trouble.TargetType:             "sink TestWrongTargetHoldsOneTable",
	trouble.TargetMissing:          "docs/runbooks/target-missing.md",
	trouble.ConstraintViolation:    "sink TestPoisonIsHeldExactly",
	trouble.ValueOutOfRange:        "docs/runbooks/value-out-of-range.md",
	trouble.SchemaChangeBlocked:    "sink TestModesRefuse",
	trouble.MissingIndex:           "sink TestCheck",
	trouble.LockWait:               "sink TestMemoryIsBounded",
	trouble.RuleConflict:           "sink TestTwoSourcesWithoutSIDAreRefused",
	trouble.RuleError:              "sink TestRuleErrors",
	trouble.RowCount:               "docs/runbooks/row-count.md",
	trouble.UnresolvedToast:        "sink TestUnresolvedToast",
	trouble.NoTopics:               "sink TestCheck",
	trouble.CaptureSilent:          "deploy/e2e TestPagesInTrouble",
	trouble.BarrierWaiting:         "sink TestBarrierWaits",
	trouble.RetentionHeadroom:      "sink TestRetentionHeadroom",
	trouble.RowsOutdated:           "sink TestRowsOutdated",
	trouble.Parked:                 "sink TestPark",
	trouble.Internal:               "sink TestTenantRebuild",
	trouble.StreamBroken:           "capture TestPublicationGone",
}

// unraised are the codes that no real server raises in a test, and why.
var unraised = map[trouble.Code]string{
	trouble.FallingBehind: "it takes a minute of a machine that is too slow; TestJudge makes the numbers up",
	trouble.Stuck:         "it is a defect that is not known; TestJudge makes the numbers up",
}

// TestEveryTroubleIsRaised: each code has a test that raises it, or says why none does.
func TestEveryTroubleIsRaised(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(top, "pkg/trouble/trouble.go"))
	must(t, err)
	constants := map[trouble.Code]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+) +Code = "([\w-]+)"`).FindAllStringSubmatch(string(source), -1) {
		constants[trouble.Code(m[2])] = "trouble." + m[1]
	}
	for _, code := range trouble.Codes() {
		where, raised := raisers[code]
		if _, not := unraised[code]; raised == not {
			t.Errorf("%s: name a test that raises it in raisers, or in unraised why there is none", code)
		}
		if !raised {
			continue
		}
		text := body(t, where)
		if text == "" {
			t.Errorf("%s: there is no %s", code, where)
		} else if !strings.Contains(text, string(code)) && !regexp.MustCompile(regexp.QuoteMeta(constants[code])+`\b`).MatchString(text) {
			t.Errorf("%s does not speak of %s", where, code)
		}
	}
}

// body gives what a test does, or a page says; "" where it is not there.
func body(t *testing.T, where string) string {
	dir, name, isTest := strings.Cut(where, " ")
	if !isTest {
		text, err := os.ReadFile(filepath.Join(top, where))
		must(t, err)
		return string(text)
	}
	files, err := filepath.Glob(filepath.Join(top, dir, "*_test.go"))
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		if _, rest, ok := strings.Cut(string(text), "\nfunc "+name+"("); ok {
			test, _, _ := strings.Cut(rest, "\nfunc ")
			return test
		}
	}
	return ""
}
