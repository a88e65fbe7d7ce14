package nemesis

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

var (
	seed       = flag.Uint64("seed", 0, "seed of TestLong, 0 takes one from the clock; and of TestShort instead of its own")
	minutes    = flag.Float64("minutes", 0, "how long TestLong lets faults come; 0 leaves it out")
	broker     = flag.String("broker", "kafka", "broker of TestLong: kafka, kafka-3 (with TRIBUTARY_KAFKA=all) or kfake")
	delivery   = flag.String("delivery", "", "how the captures of TestShort and TestLong write; empty for exactly-once")
	faulty     = flag.String("faults", "", "the kinds of faults of TestLong, separated by commas; all if empty")
	keepAll    = flag.Bool("keep", false, "keep the logs of a run that found nothing, too")
	memory     = flag.Bool("memory", false, "run TestMemory, with the warehouse away for -minutes (2)")
	rate       = flag.Int("rate", 20_000, "changes a second of TestMemory while the warehouse is away")
	mutants    = flag.Bool("mutants", false, "run TestMutants")
	pace       = flag.Duration("pace", 100*time.Millisecond, "how often each connection of TestLong's load begins a transaction")
	recoveries = flag.Int("kills", 3, "how often TestLong measures the recovery from each kind of kill")
	built      = flag.String("programs", "", "directory that has the services' programs; empty for building them")
	commit     = flag.String("commit", "", "commit of the code, for the report")
	large      = flag.Int("large", 0, "rows of a large transaction of TestLong; 0 for 200,000")
	reports    = flag.String("reports", "", "file to which the report of each run is added, a line of JSON")
	figures    = flag.String("figures", "", "file of such lines that TestFigures sums up")
	hours      = flag.Float64("hours", 0, "how long TestSoak runs; 0 leaves it out")
	soakRate   = flag.Int("soak-rate", 200, "changes a second of TestSoak")
	records    = flag.String("records", "", "file for the records of TestSoak; alone: what TestSoakFigures judges anew")
)

// modules is where the services' sources are.
const modules = "../../.."

// short is small enough for every test run.
func short(seed uint64) Options {
	return Options{Seed: seed, Rounds: 2, Round: 8 * time.Second, Rows: 6000, Large: 2000, Delivery: *delivery}
}

func run(t *testing.T, o Options, cluster kafkatest.Cluster, tags string) *Report {
	t.Helper()
	equip(t, &o, cluster, tags)
	report, err := Run(t.Context(), o)
	t.Log(report)
	if err != nil {
		t.Error(err)
	}
	if *reports != "" {
		if err := addLine(*reports, report); err != nil {
			t.Error(err)
		}
	}
	return report
}

// equip gives o what every run needs. Its logs go with the test if it finds nothing.
func equip(t *testing.T, o *Options, cluster kafkatest.Cluster, tags string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tributary-nemesis-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || *keepAll {
			t.Logf("all logs are in %s", dir)
			if real, ok := cluster.(*kafkatest.RealCluster); ok { // what it holds is evidence too
				t.Log("the broker's directory is copied there:", os.CopyFS(filepath.Join(dir, "kafka"), os.DirFS(filepath.Dir(real.Log()))))
			}
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	log, err := os.Create(filepath.Join(dir, "nemesis.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	o.Dir, o.Log, o.Broker, o.Registry, o.Commit = dir, log, cluster, kafkatest.Registry(t), *commit
	if *built != "" && tags == "" {
		o.Programs = Programs{Capture: filepath.Join(*built, "capture"), Sink: filepath.Join(*built, "sink")}
	} else if o.Programs, err = Build(t.Context(), modules, dir, tags); err != nil {
		t.Fatal(err)
	}
}

// memoryGoal is what each service is to stay below, in bytes.
const memoryGoal = 256 << 20

// The services stay small while the warehouse is away and in a large transaction: make nemesis-memory
func TestMemory(t *testing.T) {
	if !*memory {
		t.Skip("it is asked for by -memory")
	}
	if _, err := peakMemory(os.Getpid()); err != nil {
		t.Skip(err)
	}
	o := MemoryOptions{Outage: 2 * time.Minute, Rate: *rate, Rows: 2_000_000}
	if *minutes > 0 {
		o.Outage = time.Duration(*minutes * float64(time.Minute))
	}
	if *large > 0 {
		o.Rows = *large
	}
	equip(t, &o.Options, cluster(t, *broker), "")
	found, err := Memory(t.Context(), o)
	if err != nil {
		t.Error(err)
	}
	for _, f := range found {
		t.Log(f)
		if f.Capture > memoryGoal || f.Sink > memoryGoal {
			t.Errorf("above the goal of %d MiB", memoryGoal>>20)
		}
	}
}

// The pipeline takes no more after hours than after minutes: make soak HOURS=2. SIGTERM ends the load before its time, and
// what was done until then is compared and judged.
func TestSoak(t *testing.T) {
	if *hours <= 0 {
		t.Skip("it is asked for by -hours")
	}
	if _, err := peakMemory(os.Getpid()); err != nil {
		t.Skip(err)
	}
	o := SoakOptions{Lasts: time.Duration(*hours * float64(time.Hour)), Rate: *soakRate}
	equip(t, &o.Options, cluster(t, *broker), "")
	o.Seed, o.Patience = *seed, 10*time.Minute // what is judged is what it takes, not how fast it is
	path := *records
	if path == "" {
		path = filepath.Join(o.Dir, "soak.jsonl")
	}
	lines, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	o.Records = lines
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	report, err := Soak(ctx, o)
	if err != nil {
		t.Error(err)
	}
	report.Markdown(os.Stdout)
	for _, v := range report.Grown() {
		t.Errorf("%s of %s grows by %.0f, allowed are %.0f", v.Measure, v.Of, v.Growth, v.Allowed)
	}
	if len(report.Findings) > 0 {
		t.Error("the pipeline did not keep its promises")
	}
}

// The records of a soak as the tables of docs/guarantees.md: make soak-figures
func TestSoakFigures(t *testing.T) {
	if *records == "" || *hours > 0 {
		t.Skip("it is asked for by -records alone")
	}
	lines, err := os.Open(*records)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	report, err := ReadSoak(lines)
	if err != nil {
		t.Fatal(err)
	}
	report.Markdown(os.Stdout)
	Limits(os.Stdout)
}

func addLine(path string, report *Report) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(f).Encode(report), f.Close())
}

// The reports of several runs as the tables of docs/guarantees.md: make nemesis-figures
func TestFigures(t *testing.T) {
	if *figures == "" {
		t.Skip("it is asked for by -figures")
	}
	lines, err := os.Open(*figures)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	if err := Sum(lines, os.Stdout); err != nil {
		t.Error(err)
	}
}

// Whatever breaks, every change arrives once.
func TestShort(t *testing.T) {
	for _, c := range []struct {
		broker string
		seed   uint64
	}{{"kfake", 1}, {"kafka", 3}, {"kafka-3", 3}} {
		t.Run(c.broker, func(t *testing.T) {
			if *seed != 0 {
				c.seed = *seed
			}
			o := short(c.seed)
			o.Patience = 3 * time.Minute // other tests share the machine
			if report := run(t, o, cluster(t, c.broker), ""); len(report.Findings) > 0 {
				t.Errorf("seed %d: the pipeline did not keep its promises", c.seed)
			}
		})
	}
}

func cluster(t *testing.T, broker string) kafkatest.Cluster {
	t.Helper()
	switch broker {
	case "kafka":
		return kafkatest.Real(t)
	case "kafka-3":
		return kafkatest.Older(t)
	case "kfake":
		return kafkatest.Fake(t)
	}
	t.Fatalf("-broker is %q, not kafka, kafka-3 or kfake", broker)
	return nil
}

// The long form: make nemesis SEED=… MINUTES=…
func TestLong(t *testing.T) {
	if *minutes <= 0 {
		t.Skip("it is asked for by -minutes")
	}
	lasts := time.Duration(*minutes * float64(time.Minute))
	round := min(5*time.Minute, lasts)
	o := Options{
		Seed: *seed, Rounds: int(lasts / round), Round: round,
		Rows: 6000, Large: 200_000, LargeEvery: 5 * time.Minute, Pace: *pace, Linger: 250 * time.Millisecond, Kills: *recoveries,
		Delivery: *delivery, Patience: 5 * time.Minute, // several of them share a machine
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
	if report := run(t, o, cluster(t, *broker), ""); len(report.Findings) > 0 {
		t.Errorf("seed %d: the pipeline did not keep its promises", o.Seed)
	}
}

// The machine bites: of each of these defects, built in on purpose, it finds something within a few seeds:
// make nemesis-mutants
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
		{"checkpoint-apart", []string{"lost commit", "sink backends ended"}},
		{"no-compare-and-set", []string{"sink is a zombie", "third sink"}},
		{"truncate-without-barrier", []string{"stop sink for a moment", "third sink", "slow warehouse"}},
		{"tables-apart", []string{"stop whole sink for a moment", "kill whole sink"}},
		{"last-version-only", []string{"stop kept sink for a moment"}},
		{"snapshot-row-as-version", []string{"snapshot asked for"}},
		{"toast-as-null", []string{"stop sink for a moment"}},
	} {
		t.Run(c.mutant, func(t *testing.T) {
			for seed := range uint64(seeds) {
				o := short(seed + 1)
				o.Faults, o.Env = c.faults, []string{"TRIBUTARY_MUTANT=" + c.mutant}
				if report := run(t, o, kafkatest.Fake(t), "mutant"); len(report.Findings) > 0 {
					t.Logf("found with seed %d", o.Seed)
					return
				}
			}
			t.Errorf("not found with %d seeds", seeds)
		})
	}
}
