// Package kafkatest runs Kafka for tests: franz-go's kfake in this process ([Fake]), quick and with fault injection,
// and Apache Kafka itself where the machine has Java ([Real]). A suite that must hold on both runs under [Each].
//
// The package's own tests prove of both what the pipeline relies on (transactions, fencing, control records; see
// https://kafka.apache.org/documentation/#semantics and KIP-98).
package kafkatest

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
)

// Cluster is a broker under a test's control. Its addresses and data stay over Kill and Restart.
type Cluster interface {
	// Addrs gives host:port of each broker.
	Addrs() []string
	// Stop ends it in order. Stopping a stopped cluster is no error.
	Stop() error
	// Kill ends it as SIGKILL does.
	Kill() error
	// Restart starts it again, stopping it first if it runs, and returns when it takes requests.
	Restart(ctx context.Context) error
	// Pause stops it as SIGSTOP does: connections stay open and nothing answers.
	Pause() error
	// Resume undoes Pause.
	Resume() error
}

// Each runs test once on a fake ("kfake") and once on Apache Kafka ("kafka"), which is skipped where Real is; with
// TRIBUTARY_KAFKA=all also on an older one.
func Each(t *testing.T, test func(t *testing.T, c Cluster)) {
	t.Helper()
	t.Run("kfake", func(t *testing.T) { test(t, Fake(t)) })
	t.Run("kafka", func(t *testing.T) { test(t, Real(t)) })
	if wantsAll() {
		t.Run("kafka-"+olderVersion, func(t *testing.T) { test(t, Older(t)) })
	}
}

var names atomic.Int64

// Name gives a name for a topic, group or transactional id that no other test uses: the data of Real is shared.
func Name(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("test-%d-%d", os.Getpid(), names.Add(1))
}
