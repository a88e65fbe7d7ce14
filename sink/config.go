package sink

import (
	"fmt"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Config is the configuration of one sink, read by config.Load.
type Config struct {
	Group     string          `mapstructure:"group" default:"warehouse" doc:"Consumer group, and the name of this copy of the data in the warehouse. Sinks of one group share the work; another group reads everything anew."`
	Member    string          `mapstructure:"member" default:"" doc:"Name of this sink for static membership: after a restart under the same name it gets its partitions back at once. Two sinks must not share it."`
	Warehouse Warehouse       `mapstructure:"warehouse" doc:"The database that is written to."`
	Kafka     kafka.Config    `mapstructure:"kafka" doc:"Kafka."`
	Registry  config.Registry `mapstructure:"registry" doc:"The schema registry."`
	Batch     Batch           `mapstructure:"batch" doc:"Sizes of the transactions in the warehouse."`
	Sources   []rule.Source   `mapstructure:"sources" doc:"Sources whose topics are read, first match wins; all if there is none."`
	Tables    []rule.Table    `mapstructure:"tables" doc:"Rules, first match wins. A table that no rule matches is not written."`
	Retention Retention       `mapstructure:"retention" doc:"Removal of rows that are older than their rule's keep."`
	Salt      config.Secret   `mapstructure:"salt" default:"" doc:"Secret under which mask: hash hashes; file:/path or env:NAME to keep it elsewhere. Another salt gives other hashes: then load the tables anew."`
	Freshness time.Duration   `mapstructure:"freshness" default:"60s" doc:"How far behind a table may be and still count as up to date; a rule may say otherwise for its tables."`
	Refresh   time.Duration   `mapstructure:"refresh" default:"1s" doc:"How often to look for new topics."`
	Session   time.Duration   `mapstructure:"session" default:"10s" doc:"After this long without a sign of life a sink's partitions go to the others. Brokers set bounds (6s to 30min by default)."`
	Accept    []Accept        `mapstructure:"accept" doc:"Warnings that are meant so: they become notes, and check --strict passes."`
	HTTP      config.HTTP     `mapstructure:"http" default:"listen=127.0.0.1:9192" doc:"Metrics, health and status."`
	Metrics   config.Metrics  `mapstructure:"metrics" doc:"What /metrics tells."`
	Log       config.Log      `mapstructure:"log" doc:"Log lines."`
}

// Accept is a warning that is meant so.
type Accept struct {
	Code  trouble.Code `mapstructure:"code" required:"true" oneof:"parked,falling-behind,capture-silent,missing-index,retention-headroom" doc:"Code of the warning. A retention-headroom of a table that is paused or held cannot be accepted."`
	Table string       `mapstructure:"table" default:"*" doc:"Table that it is about, as source/schema.table with * and ? as wildcards; of capture-silent the source."`
}

// accepted gives the warnings that are meant so.
func (c *Config) accepted() []service.Accept {
	var all []service.Accept
	for _, a := range c.Accept {
		all = append(all, service.Accept{Code: a.Code, Subject: a.Table})
	}
	return all
}

// wants gives the tables that the rules are of, as SOURCE/schema.table where a rule is not of all sources.
func (c *Config) wants() []string {
	var all []string
	for i := range c.Tables {
		of := &c.Tables[i]
		switch {
		case of.Skip:
		case of.Source == "" || of.Source == "*":
			all = append(all, of.From)
		default:
			all = append(all, of.Source+"/"+of.From)
		}
	}
	return all
}

// Warehouse says where to write.
type Warehouse struct {
	DSN         config.Secret `mapstructure:"dsn" required:"true" doc:"Connection string of the warehouse; file:/path or env:NAME to keep it elsewhere."`
	Connections int           `mapstructure:"connections" default:"4" doc:"Connections that write at the same time; a target has one for each of its partitions, up to all of them. Two more are used for progress and supervision."`
}

// Batch bounds a transaction. At low load a change is written at once; under load batches grow up to these bounds.
type Batch struct {
	Rows   int           `mapstructure:"rows" default:"50000" doc:"Records in one transaction, at most."`
	Bytes  config.Bytes  `mapstructure:"bytes" default:"16MiB" doc:"Bytes of records in one transaction, at most; one record may be larger."`
	Age    time.Duration `mapstructure:"age" default:"0s" doc:"How long records may gather before they are written; 0s: not at all."`
	Memory config.Bytes  `mapstructure:"memory" default:"64MiB" doc:"Bytes of records that are held for all tables together; fetching pauses above it."`
}

// Retention bounds the removal of old rows. It is done over a connection of its own, by one sink of the group.
type Retention struct {
	Every time.Duration `mapstructure:"every" default:"10m" doc:"How often to look for rows that are too old."`
	Rate  int           `mapstructure:"rate" default:"5000" doc:"Rows removed in a second, at most."`
}

// Check wants both.
func (r Retention) Check() []config.Fault {
	var faults []config.Fault
	if r.Every <= 0 {
		faults = append(faults, config.Fault{Path: "every", Value: r.Every.String(), Message: "must be more than 0"})
	}
	if r.Rate < 1 {
		faults = append(faults, config.Fault{Path: "rate", Value: fmt.Sprint(r.Rate), Message: "must be at least 1"})
	}
	return faults
}

// Check gives what the tags cannot say.
func (c Config) Check() []config.Fault {
	var faults []config.Fault
	if len(c.Tables) == 0 {
		faults = append(faults, config.Fault{Path: "tables", Message: `there is no rule; write - {from: "public.*"}`})
	}
	if c.Group == "" {
		faults = append(faults, config.Fault{Path: "group", Message: "must not be empty"})
	}
	faults = append(faults, rule.CheckSIDs(c.Sources, c.Tables)...)
	for i, t := range c.Tables {
		if t.Hashes() && c.Salt == "" {
			faults = append(faults, config.Fault{Path: fmt.Sprintf("tables[%d].columns", i), Message: "mask: hash needs a salt; write salt: env:NAME beside tables"})
		}
	}
	for path, d := range map[string]time.Duration{"freshness": c.Freshness, "refresh": c.Refresh, "session": c.Session} {
		if d <= 0 {
			faults = append(faults, config.Fault{Path: path, Value: d.String(), Message: "must be more than 0"})
		}
	}
	return faults
}

// Check wants at least one connection.
func (w Warehouse) Check() []config.Fault {
	if w.Connections < 1 || w.Connections > 1000 {
		return []config.Fault{{Path: "connections", Value: fmt.Sprint(w.Connections), Message: "not between 1 and 1000"}}
	}
	return nil
}

// Check wants sizes that leave room.
func (b Batch) Check() []config.Fault {
	var faults []config.Fault
	if b.Rows < 1 {
		faults = append(faults, config.Fault{Path: "rows", Value: fmt.Sprint(b.Rows), Message: "must be at least 1"})
	}
	if b.Bytes < 1 {
		faults = append(faults, config.Fault{Path: "bytes", Value: b.Bytes.String(), Message: "must be at least 1"})
	}
	if b.Memory < 4<<20 {
		faults = append(faults, config.Fault{Path: "memory", Value: b.Memory.String(), Message: "must be at least 4MiB"})
	}
	if b.Age < 0 {
		faults = append(faults, config.Fault{Path: "age", Value: b.Age.String(), Message: "must not be negative"})
	}
	return faults
}

// Default gives a configuration with every default set, for callers that do not read a file. Brokers, registry,
// warehouse and tables are still to be set.
func Default() Config {
	return Config{
		Group: "warehouse", Warehouse: Warehouse{Connections: 4}, Kafka: kafka.Config{ClientID: "tributary"},
		Batch:     Batch{Rows: 50_000, Bytes: 16 << 20, Memory: 64 << 20},
		Retention: Retention{Every: 10 * time.Minute, Rate: 5000},
		Freshness: time.Minute, Refresh: time.Second, Session: 10 * time.Second,
		HTTP: config.HTTP{Listen: "127.0.0.1:9192", Show: "none"}, Metrics: config.Metrics{PerTable: true}, Log: config.Log{Format: "text", Level: "info"},
	}
}
