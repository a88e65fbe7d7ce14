package record

import (
	"encoding/json"
	"fmt"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Progress is one record of a source's progress topic: how far capture has come, written as the last record of
// every Kafka transaction, so that data and progress become visible together. It is JSON: small, rare, and
// readable by anyone.
//
// The topic is compacted. A full record, key "full", holds the whole vector and all tables; a delta only what has
// changed since the record before it. Deltas have deltaKeys keys in turn, more than there are deltas between two
// full records, so that compaction never takes one that is still needed. A reader that starts in the middle, or
// finds N not to follow on, knows the state again from the next full record.
type Progress struct {
	Version  int    `json:"version"` // of this format: 1
	Source   string `json:"source"`
	SystemID string `json:"system_id"`
	Timeline uint32 `json:"timeline"`
	Era      uint16 `json:"era"`
	Slot     string `json:"slot"`

	Full bool   `json:"full"`
	N    uint64 `json:"n"` // grows by one with each record of the topic

	// CommitLSN is the newest transaction of which anything is published, EndLSN the end of the newest one that
	// is published whole: what may be confirmed to the slot.
	CommitLSN LSN `json:"commit_lsn"`
	EndLSN    LSN `json:"end_lsn"`
	// Inside is not 0 when the Kafka transaction ends within a source transaction: its events up to this Seq are
	// published, the rest is to come.
	Inside uint64 `json:"inside,omitempty"`
	// SnapshotSeq is the Seq that the next snapshot row at CommitLSN gets, 0 for the first.
	SnapshotSeq uint64 `json:"snapshot_seq,omitempty"`
	CommitTime  int64  `json:"commit_ts_us"` // of CommitLSN, microseconds since 1970-01-01
	MaxXID      uint32 `json:"max_xid"`      // the greatest id of a published transaction, as transaction ids wrap
	WrittenAt   int64  `json:"written_ts_us"`

	// Vector holds for each topic the next offset of each of its partitions: what a reader that stands at or
	// past it everywhere has of the source as of CommitLSN. -1: nothing was ever written there. 0: nothing is left of what was.
	Vector map[string][]int64 `json:"vector,omitempty"`

	// Tables is the state of every captured table; in a delta, of those whose state has changed.
	Tables []TableProgress `json:"tables,omitempty"`
	// Gone are tables that the source does not have any more, or not under a captured name: rows of them may still come, or they may
	// come back; in full records.
	Gone   []GoneTable `json:"gone,omitempty"`
	Fences []string    `json:"fences,omitempty"` // fence ids whose message is at or before CommitLSN, since the record before
	Health Health      `json:"health"`
}

const (
	keyFull   = "full"
	deltaKeys = 4096
	// FullEvery is the greatest number of deltas that may follow a full record.
	FullEvery = 1000
)

// TableProgress is how far the snapshot of one table has come.
type TableProgress struct {
	OID    uint32 `json:"oid"`
	Schema string `json:"schema"`
	Table  string `json:"table"`
	Done   bool   `json:"done"`
	// DoneLSN is the commit LSN behind which the last rows stand; 0 where that is not known. Events after it are of rows
	// that a reader of the topic has.
	DoneLSN LSN   `json:"done_lsn,omitempty"`
	Rows    int64 `json:"rows"` // snapshot rows published
	// BegunEra and BegunLSN are the commit at which the newest read of all rows began, under way or done: they stand behind it.
	// BegunColumns are those that it reads besides the key; nil for all. All are empty where capture was older.
	BegunEra     uint16          `json:"begun_era,omitempty"`
	BegunLSN     LSN             `json:"begun_lsn,omitempty"`
	BegunColumns []string        `json:"begun_columns,omitempty"`
	Ranges       []RangeProgress `json:"ranges,omitempty"` // what is still to be read; nil when done
	// RangesKey are the numbers of the columns by which Ranges are, in the order of the key.
	RangesKey []int16 `json:"ranges_key,omitempty"`
	Level     string  `json:"level"` // "all", "insert" (INSERT and TRUNCATE only), or "left out"
	// SchemaID is the registry's id of the version of the table that the stream was at, in the schema of its values. A
	// start compares it with what the catalog has then.
	SchemaID int `json:"schema_id,omitempty"`
	// Schemas is a fingerprint of that version: a registry that has lost its schemas may give SchemaID to another one.
	Schemas string `json:"schemas,omitempty"`
	Files   int64  `json:"files,omitempty"` // another number when the server has written the table anew
	// Leaves are the OIDs of the partitions that it had, of a partitioned table.
	Leaves []uint32 `json:"leaves,omitempty"`
	// Silent are those of its partitions whose rows were in no WAL; none of Leaves.
	Silent []uint32 `json:"silent,omitempty"`
	// Member is another number when the table was taken out of its publication and put in again, whoever did it.
	Member uint32 `json:"member,omitempty"`
	// Published is another number when that publication was altered, whoever did it; 0 where capture was older.
	Published uint32 `json:"published,omitempty"`
	// Parts: its partitions are published one by one. Member is another then, too.
	Parts bool `json:"parts,omitempty"`
	// Reload: a truncate is still to be published before the rows.
	Reload bool `json:"reload,omitempty"`
	// Where is the condition, in SQL, to which the rows that are read are limited; "" for none.
	Where string `json:"where,omitempty"`
	// Columns are those that the rows carry besides the key; nil for all of them.
	Columns []string `json:"columns,omitempty"`
	// Whole: a reader of the topic has all rows without the read that is under way, which can be given up.
	Whole bool `json:"whole,omitempty"`
	// Needed is the part of Where without which a reader of the topic has not all rows: what else is read can be given up. "": all of
	// it, unless Whole.
	Needed string `json:"needed,omitempty"`
	// Asked is the id of the request for the read that is under way or done; "" for the first one of the table.
	Asked string `json:"asked,omitempty"`
	// GivenUp: the read that Asked is of was given up before its end.
	GivenUp bool `json:"given_up,omitempty"`
	// Rate is how many rows a second the read under way takes at most; 0: as many as it can.
	Rate int64 `json:"rate,omitempty"`
	// Held says why nothing of the table is published at present; nil where all of it is.
	Held *Held `json:"held,omitempty"`
	// Covered is what it was called when capture.yaml named it in columns last, where it has another name since and is held for that.
	Covered *Name `json:"covered,omitempty"`
	// CoveredColumns are the numbers of those of its columns that columns of capture.yaml leave out or mask, by fingerprints of their names, in the version
	// that the stream was at.
	CoveredColumns map[string]int16 `json:"covered_columns,omitempty"`
}

// Name is that of a table.
type Name struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	Part   bool   `json:"part,omitempty"` // it is that of the table whose partition is meant
}

// GoneTable is what is to be known of a table for its last rows, or for when it comes back.
type GoneTable struct {
	OID      uint32 `json:"oid"`
	SchemaID int    `json:"schema_id"` // as TableProgress.SchemaID; 0 where none is known
	By       LSN    `json:"by"`        // at or before which it was gone
	Held     bool   `json:"held,omitempty"`
	// Covered is what it was called when capture.yaml had something for it in columns. It is kept as long as the source has it.
	Covered *Name `json:"covered,omitempty"`
	// CoveredColumns are, with Covered, as TableProgress.CoveredColumns, of the table that Covered names.
	CoveredColumns map[string]int16 `json:"covered_columns,omitempty"`
}

// Held is why a table is held: from an event on nothing of it is published, while the source's other tables go on. Of the
// source transaction with that event, events of the table before it may be published. What is not published in the
// meantime never is: the table is loaded anew when it goes on.
type Held struct {
	Code    string `json:"code"` // of the trouble, the key to its runbook
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	LSN     LSN    `json:"lsn"`         // commit LSN of the first event that is not published
	Since   int64  `json:"since_ts_us"` // when that was noticed, microseconds since 1970-01-01
}

// RangeProgress is one range of keys of a snapshot that is still to be read: after (exclusive) to up (inclusive),
// each the texts of the key's columns; nil stands for the end of the table. At is a single key instead.
type RangeProgress struct {
	At    []string `json:"at,omitempty"`
	After []string `json:"after,omitempty"`
	Up    []string `json:"up,omitempty"`
}

// Health is capture's own report, so that sinks and SQL can show the whole pipeline.
type Health struct {
	State         string  `json:"state"` // code of ux 2.2
	Instance      string  `json:"instance"`
	Version       string  `json:"version"`
	HTTP          string  `json:"http,omitempty"`
	BehindSeconds float64 `json:"behind_s"`
	ToPublish     int64   `json:"to_publish_bytes"`
	WALKept       int64   `json:"wal_kept_bytes"`
	WALBudget     int64   `json:"wal_budget_bytes,omitempty"`
	WALSafe       *int64  `json:"wal_safe_bytes,omitempty"` // what the server still allows; nil: no limit
	SnapshotDone  int     `json:"snapshot_tables_done"`
	SnapshotOf    int     `json:"snapshot_tables"`
	RowsDone      int64   `json:"snapshot_rows"`
	RowsExpected  int64   `json:"snapshot_rows_expected"` // estimate; 0: not known
	Held          int     `json:"held_tables,omitempty"`  // tables with TableProgress.Held
	WaitingOn     string  `json:"waiting_on,omitempty"`
	WaitingSince  int64   `json:"waiting_since_ts_us,omitempty"`
	// Trouble is the code of that by which capture has come to wait, or has stopped, and said so in its last record before; "" while it publishes.
	Trouble      string `json:"trouble,omitempty"`
	TroubleSince int64  `json:"trouble_since_ts_us,omitempty"`
}

// LSN is a change.LSN that JSON holds in Postgres' own notation.
type LSN change.LSN

// MarshalText writes l as Postgres does.
func (l LSN) MarshalText() ([]byte, error) { return []byte(change.LSN(l).String()), nil }

// UnmarshalText reads what MarshalText writes.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := change.ParseLSN(string(b))
	*l = LSN(v)
	return err
}

// progressVersion is the format of Progress that this version writes, and the newest that it reads.
const progressVersion = 1

// Encode writes p, with Version set.
func (p *Progress) Encode() ([]byte, error) {
	p.Version = progressVersion
	return json.Marshal(p)
}

// Key gives the Kafka key of p.
func (p *Progress) Key() string {
	if p.Full {
		return keyFull
	}
	return fmt.Sprintf("delta-%d", p.N%deltaKeys)
}

// ParseProgress reads what Encode writes. Fields that it does not know are passed over.
func ParseProgress(b []byte) (*Progress, error) {
	var p Progress
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("decode progress record: %w", err)
	}
	if p.Version < 1 || p.Version > progressVersion {
		return nil, fmt.Errorf("decode progress record: format %d, this version reads up to %d", p.Version, progressVersion)
	}
	return &p, nil
}
