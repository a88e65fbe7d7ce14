package main

import (
	"fmt"
	"io"
)

// peers are what Debezium 3.6 with Kafka Connect, Avro and its JDBC sink reached of the same limits with the same loads, at
// its best of two or three runs: 2 CPUs, PostgreSQL 15, Apache Kafka 4.3 with the same flags. It is not run here.
var peers = []struct {
	path    string  // row of ours
	against string  // row whose limit both are compared with
	limit   string  // what that is
	best    float64 // ratio of Debezium's
	goal    string  // how many times that ours is to be
}{
	{"stream: WAL to topic, by the walsender", "stream: WAL to topic, by the walsender", "pg_recvlogical", 37_283.0 / 91_545, "≥ 2.5"},
	{"snapshot: source to topic", "snapshot: end to end", "COPY out into COPY in", 54_320.0 / 354_476, "≥ 4"},
	{"snapshot: topic to warehouse", "snapshot: end to end", "COPY out into COPY in", 44_529.0 / 354_476, "≥ 5"},
	{"stream: topic to warehouse", "stream: topic to warehouse", "native apply", 32_884.0 / 96_992, "≥ 4"},
}

// peerCPU is what Kafka Connect took of CPU seconds for a million changes from WAL to warehouse, at its best.
const peerCPU = 96.0

// writePeers compares with them what was measured on Apache Kafka.
func (r *report) writePeers(b io.Writer) {
	find := func(path string) (figure, bool) {
		for _, row := range r.rows {
			if row.path == path {
				return row.median(brokerKafka)
			}
		}
		return figure{}, false
	}
	fmt.Fprint(b, "\nBeside Debezium 3.6 with its JDBC sink, by the ratios to the same limits:\n\n| path | limit | Debezium's ratio | ours | times | goal |\n|---|---|---|---|---|---|\n")
	for _, p := range peers {
		ours, ok := find(p.path)
		against, there := find(p.against)
		if ok && there {
			ratio := ours.rate / against.limit
			fmt.Fprintf(b, "| %s | %s | %.2f | %.2f | %.1f | %s |\n", p.path, p.limit, p.best, ratio, ratio/p.best, p.goal)
		}
	}
	capture, ok := find("stream: WAL to topic, by the walsender")
	sink, there := find("stream: topic to warehouse")
	if ok && there {
		ours := (capture.costs.capture.cpu.Seconds() + sink.costs.sink.cpu.Seconds()) * 1e6 / float64(capture.n)
		fmt.Fprintf(b, "| CPU seconds for a million changes, capture and sink beside Kafka Connect | | %.0f s | %.1f s | 1/%.0f | ≤ 1/6 |\n", peerCPU, ours, peerCPU/ours)
	}
}
