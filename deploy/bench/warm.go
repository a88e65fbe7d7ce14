package main

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// warmUp gives the broker something to do for a while: it has run for days where people use it, and one that has just started
// compiles its code while it answers, which takes a core and holds transactions up for tenths of a second.
func (w *world) warmUp(ctx context.Context) error {
	const (
		topic  = "warm-up"
		batch  = 20_000 // records of the large transactions
		record = 150    // bytes
	)
	lasts := time.Duration(float64(40*time.Second) * min(1, w.scale))
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Addrs()...), kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic), kgo.MetadataMinAge(100*time.Millisecond),
		kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, 2, 1, nil, topic); err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for reading.Err() == nil {
			client.PollFetches(reading)
		}
	}()
	defer func() { stop(); <-read }()
	until := time.Now().Add(lasts)
	for n := 0; err == nil && time.Now().Before(until); n++ {
		records := 1
		if n%200 == 0 {
			records = batch
		}
		if err = client.BeginTransaction(); err != nil {
			break
		}
		for range records {
			client.Produce(ctx, &kgo.Record{Value: make([]byte, record)}, nil)
		}
		err = errors.Join(client.Flush(ctx), client.EndTransaction(ctx, kgo.TryCommit))
	}
	return err
}
