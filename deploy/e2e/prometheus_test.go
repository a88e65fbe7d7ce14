package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/deploy/grafana"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// emptyPanels have nothing to show in what TestPrometheus starts, and why.
var emptyPanels = map[string]string{
	"Tributary: sink: Until Kafka deletes what is not applied":               "topics keep everything",
	"Tributary: sink: Rows removed by retention":                             "no rule has keep",
	"Tributary: sink: Age up to which retention keeps rows, of its last run": "no rule has keep",
}

// TestPrometheus has a real Prometheus scrape a capture and a sink that work, and asks it for each panel of the dashboards and each
// alert. An expression that joins what does not fit together, or asks for what nobody tells, is right for every parser.
func TestPrometheus(t *testing.T) {
	path, err := osexec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian: apt-get install prometheus): dashboards and alerts are not looked at with it")
	}
	w := newLive(t)
	w.well("at the beginning")
	dir := t.TempDir()
	alerts, err := filepath.Abs("../grafana/alerts.yaml")
	must(t, err)
	file := filepath.Join(dir, "prometheus.yml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `
global: {scrape_interval: 2s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - {job_name: capture, static_configs: [{targets: [%q]}]}
  - {job_name: sink, static_configs: [{targets: [%q]}]}
`, alerts, strings.TrimPrefix(w.capture, "http://"), strings.TrimPrefix(w.sink, "http://")), 0o600))
	address, err := pgtest.FreeAddress()
	must(t, err)
	p := &prometheus{"http://" + address}
	cmd := osexec.Command(path, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	var log lines
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("prometheus said:\n%s", log.String())
		}
	})
	id := 1000
	boards, err := grafana.Dashboards()
	must(t, err)
	var empty []string
	asked := map[string]bool{}
	missing := func() bool { // what is not there yet needs changes, and another scrape
		id++
		exec(t, w.shop, fmt.Sprintf(`insert into item values (%d, 1); update item set price = price + 1 where id < 50; delete from item where id = %[1]d`, id))
		empty = nil
		for _, d := range boards {
			for _, panel := range d.Panels {
				shown := panel.Type == "row"
				for _, target := range panel.Targets {
					n, err := p.ask(target.Expr)
					if err != nil {
						t.Fatalf("%s: %s: %v\n%s", d.Title, panel.Title, err, target.Expr)
					}
					shown = shown || n > 0
				}
				name := d.Title + ": " + panel.Title
				asked[name] = true
				if !shown && emptyPanels[name] == "" {
					empty = append(empty, name)
				}
			}
		}
		return len(empty) > 0
	}
	eventually(t, "Prometheus answers", func() bool { _, err := p.ask("up"); return err == nil })
	for tries := 0; missing() && tries < 30; tries++ {
		now := float64(time.Now().UnixMilli()) / 1000
		eventually(t, "both are scraped", func() bool {
			n, err := p.ask(fmt.Sprintf("timestamp(up) > %f", now))
			must(t, err)
			return n == 2
		})
	}
	for _, name := range empty {
		t.Errorf("there is nothing in %s", name)
	}
	for name := range emptyPanels {
		if !asked[name] {
			t.Errorf("there is no %s any more", name)
		}
	}
	list, err := grafana.Alerts()
	must(t, err)
	for i := range list {
		eventually(t, list[i].Name+" has nothing to say, where all is well", func() bool { // a scrape that is late is none, and told
			n, err := p.ask(list[i].Expr)
			must(t, err)
			return n == 0
		})
	}
}

// prometheus is a running one.
type prometheus struct {
	address string
}

// ask evaluates an expression, with everything chosen in a dashboard, and gives how many series there are.
func (p *prometheus) ask(expr string) (series int, err error) {
	expr = strings.NewReplacer("$__rate_interval", "1m", "$__range", "1m", "$source", ".*", "$group", ".*", "$table", ".*").Replace(expr)
	response, err := http.Get(p.address + "/api/v1/query?query=" + url.QueryEscape(expr)) //nolint:noctx // it is near
	if err != nil {
		return 0, err
	}
	defer response.Body.Close() //nolint:errcheck // it is read
	var answer struct {
		Error string
		Data  struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Error != "" {
		return 0, errors.New(answer.Error)
	}
	return len(answer.Data.Result), nil
}
