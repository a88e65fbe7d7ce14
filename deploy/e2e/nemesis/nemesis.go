// Package nemesis is a machine that tries to make the pipeline lose, repeat or mix up a change. It runs the real
// programs between two real Postgres servers and a broker, under a random load, while it kills, stops, cuts off and
// delays every part; then it heals everything, waits for a fence, and compares.
//
// Who did what is known from a ledger: triggers at the source write down each change of each row, in the transaction
// that made it. So the machine knows of every key the exact sequence of its changes, and holds the topics against it.
//
// It is driven by a seed: the load and the faults follow from it, the moments at which they meet do not. A seed says
// what was tried, and finds the same defect again with some patience.
//
// The plan of such a machine follows Jepsen (https://jepsen.io) and the authors of FoundationDB.
package nemesis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// Options says what a run is to be. Seed, Dir, Broker, Registry and Programs are needed.
type Options struct {
	Seed     uint64
	Dir      string            // made by the caller; keeps the logs of all parts, also after Run
	Broker   kafkatest.Cluster // running and empty; the caller stops it
	Registry string            // URL of an empty schema registry
	Programs Programs
	Commit   string   // of the code that Programs is built from, for the report
	Env      []string // for the services, beyond that of this process

	Rounds int           // of faults, healing and comparing
	Round  time.Duration // how long the faults of one round come
	Rows   int           // that the source begins with, in each of the larger tables
	Large  int           // rows of a large transaction
	Pace   time.Duration // how often each connection of the load begins a transaction; 0 for 15 ms
	Linger time.Duration // how long capture gathers changes for one Kafka transaction; 0 for 50 ms
	// Delivery is how capture writes; "" for exactly-once. With at-least-once the topics are judged as a sink reads them:
	// without what is not above the position before it.
	Delivery string
	// LargeEvery is how long it is at least from one large transaction to the next; 0 for as they come. One that takes all
	// that the machine has leaves room for nothing else.
	LargeEvery time.Duration
	// Patience is how long the warehouse may take to become complete, and a service to start or to end. 0 for what an idle
	// machine never needs; with several runs at once on few cores more, so that a finding is one.
	Patience time.Duration
	Faults   []string // kinds to draw from; nil for all, see faults
	Kills    int      // how often the recovery from each kind of kill is measured, in a round of its own; 0: not at all

	Log io.Writer // told of each step, a line at a time
}

// Programs are the paths of the services' binaries, see Build.
type Programs struct{ Capture, Sink string }

// maxFindings bounds a report: one defect shows in thousands of rows.
const maxFindings = 25

const (
	sourceName  = "nem"
	slotName    = "tributary_nem"
	sinkSession = 3 * time.Second // a sink that is stopped for longer loses its partitions
	senderLimit = 3 * time.Second // a capture that is stopped for longer loses its walsender
	walBudget   = 1 << 30         // bytes; the source writes more in some minutes
	patience    = 90 * time.Second
)

// machine is one run.
type machine struct {
	Options
	source, warehouse       *pgtest.Cluster
	sourceNet, warehouseNet *proxy
	services                map[string]*service
	targets                 []target
	load                    *load
	checker                 *checker

	mu     sync.Mutex
	report Report
	busy   map[string]bool // what a fault has in its hands
}

func newMachine(o Options) *machine {
	if o.Patience == 0 {
		o.Patience = patience
	}
	return &machine{Options: o, targets: targets, busy: map[string]bool{}, services: map[string]*service{}}
}

// Run runs the machine. An error says that the machine itself failed; what is wrong with the pipeline is in the
// Report's Findings. Both may be there.
func Run(ctx context.Context, o Options) (*Report, error) {
	m := newMachine(o)
	m.report = Report{Seed: o.Seed, Commit: o.Commit, Broker: "kfake", Faults: map[string]int{}, Recovery: map[string][]float64{}, Exits: map[string]int{}}
	if _, real := o.Broker.(*kafkatest.RealCluster); real {
		m.report.Broker = "kafka"
	}
	err := m.run(ctx)
	if err != nil {
		err = fmt.Errorf("nemesis with seed %d: %w", o.Seed, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return &m.report, err
}

func (m *machine) run(ctx context.Context) (err error) {
	if err := m.build(ctx); err != nil {
		return errors.Join(err, m.tearDown(ctx))
	}
	defer func() {
		if m.broken() { // what a finding can be followed up with is kept beside the logs
			if err := m.checker.dump(ctx); err != nil {
				m.tell("what topics and checkpoints hold cannot be kept: %v", err)
			}
		}
		err = errors.Join(err, m.tearDown(ctx))
	}()
	for _, name := range []string{"capture-a", "sink-a", "sink-b", "whole-a", "kept-a"} {
		m.services[name].start()
	}
	if err := m.checker.awaitSlot(ctx); err != nil {
		return err
	}
	sampling, stopSampling := context.WithCancel(ctx)
	var sampler sync.WaitGroup
	sampler.Go(func() { m.sample(sampling) })
	sampler.Go(func() { m.readTotals(sampling) })
	defer sampler.Wait()
	defer stopSampling()
	for round := range m.Rounds {
		if err := m.round(ctx, round, m.faults); err != nil {
			return err
		}
		if m.broken() {
			return nil
		}
	}
	if m.Kills > 0 {
		m.load.large = 0 // what is measured would be how long they take
		return m.round(ctx, m.Rounds, m.recover)
	}
	return nil
}

// faults lets faults come for as long as a round is to last.
func (m *machine) faults(ctx context.Context, random *rand.Rand) error {
	begun := time.Now()
	striking, heal := context.WithTimeout(ctx, m.Round)
	defer heal()
	err := m.strike(striking, random)
	m.note(func(r *Report) { r.Minutes += time.Since(begun).Minutes() })
	return err
}

// round is load and what harms it, healing, and comparing.
func (m *machine) round(ctx context.Context, n int, harm func(context.Context, *rand.Rand) error) error {
	loading, cancelLoad := context.WithCancel(ctx)
	var working sync.WaitGroup
	working.Go(func() { m.load.run(loading, n) })
	stopLoad := func() {
		cancelLoad()
		working.Wait()
	}
	defer stopLoad()
	err := harm(ctx, rand.New(rand.NewPCG(m.Seed, 1000+uint64(n)))) //nolint:gosec // it is to be repeatable
	healed := time.Now()
	if err != nil {
		return err
	}
	if m.broken() {
		return nil // what follows a defect only confuses
	}
	// The load goes on for a moment: that it flows again is a part of being healed.
	wait(ctx, time.Second)
	stopLoad()
	if err := m.checker.fence(ctx, fmt.Sprintf("round-%d", n)); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errBroken) {
			return nil
		}
		m.dump() // where the services hang
		m.find("round %d: after everything was healed the warehouse did not become complete: %v", n, err)
		return nil
	}
	recovered := time.Since(healed)
	m.note(func(r *Report) { r.Healed = append(r.Healed, seconds(recovered)) })
	m.tell("round %d: complete %s after healing", n, recovered.Round(10*time.Millisecond))
	return m.checker.round(ctx)
}

// find notes what is wrong with the pipeline.
func (m *machine) find(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.mu.Lock()
	n := len(m.report.Findings)
	if n < maxFindings {
		m.report.Findings = append(m.report.Findings, text)
	}
	m.mu.Unlock()
	if n < maxFindings {
		m.tell("FOUND: %s", text)
	}
}

func (m *machine) broken() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.report.Findings) > 0
}

// tell writes a line of what happens, with the time as the services' logs have it.
func (m *machine) tell(format string, args ...any) {
	line := fmt.Sprintf("%s %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = io.WriteString(m.Log, line) // a log that cannot be written is no reason to stop
}

func (m *machine) path(name string) string { return filepath.Join(m.Dir, name) }

// wait waits for d, or less if ctx ends before.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// poll calls done every few milliseconds until it says true, gives an error, or limit is over.
func poll(ctx context.Context, limit time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := done(ctx)
		if ok || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait(ctx, 20*time.Millisecond)
	}
}
