package kafka

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Retries hears what brokers answer to records that a producer sends again and again, for ever. The client tells that to nobody but its
// log, at the level at which it tells everything of each request: so it is listened to only while somebody asks. Safe for use by many
// goroutines.
type Retries struct {
	logger
	ask     string // the broker whom a hint has people ask
	listens atomic.Bool

	mu      sync.Mutex
	brokers map[int32]string // addresses
	heard   *trouble.Error
}

// Retries prepares to hear; what the client warns of goes to log.
func (c Config) Retries(log *slog.Logger) *Retries {
	return &Retries{logger: logger{log}, ask: c.Brokers[0], brokers: map[int32]string{}}
}

// Options are those by which a client is heard, to be given behind those of Config.
func (r *Retries) Options() []kgo.Opt { return []kgo.Opt{kgo.WithLogger(r), kgo.WithHooks(r)} }

// Why gives what was heard since Why was called first, nil for nothing: trouble.KafkaNotEnoughReplicas. It is to be asked again and again while
// brokers do not take what is sent, and Hush called when they do.
func (r *Retries) Why() *trouble.Error {
	r.listens.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard
}

// Hush forgets what was heard, and listens no more.
func (r *Retries) Hush() {
	r.listens.Store(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = nil
}

// Level is kgo.Logger.
func (r *Retries) Level() kgo.LogLevel {
	if r.listens.Load() {
		return kgo.LogLevelDebug
	}
	return r.logger.Level()
}

// Log is kgo.Logger.
func (r *Retries) Log(level kgo.LogLevel, message string, keyvals ...any) {
	if level <= r.logger.Level() {
		r.logger.Log(level, message, keyvals...)
		return
	}
	if message != "produced" || !r.listens.Load() {
		return
	}
	var broker, to string
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch keyvals[i] {
		case "broker":
			broker = fmt.Sprint(keyvals[i+1])
		case "to":
			to = fmt.Sprint(keyvals[i+1])
		}
	}
	if m := tooFewReplicas.FindStringSubmatch(to); m != nil {
		r.hear(broker, m[1], m[2], m[3])
	}
}

// tooFewReplicas is what the client's log says of a batch that it is going to send again: topic, partition, the broker's word.
var tooFewReplicas = regexp.MustCompile(`([\w.-]+)\[(?:[^\[\]]*, )?(\d+)\{retrying@-?\d+,\d+\((NOT_ENOUGH_REPLICAS(?:_AFTER_APPEND)?):`)

func (r *Retries) hear(broker, topic, partition, word string) {
	err := kerr.NotEnoughReplicas
	if word == kerr.NotEnoughReplicasAfterAppend.Message {
		err = kerr.NotEnoughReplicasAfterAppend
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if number, notOne := strconv.ParseInt(broker, 10, 32); notOne == nil && r.brokers[int32(number)] != "" {
		broker = r.brokers[int32(number)]
	}
	r.heard = Trouble("publish to", fmt.Sprintf("topic %q partition %s", topic, partition), fmt.Errorf("broker %s: %w", broker, err))
	r.heard.Hint += "\nkafka-topics.sh --bootstrap-server " + r.ask + " --describe --under-min-isr-partitions"
}

// OnBrokerConnect is kgo.HookBrokerConnect.
func (r *Retries) OnBrokerConnect(broker kgo.BrokerMetadata, _ time.Duration, _ net.Conn, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.brokers[broker.NodeID] = net.JoinHostPort(broker.Host, strconv.Itoa(int(broker.Port)))
}
