package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/grafana"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

// collectors gives those of both services, made of configurations that name nothing there is: making them connects nowhere.
func collectors() (of map[string][]prometheus.Collector, err error) {
	var from capture.Config
	var into sink.Config
	const common = "kafka: {brokers: [\"127.0.0.1:1\"]}\nregistry: {url: \"http://127.0.0.1:1\"}\n"
	if err := config.Decode("capture.yaml", []byte(common+"source: {name: shop, dsn: \"postgres://127.0.0.1:1\"}\n"), &from); err != nil {
		return nil, err
	}
	if err := config.Decode("sink.yaml", []byte(common+"warehouse: {dsn: \"postgres://127.0.0.1:1\"}\ntables: [{from: public.t}]\n"), &into); err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	c, err := capture.New(from, capture.Options{}, log)
	if err != nil {
		return nil, err
	}
	s, err := sink.New(into, log)
	if err != nil {
		return nil, err
	}
	return map[string][]prometheus.Collector{"capture": c.Collectors(), "sink": s.Collectors()}, nil
}

// metric is what is told of one.
type metric struct {
	name, kind, help string
	labels           []string
}

// description is what a prometheus.Desc says of itself, which it does in no other way.
var description = regexp.MustCompile(`fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", (?:unit: "[^"]*", )?constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

func describe(list []prometheus.Collector) ([]metric, error) {
	var out []metric
	for _, c := range list {
		descs := make(chan *prometheus.Desc, 100)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := description.FindStringSubmatch(d.String())
			if m == nil {
				return nil, fmt.Errorf("not understood: %s", d)
			}
			one := metric{name: m[1], kind: "gauge", help: m[2]}
			switch c.(type) {
			case *prometheus.HistogramVec, *service.Latency:
				one.kind = "histogram"
			default:
				if strings.HasSuffix(one.name, "_total") {
					one.kind = "counter"
				}
			}
			for label := range strings.SplitSeq(m[3], ",") {
				if name, _, ok := strings.Cut(label, "="); ok {
					one.labels = append(one.labels, name)
				}
			}
			if m[4] != "" {
				one.labels = append(one.labels, strings.Split(m[4], ",")...)
			}
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

func metricsPage() (string, error) {
	all, err := collectors()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(`# Metrics

Each service answers at ` + "`/metrics`" + `, on the address that ` + "`http.listen`" + ` says. What is counted, and in which state a service is, has
every series from the start, at 0: an empty graph is not the same as no error. What nobody knows has none, and not 0: how far behind a capture is before it has looked, what is kept for a slot that
is gone. Series of a table begin when it is known. Units are seconds, bytes and shares from 0 to 1. Histograms are
classic and native. No key, value, LSN, offset, SQL or text of an error is ever a label.

A sink tells of its own partitions. What is read from the warehouse, and is the same for all sinks of a group, tells the one that applies the
progress of the source: ` + "`tables`, `table_quarantined`, `table_paused`, `parked_rows`, `complete_timestamp_seconds`, `complete_lag_seconds`" + `,
` + "`retention_cutoff_timestamp_seconds`" + `; and of the group, ` + "`group_members`" + `. So nothing is counted twice; queries use ` + "`max by`" + ` all the same, for the moment of a rebalance.

With ` + "`metrics: {per_table: false}`" + ` the tables of a source are told together, as ` + "`table=\"\"`" + `: the sum of counts, the worst of everything else.

Where ` + "`op`" + ` is empty the record was not decoded. Codes of errors are those of the [runbooks](../runbooks/), states those of the pages.
Both services also tell ` + "`tributary_build_info`, `go_*` and `process_*`" + `. Dashboards and [alerts](alerts.md) are in
[deploy/grafana](../../deploy/grafana/); the dashboards need to know how often Prometheus asks: the data source's *scrape interval*, 15 s where it says nothing. What single transactions and flushes are made of tell [traces](traces.md).

Left out on purpose: the Kafka client's own metrics, by broker and connection, of clients that come and go with each session (what they cost
is in ` + "`waiting_since_timestamp_seconds`" + `, ` + "`stage_busy_seconds_total`" + ` and the traces); and the oldest row of each target, a query over it: ` + "`retention_cutoff_timestamp_seconds`" + `
says what it would.
`)
	for _, name := range []string{"capture", "sink"} {
		metrics, err := describe(all[name])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n## %s\n\n| metric | kind | labels | what |\n|---|---|---|---|\n", name)
		for _, m := range metrics {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), m.help)
		}
	}
	b.WriteString("\nThis page is written by `make docs`.\n")
	return b.String(), nil
}

func alertsPage() (string, error) {
	alerts, err := grafana.Alerts()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(`# Alerts

The rules of [alerts.yaml](../../deploy/grafana/alerts.yaml), for Prometheus: critical wakes somebody, warning is for working hours, info is for
nobody in particular. Each has a test in [deploy/grafana](../../deploy/grafana/), for ` + "`promtool test rules`" + `, and a runbook of its name, which ` + "`capture explain NAME` and `sink explain NAME`" + `
print, too.

What one alert implies need not be told by another; in Alertmanager, as ` + "`inhibit_rules`" + `:

| while | do not tell | of the same |
|---|---|---|
| TributaryCaptureNotRunning, TributaryCaptureStopped, TributarySlotLost | TributaryCaptureBehind, TributaryWarehouseIncomplete | source |
| TributarySinkNotRunning, TributaryWarehouseUnavailable | TributaryTableNotFresh, TributaryTableFarBehind | group |

An autoscaler of sinks takes the sum of ` + "`tributary_sink_lag_records`" + ` in its namespace ([install](../operations/install.md#kubernetes)); more sinks than partitions have nothing to do.

| alert and its runbook | severity | fires when this holds | for |
|---|---|---|---|
`)
	for i := range alerts {
		a := &alerts[i]
		expr := strings.NewReplacer("|", "\\|", "\n", " ").Replace(a.Expr)
		fmt.Fprintf(&b, "| [%s](../%s) | %s | `%s` | %s |\n", a.Name, a.Runbook(), a.Severity(), expr, cmp.Or(a.For, "0"))
	}
	b.WriteString("\nThis page is written by `make docs`.\n")
	return b.String(), nil
}
