// Command bench measures the pipeline beside what the machine allows: the real programs between two Postgres servers and
// Apache Kafka, each figure next to a limit that is measured in the same run on the same data (COPY, pg_recvlogical, the
// apply of native logical replication). Machines are noisy and shared: ratios count, absolute figures do not.
//
// What is measured is the list in measures.go; how, in the file of each measure. The whole is run a second time on the
// embedded broker.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func main() {
	var o options
	only := flag.String("only", "", "measure only what this regular expression fits")
	flag.Float64Var(&o.scale, "scale", 1, "size of all loads; 1 is what docs/performance.md has")
	flag.BoolVar(&o.skipFake, "skip-kfake", false, "leave out the embedded broker")
	flag.BoolVar(&o.skipKafka, "skip-kafka", false, "leave out Apache Kafka")
	page := flag.String("page", "", "Markdown page whose tables are written anew; it says which measures were left out")
	flag.Parse()
	os.Exit(terminal.Run("bench", func(ctx context.Context) (err error) {
		if o.only, err = regexp.Compile(*only); err != nil {
			return fmt.Errorf("-only: %w", err)
		}
		r := &report{began: time.Now(), out: os.Stdout, flags: os.Args[1:]}
		err = run(ctx, o, r)
		r.print() // what there is, also where a measure failed
		if *page != "" && ctx.Err() == nil {
			err = errors.Join(err, r.write(*page))
		}
		return err
	}))
}

type options struct {
	only                *regexp.Regexp
	scale               float64
	skipFake, skipKafka bool
}

// run measures everything on each broker. One that fails does not keep the other from it.
func run(ctx context.Context, o options, r *report) error {
	brokers := []string{}
	if !o.skipKafka {
		brokers = append(brokers, brokerKafka)
	}
	if !o.skipFake {
		brokers = append(brokers, brokerFake)
	}
	var failed error
	for _, broker := range brokers {
		w, err := newWorld(ctx, broker, o.scale)
		if err != nil {
			return err
		}
		measuring, died := context.WithCancelCause(ctx)
		w.died = died
		if err = w.measure(measuring, o.only, r); err != nil {
			err = cmp.Or(context.Cause(measuring), err)
		}
		died(nil)
		w.close()
		if err != nil {
			r.failed = append(r.failed, fmt.Sprintf("%s: %s", broker, strings.SplitN(err.Error(), "\n", 2)[0]))
			failed = errors.Join(failed, fmt.Errorf("on %s: %w", broker, err))
		}
	}
	return failed
}
