package nemesis

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
)

// Sample is what one process, or the world around it, took at one moment.
type Sample struct {
	At     float64            `json:"at"`   // seconds since the load began
	Of     string             `json:"of"`   // the service; pipeline for what is nobody's own
	Life   int                `json:"life"` // which process of the service, from 1
	Values map[string]float64 `json:"values"`
}

// soakLine is a line of the records: one of these.
type soakLine struct {
	Sample *Sample     `json:"sample,omitempty"`
	At     float64     `json:"at,omitempty"` // of the event, as in Sample
	Event  string      `json:"event,omitempty"`
	Report *SoakReport `json:"report,omitempty"`
}

// pipeline is what a sample is of that no process has by itself.
const pipeline = "pipeline"

// takeSamples looks at everything until ctx ends.
func (s *soak) takeSamples(ctx context.Context) {
	var source, warehouse *pgx.Conn
	defer func() {
		for _, conn := range []*pgx.Conn{source, warehouse} {
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(ctx))
			}
		}
	}()
	tick := time.NewTicker(s.plan.sample)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-s.events:
			s.record(soakLine{At: time.Since(s.begun).Seconds(), Event: event})
			continue
		case <-tick.C:
		}
		for name, one := range s.services {
			if sample := one.vitals(ctx); sample != nil {
				sample.At, sample.Of = time.Since(s.begun).Seconds(), name
				s.keep(sample)
			}
		}
		all := &Sample{At: time.Since(s.begun).Seconds(), Of: pipeline, Values: map[string]float64{}}
		_ = look(ctx, &source, s.source.DSN("postgres"), all.source)
		_ = look(ctx, &warehouse, s.warehouse.DSN("postgres"), all.warehouse)
		if lag, err := s.kafkaLag(ctx); err == nil {
			all.Values["Kafka lag"] = lag
		}
		s.keep(all)
	}
}

func (s *soak) keep(sample *Sample) {
	s.series = append(s.series, *sample)
	s.record(soakLine{Sample: sample})
}

func (s *soak) record(line soakLine) {
	if err := s.records.Encode(line); err != nil {
		s.find("the records cannot be written: %v", err)
	}
}

var listens = regexp.MustCompile(`\bhttp=([0-9.]+:[0-9]+)`)

// vitals asks the kernel, and the process itself, what it takes. nil while it does not run.
func (s *service) vitals(ctx context.Context) *Sample {
	s.mu.Lock()
	pid, life, begin := s.pid, s.lives, s.begin
	s.mu.Unlock()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if pid == 0 || err != nil {
		return nil
	}
	sample := &Sample{Life: life, Values: map[string]float64{}}
	for name, field := range map[string]string{"resident": "VmRSS:", "anonymous": "RssAnon:"} {
		_, rest, _ := bytes.Cut(status, []byte(field))
		var kib float64
		if _, err := fmt.Sscan(string(rest), &kib); err == nil {
			sample.Values[name] = kib * 1024
		}
	}
	if files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd")); err == nil {
		sample.Values["files"] = float64(len(files))
	}
	if at := s.address(begin); at != "" {
		// It may not answer yet, or not any more: then it is asked again next time.
		_ = readMetrics(ctx, "http://"+at+"/metrics", map[string]string{"go_goroutines": "goroutines", "go_gc_heap_live_bytes": "heap"}, sample.Values)
	}
	return sample
}

// address gives where the process listens, as its log says; begin is where that began. "" if it does not say so yet.
func (s *service) address(begin int64) string {
	log, err := os.Open(s.log)
	if err != nil {
		return ""
	}
	defer log.Close()
	head, err := io.ReadAll(io.NewSectionReader(log, begin, 64<<10))
	if found := listens.FindSubmatch(head); err == nil && found != nil {
		return string(found[1])
	}
	return ""
}

// readMetrics reads series without labels from a page of metrics: names says which, and under what name into values.
func readMetrics(ctx context.Context, url string, names map[string]string, values map[string]float64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if as := names[name]; as != "" {
			if values[as], err = strconv.ParseFloat(value, 64); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

func (s *Sample) source(ctx context.Context, conn *pgx.Conn) error {
	return s.query(ctx, conn, `SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::float8,
		(SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tributary%')::float8
		FROM pg_replication_slots WHERE slot_name = '`+slotName+`'`, "WAL kept", "source connections")
}

func (s *Sample) warehouse(ctx context.Context, conn *pgx.Conn) error {
	return s.query(ctx, conn, `SELECT
		(SELECT max(extract(epoch FROM clock_timestamp() - at)) FROM (SELECT max(applied_at) AS at FROM tributary.checkpoint GROUP BY grp) c)::float8,
		(SELECT max(extract(epoch FROM lag)) FROM tributary.progress)::float8,
		(SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%')::float8,
		((SELECT count(*) FROM tributary.milestone) + (SELECT count(*) FROM tributary.milestone_part) + (SELECT count(*) FROM tributary.fence)
		 + (SELECT count(*) FROM tributary.reload) + (SELECT count(*) FROM tributary.checkpoint))::float8`,
		"checkpoint age", "progress age", "warehouse connections", "own rows")
}

// query takes the numbers of one row, under the names given; what is null is left out.
func (s *Sample) query(ctx context.Context, conn *pgx.Conn, sql string, names ...string) error {
	values, into := make([]*float64, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	if err := conn.QueryRow(ctx, sql).Scan(into...); err != nil {
		return err
	}
	for i, v := range values {
		if v != nil {
			s.Values[names[i]] = *v
		}
	}
	return nil
}

// kafkaLag gives how many records wait in Kafka for the groups, as its own tools count them.
func (s *soak) kafkaLag(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var groups []string
	for _, t := range s.targets {
		groups = append(groups, t.group)
	}
	lags, err := kadm.NewClient(s.checker.reader.client).Lag(ctx, groups...)
	if err == nil {
		err = lags.Error()
	}
	if err != nil {
		return 0, err
	}
	total := int64(0)
	lags.Each(func(l kadm.DescribedGroupLag) { total += l.Lag.Total() })
	return float64(total), nil
}
