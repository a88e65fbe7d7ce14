package service

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var ofTest = prometheus.NewDesc("m", "Of a test.", []string{"table"}, nil)

type gathered struct {
	put func(s *Samples, value float64, table string)
}

func (gathered) Describe(out chan<- *prometheus.Desc) { out <- ofTest }

func (g gathered) Collect(out chan<- prometheus.Metric) {
	var s Samples
	g.put(&s, Known(true, 1), "known")
	g.put(&s, Known(true, 1), "first known")
	g.put(&s, Known(false, 0), "first known")
	g.put(&s, Known(false, 0), "then known")
	g.put(&s, Known(true, 1), "then known")
	s.Send(out)
}

// A gauge that is not known has no series, and what it would be a part of has none either; others of the metric have theirs.
func TestSamplesOfWhatIsNotKnown(t *testing.T) {
	for name, put := range map[string]func(s *Samples, value float64, table string){
		"added": func(s *Samples, value float64, table string) { s.Add(ofTest, prometheus.GaugeValue, value, table) },
		"most":  func(s *Samples, value float64, table string) { s.Most(ofTest, value, table) },
		"least": func(s *Samples, value float64, table string) { s.Least(ofTest, value, table) },
	} {
		want := "# HELP m Of a test.\n# TYPE m gauge\nm{table=\"known\"} 1\n"
		if err := testutil.CollectAndCompare(gathered{put}, strings.NewReader(want)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
