package nemesis

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

var (
	seed    = flag.Uint64("seed", 0, "seed of TestLong; 0 takes one from the clock")
	minutes = flag.Float64("minutes", 0, "how long TestLong lets faults come; 0 leaves it out")
	broker  = flag.String("broker", "kafka", "broker of TestLong: kafka or kfake")
	faulty  = flag.String("faults", "", "the kinds of faults of TestLong, separated by commas; all if empty")
	keepAll = flag.Bool("keep", false, "keep the logs of a run that found nothing, too")
	mutants = flag.Bool("mutants", false, "run TestMutants")
	large   = flag.Int("large", 0, "rows of a large transaction of TestLong; 0 for 200,000")
)

// modules is where the services' sources are.
const modules = "../../.."

// short is small enough for every test run.
func short(seed uint64) Options {
	return Options{Seed: seed, Rounds: 2, Round: 8 * time.Second, Rows: 6000, Large: 2000}
}

func run(t *testing.T, o Options, cluster kafkatest.Cluster, tags string) *Report {
	t.Helper()
	dir, err := os.MkdirTemp("", "tributary-nemesis-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || *keepAll {
			t.Logf("all logs are in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	log, err := os.Create(filepath.Join(dir, "nemesis.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	o.Dir, o.Log, o.Broker, o.Registry = dir, log, cluster, kafkatest.Registry(t)
	if o.Programs, err = Build(t.Context(), modules, dir, tags); err != nil {
		t.Fatal(err)
	}
	report, err := Run(t.Context(), o)
	t.Log(report)
	if err != nil {
		t.Error(err)
	}
	return report
}

// Whatever breaks, every change arrives once.
func TestShort(t *testing.T) {
	if os.Getenv("TRIBUTARY_NEMESIS") != "on" {
		t.Skip("it still finds open defects, see the issue; TRIBUTARY_NEMESIS=on runs it")
	}
	kfake := func(t *testing.T) kafkatest.Cluster { return kafkatest.Fake(t) }
	real := func(t *testing.T) kafkatest.Cluster { return kafkatest.Real(t) }
	for _, c := range []struct {
		name   string
		seed   uint64
		broker func(*testing.T) kafkatest.Cluster
	}{{"kfake", 1, kfake}, {"kfake again", 2, kfake}, {"kafka", 3, real}} {
		t.Run(c.name, func(t *testing.T) {
			if report := run(t, short(c.seed), c.broker(t), ""); len(report.Findings) > 0 {
				t.Errorf("seed %d: the pipeline did not keep its promises", c.seed)
			}
		})
	}
}

// The long form: make nemesis SEED=… MINUTES=…
func TestLong(t *testing.T) {
	if *minutes <= 0 {
		t.Skip("it is asked for by -minutes")
	}
	const round = 30 * time.Second
	o := Options{
		Seed: *seed, Rounds: max(1, int(*minutes*float64(time.Minute)/float64(round))), Round: round,
		Rows: 20_000, Large: 200_000,
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano() % 1_000_000)
	}
	if *large > 0 {
		o.Large = *large
	}
	if *faulty != "" {
		o.Faults = strings.Split(*faulty, ",")
	}
	var cluster kafkatest.Cluster
	switch *broker {
	case "kafka":
		cluster = kafkatest.Real(t)
	case "kfake":
		cluster = kafkatest.Fake(t)
	default:
		t.Fatalf("-broker is %q, neither kafka nor kfake", *broker)
	}
	if report := run(t, o, cluster, ""); len(report.Findings) > 0 {
		t.Errorf("seed %d: the pipeline did not keep its promises", o.Seed)
	}
}

// The machine bites: of each of these defects, built in on purpose, it finds something within a few seeds.
func TestMutants(t *testing.T) {
	if !*mutants {
		t.Skip("it is asked for by -mutants")
	}
	const seeds = 5
	for _, c := range []struct {
		mutant string
		faults []string // that it takes; the others only make it rarer
	}{
		{"confirm-on-receipt", []string{"kill broker", "kill capture"}},
		{"no-chunk-rule", []string{"late visibility", "snapshot asked for"}},
	} {
		t.Run(c.mutant, func(t *testing.T) {
			for seed := range uint64(seeds) {
				o := short(seed + 1)
				o.Faults, o.Env = c.faults, []string{"TRIBUTARY_MUTANT=" + c.mutant}
				if report := run(t, o, kafkatest.Fake(t), "mutant"); len(report.Findings) > 0 {
					return
				}
			}
			t.Errorf("not found with %d seeds", seeds)
		})
	}
}
