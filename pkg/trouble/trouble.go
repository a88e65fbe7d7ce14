// Package trouble is the form of every error that a person meets: what was attempted on what, why it failed, what
// that means, what to do. The code is the key to page, log, metric, alert and runbook.
package trouble

import (
	"errors"
	"strings"
)

// Code names one kind of trouble for ever, in kebab-case.
type Code string

// The codes. Each has an entry in docs/runbooks.
const (
	Config                 Code = "config"
	SourceUnreachable      Code = "source-unreachable"
	SourceRights           Code = "source-rights"
	WALLevel               Code = "wal-level"
	ServerVersion          Code = "server-version"
	SlotInUse              Code = "slot-in-use"
	SlotMissing            Code = "slot-missing"
	SlotLost               Code = "slot-lost"
	SlotWaits              Code = "slot-waits-for-transaction"
	OldTransaction         Code = "old-transaction"
	SlotsExhausted         Code = "slots-exhausted"
	Gap                    Code = "gap"
	WrongSystem            Code = "wrong-system"
	WALBudget              Code = "wal-budget"
	TableWithoutIdentity   Code = "table-without-identity"
	PublicationBreaksApp   Code = "publication-breaks-application"
	Publication            Code = "publication"
	StreamBroken           Code = "stream-broken"
	SnapshotFailed         Code = "snapshot-failed"
	SnapshotRereads        Code = "snapshot-rereads"
	RecordTooLarge         Code = "record-too-large"
	RecordInvalid          Code = "record-invalid"
	KafkaUnreachable       Code = "kafka-unreachable"
	KafkaAuth              Code = "kafka-auth"
	KafkaNotAuthorised     Code = "kafka-not-authorised"
	KafkaNotEnoughReplicas Code = "kafka-not-enough-replicas"
	KafkaProduce           Code = "kafka-produce"
	IdentityUnreachable    Code = "identity-unreachable"
	TopicPartitionsChanged Code = "topic-partitions-changed"
	TopicName              Code = "topic-name"
	TopicTruncated         Code = "topic-truncated"
	TopicRecreated         Code = "topic-recreated"
	Fenced                 Code = "fenced"
	TransactionTimeout     Code = "transaction-timeout"
	RegistryUnreachable    Code = "registry-unreachable"
	RegistryAuth           Code = "registry-auth"
	SchemaUnknown          Code = "schema-unknown"
	SchemaIncompatible     Code = "schema-incompatible"
	WarehouseUnreachable   Code = "warehouse-unreachable"
	WarehouseRights        Code = "warehouse-rights"
	WarehouseReadOnly      Code = "warehouse-read-only"
	WarehouseFull          Code = "warehouse-full"
	CheckpointFenced       Code = "checkpoint-fenced"
	TargetType             Code = "target-type"
	TargetMissing          Code = "target-missing"
	ConstraintViolation    Code = "constraint-violation"
	ValueOutOfRange        Code = "value-out-of-range"
	SchemaChangeBlocked    Code = "schema-change-blocked"
	MissingIndex           Code = "missing-index"
	LockWait               Code = "lock-wait"
	RuleConflict           Code = "rule-conflict"
	RuleError              Code = "rule-error"
	RowCount               Code = "row-count"
	UnresolvedToast        Code = "unresolved-toast"
	NoTopics               Code = "no-topics"
	CaptureSilent          Code = "capture-silent"
	FallingBehind          Code = "falling-behind"
	RetentionHeadroom      Code = "retention-headroom"
	RowsOutdated           Code = "rows-outdated"
	BarrierWaiting         Code = "barrier-waiting"
	Parked                 Code = "parked"
	Stuck                  Code = "stuck"
	Internal               Code = "internal"
)

// Issues is where defects are reported.
const Issues = "https://github.com/tributary-cdc/tributary/issues"

// Report is the hint of a trouble that is a defect of a program of ours, "capture" or "sink".
func Report(program string) string {
	return "this is a defect of Tributary: report it at " + Issues + " with the file that this writes: " + program + " support-bundle"
}

// Error is one trouble. Op and Cause are always set.
type Error struct {
	Code    Code
	Op      string // what was attempted: "create slot"
	Subject string // on what: `slot "tributary_shop"`, with table, partition, LSN or offset where known
	Cause   error  // as the other side said it; never holds a row's values
	Means   string // what is safe and what is not
	Hint    string // what to do: commands, one a line
}

// Error gives one line: operation, subject and cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteByte(' ')
		b.WriteString(e.Subject)
	}
	if e.Cause != nil {
		b.WriteString(": ")
		b.WriteString(e.Cause.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// CodeOf gives the code of the outermost trouble in err's chain, Internal if there is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
