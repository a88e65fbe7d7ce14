package capture

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Config is capture.yaml.
type Config struct {
	Source   Source            `mapstructure:"source" doc:"The database to capture."`
	Columns  []publish.Columns `mapstructure:"columns" doc:"Columns that never leave the source's database as they are, in changes and in snapshots."`
	Salt     config.Secret     `mapstructure:"salt" default:"" doc:"Secret under which a mask hash hashes; file:/path or env:NAME to keep it elsewhere. Another salt gives other hashes: then load the tables anew."`
	Snapshot Snapshot          `mapstructure:"snapshot" doc:"How the rows that are already there are read."`
	Publish  Publish           `mapstructure:"publish" doc:"How changes are written, and when a Kafka transaction ends."`
	Kafka    kafka.Config      `mapstructure:"kafka" doc:"The brokers."`
	Topics   publish.Topics    `mapstructure:"topics" doc:"How topics are made."`
	Registry config.Registry   `mapstructure:"registry" doc:"The schema registry."`
	Accept   []Accept          `mapstructure:"accept" doc:"Warnings that are meant so: they become notes, and check --strict passes."`
	HTTP     config.HTTP       `mapstructure:"http" doc:"Metrics, health and status."`
	Metrics  config.Metrics    `mapstructure:"metrics" doc:"What /metrics tells."`
	Log      config.Log        `mapstructure:"log" doc:"Logging."`
}

// Accept is a warning that is meant so.
type Accept struct {
	Code  trouble.Code `mapstructure:"code" required:"true" oneof:"table-without-identity,wal-budget,falling-behind,snapshot-rereads" doc:"Code of the warning. That the budget of wal-budget is used up cannot be accepted."`
	Table string       `mapstructure:"table" default:"*" doc:"Table that it is about, as schema.table with * and ? as wildcards; a warning that is not about a table needs none."`
}

// accepted gives the warnings that are meant so.
func (c *Config) accepted() []service.Accept {
	var all []service.Accept
	for _, a := range c.Accept {
		all = append(all, service.Accept{Code: a.Code, Subject: a.Table})
	}
	return all
}

// Source says which database, and what of it.
type Source struct {
	Name      string        `mapstructure:"name" required:"true" doc:"Name of the source: first part of its topics, and its identity. Never change it."`
	DSN       config.Secret `mapstructure:"dsn" required:"true" doc:"Connection string, like postgres://capture@db1:5432/shop?sslmode=verify-full; file:/path or env:NAME to keep it elsewhere."`
	Tables    []string      `mapstructure:"tables" default:"*.*" doc:"Tables as schema.table, with * and ? as wildcards; ! in front leaves out; the last that fits decides."`
	Slot      string        `mapstructure:"slot" default:"" doc:"Name of the replication slot; empty: tributary_ and the source's name."`
	Failover  bool          `mapstructure:"failover" default:"true" doc:"On PostgreSQL 17 and later: let standbys that synchronise slots keep a copy of the slot, so that capture can go on after a failover."`
	Heartbeat time.Duration `mapstructure:"heartbeat" default:"10s" doc:"How often a small message is written into the source's WAL, so that an idle database gets on and latency is measured; in proportion more seldom where the server has more than 20 slots that are read, as each wakes all walsenders; 0s: never."`
	CatchUp   config.Bytes  `mapstructure:"catch_up" default:"64MiB" doc:"How much WAL a capture that begins, or whose walsender has fallen behind, must have before it to fetch it by SQL calls, which is faster, until it is near the end; 0: never, nor with publish.delivery: at-least-once. It needs one more slot meanwhile, better two: temporary copies of ours. A call holds a snapshot at the source for as long as it takes to publish what it and the one before it give (seconds; for a huge transaction as long as that one takes), and keeps it in a temporary file there: of at most 1 GiB, or temp_file_limit where that is less, if its role may set that (a superuser, or from PostgreSQL 15 GRANT SET ON PARAMETER temp_file_limit TO …), else of temp_file_limit. What needs more is streamed."`
	WALBudget config.Bytes  `mapstructure:"wal_budget" default:"50GiB" doc:"How much WAL the source may keep for us before it is an alarm."`
	OnError   string        `mapstructure:"on_error" default:"hold" oneof:"hold,stop" doc:"What a table that cannot go on does (a row that is too large, a schema that the registry refuses): hold: that table alone is held until it is loaded anew; stop: capture ends, and the source keeps its WAL."`
	Refresh   time.Duration `mapstructure:"refresh" default:"2s" doc:"How often the source's catalog is looked at for new tables and changed replica identities; more seldom where that would be more than a twentieth of a core's work for the source, as it has ten thousand tables or more."`
}

// Snapshot says how existing rows are read.
type Snapshot struct {
	Mode       string       `mapstructure:"mode" default:"initial" oneof:"initial,never" doc:"initial: rows that are there when a table is first captured are read; never: only changes from then on."`
	Workers    int          `mapstructure:"workers" default:"4" doc:"Connections that read chunks at the same time."`
	ChunkRows  int          `mapstructure:"chunk_rows" default:"50000" doc:"Rows of one chunk."`
	ChunkBytes config.Bytes `mapstructure:"chunk_bytes" default:"4MiB" doc:"Memory of one chunk; it ends early when it is reached."`
	Conditions bool         `mapstructure:"conditions" default:"false" doc:"Whether a request in the WAL may limit a read by a condition in SQL. It runs with the rights of the capture's role, and whoever may connect to the database can write such a request."`
}

// Publish says how changes are written, and when a Kafka transaction ends.
type Publish struct {
	Delivery string        `mapstructure:"delivery" default:"exactly-once" oneof:"exactly-once,at-least-once" doc:"exactly-once: changes and progress are written together, in Kafka transactions; at-least-once: readers see a change as soon as the brokers have it, some milliseconds earlier, and after a failure a topic may hold one twice. A sink drops what comes twice."`
	Linger   time.Duration `mapstructure:"linger" default:"100ms" doc:"Longest time that a Kafka transaction stays open under load; when the source pauses it ends at once. With at-least-once: how often progress is written, changes do not wait for it."`
	Bytes    config.Bytes  `mapstructure:"bytes" default:"8MiB" doc:"Size at which a Kafka transaction ends, if need be in the middle of a transaction of the source."`

	TransactionTimeout time.Duration `mapstructure:"transaction_timeout" default:"1m" doc:"How long the brokers keep a Kafka transaction open when capture says nothing; the brokers' transaction.max.timeout.ms bounds it."`
}

// onErrorHold is the value of Source.OnError by which a table is held alone.
const onErrorHold = "hold"

// direct says whether changes are written without a transaction.
func (p Publish) direct() bool { return p.Delivery == "at-least-once" }

// Check finds what no tag can say.
func (c Config) Check() []config.Fault {
	var faults []config.Fault
	if c.Publish.direct() && c.Topics.Compacts() {
		faults = append(faults, config.Fault{Path: "publish.delivery", Value: c.Publish.Delivery, Message: "does not go with keep: latest: compaction would keep a repeat in place of what came after it; write exactly-once, or keep: all"})
	}
	for i, columns := range c.Columns {
		if _, err := catalog.ParsePatterns([]string{columns.Table}); err != nil || strings.HasPrefix(columns.Table, "!") {
			faults = append(faults, config.Fault{Path: fmt.Sprintf("columns[%d].table", i), Value: columns.Table, Message: "not schema.table; write public.customer, or public.* with wildcards"})
		}
		if columns.Hashes() && c.Salt == "" {
			faults = append(faults, config.Fault{Path: fmt.Sprintf("columns[%d].mask", i), Message: "hash needs a salt; write salt: env:NAME beside columns"})
		}
	}
	return faults
}

// idleColumns gives the tables that columns names, and that are none of these.
func (c Config) idleColumns(tables []*catalog.Table) []string {
	var names []string
	for _, columns := range c.Columns {
		if columns.Named() && !slices.Contains(names, columns.Table) {
			names = append(names, columns.Table)
		}
	}
	if len(names) == 0 {
		return nil
	}
	patterns, err := catalog.ParsePatterns(names)
	if err != nil {
		return nil // which the configuration's check tells
	}
	return patterns.Idle(tables)
}

// covers gives what publishing needs of columns, and the salt.
func (c Config) covers() (covers []publish.Cover, salt []byte, err error) {
	for _, columns := range c.Columns {
		patterns, err := catalog.ParsePatterns([]string{columns.Table})
		if err != nil {
			return nil, nil, err
		}
		covers = append(covers, publish.Cover{Columns: columns, Match: patterns.Match})
	}
	text, err := c.Salt.Reveal()
	if err != nil {
		return nil, nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: "salt", Cause: err, Means: "nothing was attempted"}
	}
	return covers, []byte(text), nil
}

// Check finds what no tag can say.
func (s Source) Check() []config.Fault {
	var faults []config.Fault
	if _, err := catalog.ParsePatterns(s.Tables); err != nil {
		faults = append(faults, config.Fault{Path: "tables", Message: err.Error()})
	}
	if s.Slot != "" && !validSlot(s.Slot) {
		faults = append(faults, config.Fault{Path: "slot", Value: s.Slot, Message: "not a slot name; use lower-case letters, digits and underscores, at most 63"})
	}
	if s.Refresh < 100*time.Millisecond {
		faults = append(faults, config.Fault{Path: "refresh", Message: "must be at least 100ms"})
	}
	if s.Heartbeat != 0 && s.Heartbeat < 100*time.Millisecond { // each is a transaction at the source
		faults = append(faults, config.Fault{Path: "heartbeat", Message: "must be at least 100ms, or 0 for none"})
	}
	return faults
}

// Check finds numbers that cannot be.
func (s Snapshot) Check() []config.Fault {
	var faults []config.Fault
	for _, one := range []struct {
		path  string
		value int64
		least int64
		most  int64
	}{
		{"workers", int64(s.Workers), 1, 64},
		{"chunk_rows", int64(s.ChunkRows), 1, 10_000_000},
		{"chunk_bytes", int64(s.ChunkBytes), 64 << 10, 1 << 30},
	} {
		if one.value < one.least || one.value > one.most {
			faults = append(faults, config.Fault{Path: one.path, Message: fmt.Sprintf("must be from %d to %d", one.least, one.most)})
		}
	}
	return faults
}

// Check finds numbers that cannot be.
func (p Publish) Check() []config.Fault {
	var faults []config.Fault
	if p.Linger < time.Millisecond || p.Linger > 10*time.Second {
		faults = append(faults, config.Fault{Path: "linger", Message: "must be from 1ms to 10s"})
	}
	if p.Bytes < 64<<10 || p.Bytes > 1<<30 {
		faults = append(faults, config.Fault{Path: "bytes", Message: "must be from 64KiB to 1GiB"})
	}
	if p.TransactionTimeout < 2*longestOpen || p.TransactionTimeout > time.Hour {
		faults = append(faults, config.Fault{Path: "transaction_timeout", Message: fmt.Sprintf("must be from %s to 1h", 2*longestOpen)})
	}
	return faults
}
