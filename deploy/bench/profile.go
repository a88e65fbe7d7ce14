package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// share is how much of its CPU time a program spends in one part of it, in percent.
type share struct {
	part    string
	percent float64
}

var listening = regexp.MustCompile(`http=(\S+)`)

// profile has the program profiled until it ends; what it spent its time on comes through p.profiled, nil where that is not known.
func (p *program) profile() {
	p.profiled = make(chan []share, 1)
	go func() {
		var shares []share
		defer func() { p.profiled <- shares }()
		for {
			said, _ := os.ReadFile(p.log)
			if at := listening.FindSubmatch(said); at != nil {
				if response, err := http.Get("http://" + string(at[1]) + "/debug/profile?seconds=600"); err == nil {
					body, _ := io.ReadAll(response.Body) // cut off where the process was killed
					_ = response.Body.Close()
					shares = sharesOf(body)
					return
				}
			}
			select {
			case <-p.ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
}

// parts are whose a frame is, by the beginning of the function's name: the first that fits, from the innermost frame on.
var parts = []struct{ prefix, part string }{
	{"github.com/tributary-cdc/tributary/", ""}, // the package's own name
	{"github.com/twmb/franz-go", "Kafka client"},
	{"github.com/klauspost/compress", "Kafka client"},
	{"github.com/pierrec/lz4", "Kafka client"},
	{"github.com/jackc/pg", "Postgres client"},
	{"github.com/prometheus/", "metrics"},
	{"runtime.gcBgMarkWorker", "garbage collection"},
	{"runtime.bgsweep", "garbage collection"},
	{"runtime.bgscavenge", "garbage collection"},
}

// sharesOf sums a profile up by parts, the largest first; what is of none is Go's own: its scheduler, mostly.
func sharesOf(raw []byte) (out []share) {
	p, err := profile.Parse(bytes.NewReader(raw))
	if err != nil || len(p.SampleType) < 2 {
		return nil
	}
	spent, all := map[string]float64{}, 0.0
	for _, s := range p.Sample {
		v := float64(s.Value[1])
		spent[partOf(s)] += v
		all += v
	}
	for part, v := range spent {
		out = append(out, share{part, 100 * v / all})
	}
	slices.SortFunc(out, func(a, b share) int { return cmp.Or(cmp.Compare(b.percent, a.percent), cmp.Compare(a.part, b.part)) })
	return out
}

func partOf(s *profile.Sample) string {
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function == nil {
				continue
			}
			for _, p := range parts {
				rest, ok := strings.CutPrefix(line.Function.Name, p.prefix)
				switch {
				case !ok:
				case p.part != "":
					return p.part
				default:
					slash := strings.LastIndexByte(rest, '/') + 1
					pkg, _, _ := strings.Cut(rest[slash:], ".")
					return "`" + rest[:slash] + pkg + "`"
				}
			}
		}
	}
	return "Go's runtime"
}

// sharesText tells the parts that are worth it.
func sharesText(all []share) string {
	var told []string
	for _, s := range all {
		if s.percent >= 3 {
			told = append(told, fmt.Sprintf("%s %.0f", s.part, s.percent))
		}
	}
	return strings.Join(told, ", ")
}
