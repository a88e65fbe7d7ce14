package sink

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
)

// newest knows which version of each table was the newest when its source was asked for first, and up to where. The source's
// progress tells, as it is written with the first record of a version. A registry does not: a table that goes back to a form that it
// had before (a column that is renamed, and renamed again) has its former schema there. It is safe for concurrent use.
//
// It is not looked up again but for a rule that does not fit. Behind what it knows a name of a rule means the column that has it
// there, as it does for a sink that runs while a table is altered. Who changes a rule because of that starts the sink anew.
type newest struct {
	kafka kafka.Config
	log   *slog.Logger

	mu      sync.Mutex
	sources map[string]*newestOf
}

// newestOf is what is known of one source.
type newestOf struct {
	mu      sync.Mutex
	read    time.Time
	schemas map[string]int  // ids of the schemas of values, by topic
	reached change.Position // up to which that is so
}

func newNewest(cfg kafka.Config, log *slog.Logger) *newest {
	return &newest{kafka: cfg, log: log, sources: map[string]*newestOf{}}
}

// freshly is how old what was read may be where it is to be read again: many tables may want it at once.
const freshly = time.Second

// of gives the id of the schema of a topic's newest version, 0 where that is not known, and up to which position it is the newest.
// With again it is read anew.
func (n *newest) of(ctx context.Context, topic string, again bool) (id int, reached change.Position, err error) {
	source := sourceOf(topic)
	n.mu.Lock()
	s := n.sources[source]
	if s == nil {
		s = &newestOf{}
		n.sources[source] = s
	}
	n.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read.IsZero() || again && time.Since(s.read) > freshly {
		if err := n.read(ctx, source, s); err != nil {
			return 0, change.Position{}, err
		}
		s.read = time.Now()
	}
	return s.schemas[topic], s.reached, nil
}

// schema gives the schema of a topic's newest version and its number: as the source's progress tells, else (of a
// source without one, a table that it does not have yet) as the registry does.
func (n *newest) schema(ctx context.Context, client *registry.Client, topic string) (id int, text string, err error) {
	if id, _, err = n.of(ctx, topic, false); err != nil {
		return 0, "", err
	}
	if id == 0 {
		id, err = client.Latest(ctx, topic+"-value")
	}
	if err == nil {
		text, err = client.Schema(ctx, id)
	}
	if err != nil {
		return 0, "", schemaTrouble(fmt.Sprintf("topic %q", topic), err)
	}
	return id, text, nil
}

// read reads the end of a source's progress topic.
func (n *newest) read(ctx context.Context, source string, s *newestOf) error {
	reader, err := consume.NewReader(n.kafka, 1<<20, n.log)
	if err != nil {
		return err
	}
	defer reader.Close()
	topic := record.ProgressTopic(source)
	// The newest full record is at most so many transactions back, each a record and a marker.
	last, all, err := reader.Last(ctx, topic, 2*record.FullEvery+2)
	if err != nil {
		return err
	}
	fold, err := foldProgress(ctx, reader, last)
	if err == nil && fold.Last == nil && last != all {
		fold, err = foldProgress(ctx, reader, all)
	}
	if err != nil || fold.Last == nil {
		return err
	}
	s.schemas, s.reached = map[string]int{}, fold.Last.Reached()
	for _, t := range fold.Tables {
		if topic, err := record.Topic(source, t.Schema, t.Table); err == nil { // else it has none
			s.schemas[topic] = t.SchemaID
		}
	}
	return nil
}

func foldProgress(ctx context.Context, reader *consume.Reader, g consume.Range) (fold record.ProgressFold, err error) {
	err = reader.Read(ctx, []consume.Range{g}, func(_ string, _ int32, records []*kgo.Record) (int, error) {
		for _, r := range records {
			if r.Attrs.IsControl() || r.Value == nil {
				continue
			}
			p, err := record.ParseProgress(r.Value)
			if err != nil {
				return 0, invalid(r, err)
			}
			fold.Add(p)
		}
		return len(records), nil
	})
	return fold, err
}
