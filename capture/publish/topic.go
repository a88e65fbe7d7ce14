package publish

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Topics is how topics are made.
type Topics struct {
	Partitions      int             `mapstructure:"partitions" default:"1" doc:"partitions of a new topic; more only for tables that one sink cannot keep up with"`
	Replication     int             `mapstructure:"replication" default:"-1" doc:"replicas of a new topic; -1 takes the broker's default"`
	Keep            string          `mapstructure:"keep" default:"all" doc:"all: nothing is deleted by time, so that a warehouse can be rebuilt; latest: compaction keeps the newest record of each key, and for a week the others"`
	MaxMessageBytes config.Bytes    `mapstructure:"max_message_bytes" default:"8MiB" doc:"greatest record, as max.message.bytes of the topic; above 100MiB the brokers' socket.request.max.bytes must be raised as well"`
	Overrides       []TopicOverride `mapstructure:"overrides" doc:"other settings for some tables; the first that fits is taken"`
}

// TopicOverride changes settings for the tables that it names.
type TopicOverride struct {
	Table      string `mapstructure:"table" required:"true" doc:"schema.table, with * and ? as wildcards"`
	Partitions int    `mapstructure:"partitions" default:"0" doc:"partitions; 0 for the common setting"`
	Keep       string `mapstructure:"keep" default:"" doc:"all or latest; empty for the common setting"`
}

// Check finds what is wrong with the settings.
func (t Topics) Check() []config.Fault {
	var faults []config.Fault
	fault := func(key, message string) {
		faults = append(faults, config.Fault{Path: key, Message: message})
	}
	if t.Partitions < 1 {
		fault("partitions", "must be at least 1")
	}
	if t.Replication == 0 || t.Replication < -1 {
		fault("replication", "must be at least 1, or -1 for the broker's default")
	}
	if t.Keep != keepAll && t.Keep != keepLatest {
		fault("keep", "must be all or latest")
	}
	if t.MaxMessageBytes < 1<<10 || t.MaxMessageBytes > largestMessage {
		fault("max_message_bytes", "must be from 1KiB to 1000MiB")
	}
	for i, o := range t.Overrides {
		if o.Table != "" && !strings.ContainsAny(o.Table, ".*?") {
			fault(fmt.Sprintf("overrides[%d].table", i), "fits no table; write schema.table")
		}
		if o.Keep != "" && o.Keep != keepAll && o.Keep != keepLatest {
			fault(fmt.Sprintf("overrides[%d].keep", i), "must be all or latest")
		}
		if o.Partitions < 0 {
			fault(fmt.Sprintf("overrides[%d].partitions", i), "must not be negative")
		}
	}
	return faults
}

// Compacts says whether any topic keeps only the newest record of each key.
func (t Topics) Compacts() bool {
	return t.Keep == keepLatest || slices.ContainsFunc(t.Overrides, func(o TopicOverride) bool { return o.Keep == keepLatest })
}

// largestMessage is within what the client can send at once.
const largestMessage = 1000 << 20

const (
	keepAll    = "all"
	keepLatest = "latest"
)

// topic is one topic that we write.
type topic struct {
	name      string
	compacted bool
	maxBytes  int
	floors    []change.Position // of each partition: the newest event that it holds
	next      []int64           // of each partition: the offset behind our newest record, -1 for none, 0 where what there was is gone
	torn      []int64           // of each partition: the offset behind what a torn commit has left there, 0 for nothing
	touched   bool              // since the last progress record
	direct    bool              // something was sent to it without a transaction
	away      bool              // no broker listed it when they were asked last
	sent      []int64           // of each partition: how many records the Kafka transaction has there
	ends      []int64           // of each partition: the offset at which the next record of ours will be, 0 where that is not known
}

// Of gives how the topic of a table is made.
func (t Topics) Of(source string, rel *schema.Relation) (kafka.Topic, error) {
	name, err := record.Topic(source, rel.Schema, rel.Name)
	return t.made(name, rel), err
}

func (t Topics) made(name string, rel *schema.Relation) kafka.Topic {
	partitions, keep := t.Partitions, t.Keep
	for _, o := range t.Overrides {
		if config.Fits(o.Table, rel.QualifiedName()) {
			if o.Partitions > 0 {
				partitions = o.Partitions
			}
			if o.Keep != "" {
				keep = o.Keep
			}
			break
		}
	}
	if !rel.ByteEqualKey() {
		partitions = 1
	}
	settings := map[string]string{"max.message.bytes": strconv.Itoa(int(t.MaxMessageBytes))}
	if keep == keepLatest {
		settings["cleanup.policy"], settings["min.compaction.lag.ms"], settings["delete.retention.ms"] = "compact", compactedAfter, compactedAfter
	} else {
		settings["cleanup.policy"], settings["retention.ms"], settings["retention.bytes"] = "delete", "-1", "-1"
	}
	return kafka.Topic{Name: name, Partitions: int32(partitions), Replication: int16(t.Replication), Configs: settings}
}

// topic makes sure that the topic exists, with the partitions that it had.
func (p *Publisher) topic(ctx context.Context, name string, rel *schema.Relation) (*topic, error) {
	made, top := p.topics.made(name, rel), p.known[name]
	// Made anew here, it would be shorter than what the progress says: the next start finds out who has deleted it, and has its rows read again.
	p.mu.Lock()
	made.Written = top != nil && !top.away && slices.ContainsFunc(top.next, func(next int64) bool { return next > 0 })
	p.mu.Unlock()
	got, _, err := kafka.EnsureTopic(ctx, p.client, made)
	if err != nil {
		return nil, topicTrouble(err)
	}
	if top == nil {
		top = newTopic(name, int(got))
		p.mu.Lock()
		p.known[name] = top
		p.mu.Unlock()
	}
	if len(top.floors) != int(got) {
		return nil, &OneTable{&trouble.Error{
			Code: trouble.TopicPartitionsChanged, Op: "publish to", Subject: fmt.Sprintf("topic %q", name),
			Cause: fmt.Errorf("it had %d partitions and has %d", len(top.floors), got),
			Means: "rows would move between partitions and could overtake each other: nothing was written since",
			Hint:  "see the runbook: a new topic, or a rebuild",
		}}
	}
	if err := p.comeBack(ctx, top); err != nil {
		return nil, err
	}
	top.compacted, top.maxBytes = made.Configs["cleanup.policy"] == "compact", int(p.topics.MaxMessageBytes)
	return top, nil
}

// comeBack takes up a topic that no broker listed: it has been made anew just now, and is empty, or it was there all the time. What stands in it
// then has to be looked at before anything is written behind it.
func (p *Publisher) comeBack(ctx context.Context, top *topic) error {
	if !top.away {
		return nil
	}
	highs, err := p.highs(ctx, top.name)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(highs[top.name], func(high int64) bool { return high > 0 }) {
		return &trouble.Error{
			Code: trouble.KafkaProduce, Op: "publish to", Subject: fmt.Sprintf("topic %q", top.name),
			Cause: fmt.Errorf("no broker listed it, and it holds something: %w", kerr.ConcurrentTransactions), // with the word of a broker that has us look again
			Means: "nothing was written since", Hint: "it is looked at again",
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	top.away = false
	top.lose()
	return nil
}

// lose notes that nothing is left of what the topic held.
func (t *topic) lose() {
	for i := range t.next {
		if t.ends[i] = 0; t.next[i] > 0 {
			t.next[i], t.touched = 0, true
		}
	}
}

// compactedAfter is from which age on, in milliseconds, what has a newer record of its key is removed from a topic that keeps the newest, and how
// long a tombstone stays after that. A sink that is further behind misses deletes, and values that later updates do not carry.
const compactedAfter = "604800000"

func newTopic(name string, partitions int) *topic {
	t := &topic{
		name: name, floors: make([]change.Position, partitions), next: make([]int64, partitions), torn: make([]int64, partitions),
		sent: make([]int64, partitions), ends: make([]int64, partitions),
	}
	for i := range t.next {
		t.next[i] = -1
	}
	return t
}

// mend takes what a torn commit has left into next, where reached is past it: from then on it belongs to what is
// published.
func (t *topic) mend(reached change.Position) {
	for i, behind := range t.torn {
		if behind > 0 && t.floors[i].Compare(reached) <= 0 {
			t.next[i], t.torn[i], t.touched = max(t.next[i], behind), 0, true
		}
	}
}

// ensureProgressTopic makes the source's progress topic.
func (p *Publisher) ensureProgressTopic(ctx context.Context) error {
	_, _, err := kafka.EnsureTopic(ctx, p.client, kafka.Topic{
		Name: record.ProgressTopic(p.source), Partitions: 1, Replication: int16(p.topics.Replication),
		Configs: map[string]string{
			"cleanup.policy": "compact", "min.compaction.lag.ms": "86400000",
			"max.message.bytes": strconv.Itoa(int(p.topics.MaxMessageBytes)),
		},
	})
	return err
}
