package docker

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tributary-cdc/tributary/deploy/grafana"
	"github.com/tributary-cdc/tributary/deploy/local"
)

// exported is what services tell: by metric and label, the values.
type exported map[string]map[string]map[string]bool

// scrape adds what a pipeline tells now.
func (e exported) scrape(t *testing.T, p *local.Pipeline) {
	t.Helper()
	response, err := http.Get("http://" + p.Sink.Addr() + "/metrics")
	must(t, err)
	defer response.Body.Close() //nolint:errcheck // it was only read
	text := expfmt.NewTextParser(model.UTF8Validation)
	families, err := text.TextToMetricFamilies(response.Body)
	must(t, err)
	e.add(slices.Collect(maps.Values(families)))
	for _, c := range p.Captures {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(c.Collectors()...)
		families, err := registry.Gather()
		must(t, err)
		e.add(families)
	}
}

func (e exported) add(families []*dto.MetricFamily) {
	for _, f := range families {
		names := []string{f.GetName()}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{f.GetName() + "_bucket", f.GetName() + "_sum", f.GetName() + "_count"}
		}
		for _, name := range names {
			if e[name] == nil {
				e[name] = map[string]map[string]bool{"instance": {}, "job": {}} // Prometheus adds these
			}
			if strings.HasSuffix(name, "_bucket") {
				e[name]["le"] = map[string]bool{}
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if e[name][l.GetName()] == nil {
						e[name][l.GetName()] = map[string]bool{}
					}
					e[name][l.GetName()][l.GetValue()] = true
				}
			}
		}
	}
}

// faults gives what in an expression is of nothing that is told. That it is PromQL in each detail says promtool, see
// TestPromtool; this parser is small and takes a little more.
func (e exported) faults(promql string) (faults []string) {
	expr, err := metricsql.Parse(promql)
	if err != nil {
		return []string{err.Error()}
	}
	metricsql.VisitAll(expr, func(n metricsql.Expr) {
		switch n := n.(type) {
		case *metricsql.MetricExpr:
			faults = append(faults, e.selector(n)...)
		case *metricsql.AggrFuncExpr:
			for _, arg := range n.Args {
				faults = append(faults, e.have(arg, n.Modifier.Args)...)
			}
		case *metricsql.BinaryOpExpr:
			faults = append(faults, e.have(n.Left, n.GroupModifier.Args)...)
			faults = append(faults, e.have(n.Right, n.GroupModifier.Args)...)
			faults = append(faults, e.have(n.Right, n.JoinModifier.Args)...)
		}
	})
	return faults
}

// have says which of names a metric has not that is in what n gives: one behind "and" or "unless" is not, and what is joined from the
// other side the many need not have.
func (e exported) have(n metricsql.Expr, names []string) (faults []string) {
	asked, joined := map[metricsql.Expr]bool{}, map[metricsql.Expr][]string{}
	metricsql.VisitAll(n, func(n metricsql.Expr) {
		if b, ok := n.(*metricsql.BinaryOpExpr); ok && b.JoinModifier.Op == "group_left" {
			metricsql.VisitAll(b.Left, func(n metricsql.Expr) { joined[n] = append(joined[n], b.JoinModifier.Args...) })
		}
		if b, ok := n.(*metricsql.BinaryOpExpr); ok && (b.Op == "and" || b.Op == "unless") {
			metricsql.VisitAll(b.Right, func(n metricsql.Expr) { asked[n] = true })
		}
	})
	metricsql.VisitAll(n, func(n metricsql.Expr) {
		if m, ok := n.(*metricsql.MetricExpr); ok && !asked[n] {
			for _, name := range names {
				if metric := metricOf(m); e[metric] != nil && e[metric][name] == nil && !slices.Contains(joined[n], name) {
					faults = append(faults, fmt.Sprintf("%s has no label %s", metric, name))
				}
			}
		}
	})
	return faults
}

func metricOf(m *metricsql.MetricExpr) string {
	if len(m.LabelFilterss) != 1 || len(m.LabelFilterss[0]) == 0 || m.LabelFilterss[0][0].Label != "__name__" {
		return ""
	}
	return m.LabelFilterss[0][0].Value
}

func (e exported) selector(m *metricsql.MetricExpr) (faults []string) {
	metric := metricOf(m)
	known := e[metric]
	if known == nil {
		return []string{metric + " is told by nobody"}
	}
	for _, f := range m.LabelFilterss[0][1:] {
		switch {
		case known[f.Label] == nil:
			faults = append(faults, fmt.Sprintf("%s has no label %s", metric, f.Label))
		case strings.Contains(f.Value, "$"): // a variable of the dashboard
		default:
			for value := range strings.SplitSeq(f.Value, "|") {
				if !known[f.Label][value] {
					faults = append(faults, fmt.Sprintf("%s is never told with %s=%q", metric, f.Label, value))
				}
			}
		}
	}
	return faults
}

// checkMonitoring holds dashboards and alerts against what the services of a pipeline tell.
func checkMonitoring(t *testing.T, p *local.Pipeline) {
	t.Helper()
	told := exported{}
	told.scrape(t, p)
	expressions, err := grafana.Expressions()
	must(t, err)
	if len(expressions) < 100 {
		t.Fatalf("%d expressions: they are not found any more", len(expressions))
	}
	for _, x := range expressions {
		for _, fault := range told.faults(x.PromQL) {
			t.Errorf("%s: %s", x.Where, fault)
		}
	}
	for promql, want := range map[string]string{ // that faults are found
		`sum(rate(tributary_capture_changes_total[5m])`:                                                 "unexpected token",
		`tributary_capture_change_total`:                                                                "tributary_capture_change_total is told by nobody",
		`sum by (topic) (tributary_sink_lag_seconds)`:                                                   "tributary_sink_lag_seconds has no label topic",
		`tributary_capture_state{state="stoped"} == 1`:                                                  `tributary_capture_state is never told with state="stoped"`,
		`tributary_sink_lag_seconds * on (code) go_threads`:                                             "tributary_sink_lag_seconds has no label code",
		`tributary_sink_lag_seconds{partition=~"$anything"}`:                                            "tributary_sink_lag_seconds has no label partition",
		`min by (table, state) (tributary_sink_lag_seconds unless on (source) tributary_capture_state)`: "tributary_sink_lag_seconds has no label state",
	} {
		if got := strings.Join(told.faults(promql), "; "); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", promql, got, want)
		}
	}
}
