package sink_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(many(30, func(i int) event { return ins(r, i) })...)
	s := w.start(w.cfg)
	w.complete(shop)
	get := s.get
	w.eventually(200, func() any { code, _ := get("/readyz"); return code })
	w.eventually("tributary.sink.status/1 30 "+service.StateUpToDate, func() any { // counted behind the commit
		st := s.status()
		if len(st.Tables) != 1 {
			return st.Tables
		}
		return fmt.Sprint(st.Schema, " ", st.Tables[0].Applied, " ", st.Tables[0].State)
	})
	var st sink.Status
	if _, body := get("/status?table=shop/public.*&state=up_to_date"); json.Unmarshal([]byte(body), &st) != nil || len(st.Tables) != 1 || !strings.Contains(st.Tables[0].Plan, "the row of (id) is written") {
		t.Errorf("status of the table: %s", body)
	}
	if _, body := get("/status?table=shop/public.t&state=paused"); !strings.Contains(body, `"tables": []`) {
		t.Errorf("status of paused tables: %s", body)
	}
	if code, body := get("/table/shop/public.t"); code != 200 || !strings.Contains(body, "shop/public.t is up to date.") || !strings.Contains(body, "the row of (id) is written") || !strings.Contains(body, "a unique one on exactly the key") {
		t.Errorf("page of the table: %d, %s", code, body)
	}
	if code, body := get("/table/shop%2Fpublic.r"); code != 404 || !strings.Contains(body, `<a href="/table/shop%2Fpublic.t">shop/public.t</a>`) {
		t.Errorf("page of no table: %d, %s", code, body)
	}
	wants := []string{
		`tributary_sink_changes_total{group="warehouse",op="insert",outcome="applied",source="shop",table="public.t"} 30`,
		`tributary_sink_assigned_partitions{group="warehouse"} 2`,
		`tributary_sink_warehouse_up{group="warehouse"} 1`,
		`tributary_sink_lag_records{group="warehouse",source="shop",table="public.t"} 0`,
		`tributary_sink_commits_total{group="warehouse",result="fenced"} 0`,
		`tributary_sink_end_to_end_latency_seconds_count{group="warehouse",source="shop"} 1`,
		`tributary_sink_freshness_target_seconds{group="warehouse",source="shop",table="public.t"} 60`,
		`tributary_sink_tables{group="warehouse",source="shop",state="up_to_date"} 1`,
		`tributary_sink_table_quarantined{group="warehouse",source="shop",table="public.t"} 0`,
		`tributary_sink_parked_rows{code="",group="warehouse",source="shop",table="public.t"} 0`,
		`tributary_sink_group_members{group="warehouse"} 1`,
	}
	// Some are of the warehouse, which is asked now and then.
	w.eventually("", func() any {
		_, body := get("/metrics")
		for _, want := range wants {
			if !strings.Contains(body, want+"\n") {
				return "metrics lack " + want
			}
		}
		return ""
	})
	// What comes now, without values: these are not configured.
	changes, err := http.Get("http://" + s.Addr() + "/changes?table=shop/public.t") //nolint:bodyclose // further down
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		in := bufio.NewScanner(changes.Body)
		for in.Scan() && len(lines) < cap(lines) {
			lines <- in.Text()
		}
	}()
	next := 30
	w.eventually(true, func() any {
		shop.tx(ins(r, next))
		next++
		select {
		case line := <-lines:
			return strings.HasSuffix(line, "  insert  id  written")
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	changes.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}
