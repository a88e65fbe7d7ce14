// Package mutant knows the defects that a build with the tag "mutant" can be given through TRIBUTARY_MUTANT. With them
// the end-to-end tests prove that they would find such a defect. It owns their names and nothing else; what each breaks
// stands where On asks for it.
package mutant

// Defect names one of them.
type Defect string

// The defects.
const (
	CheckpointApart        Defect = "checkpoint-apart"         // the checkpoint moves in a transaction of its own, after the rows
	NoCompareAndSet        Defect = "no-compare-and-set"       // the checkpoint moves whoever owns it, and wherever it is
	TruncateWithoutBarrier Defect = "truncate-without-barrier" // partition 0 executes a TRUNCATE wherever the others are
	TablesApart            Defect = "tables-apart"             // with consistency: source each table becomes visible by itself
	LastVersionOnly        Defect = "last-version-only"        // of several changes of a row in one batch, a history keeps the last
	SnapshotRowAsVersion   Defect = "snapshot-row-as-version"  // a row of a snapshot is a version also where nothing has changed
	TOASTAsNull            Defect = "toast-as-null"            // a value that was not sent is written as null
)
