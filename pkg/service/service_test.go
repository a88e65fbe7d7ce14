package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGroup(t *testing.T) {
	broken := errors.New("broken")
	until := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	ended := func(name string, want error, start func(ctx context.Context, g *Group)) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g := NewGroup(ctx)
		finished := false
		g.Go("slow", func(ctx context.Context) error {
			defer func() { finished = true }()
			return until(ctx)
		})
		start(ctx, g)
		err := g.Wait()
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
		if !finished {
			t.Errorf("%s: Wait returned before the others ended", name)
		}
	}
	ended("first error", broken, func(_ context.Context, g *Group) {
		g.Go("done", func(context.Context) error { return nil }) // ends nobody
		g.Go("bad", func(context.Context) error { return broken })
	})
	ended("later errors are echoes", broken, func(_ context.Context, g *Group) {
		g.Go("bad", func(context.Context) error { return broken })
		g.Go("echo", func(ctx context.Context) error { <-ctx.Done(); return errors.New("connection closed") })
	})
	ended("stopped", nil, func(_ context.Context, g *Group) { g.Stop() })
	ended("cancelled error of one's own", context.Canceled, func(_ context.Context, g *Group) {
		g.Go("own", func(context.Context) error { return context.Canceled })
	})
	ended("failure while stopping", broken, func(_ context.Context, g *Group) {
		g.Go("flush", func(ctx context.Context) error { <-ctx.Done(); return broken })
		g.Stop()
	})

	outer, cancel := context.WithCancel(t.Context())
	g := NewGroup(outer)
	g.Go("slow", until)
	g.Go("wrapped", func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("receive: %w", ctx.Err()) })
	cancel()
	if err := g.Wait(); err != nil {
		t.Errorf("ended from outside: %v", err)
	}

	g = NewGroup(t.Context())
	g.Go("slow", until)
	g.Go("decoder", func(context.Context) error { panic("index out of range") })
	if err := g.Wait(); err == nil || !strings.HasPrefix(err.Error(), "decoder: panic: index out of range\n") ||
		!strings.Contains(err.Error(), "service_test.go") {
		t.Errorf("panic: got %v", err)
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := LogTo(&out, config.Log{Format: "json", Level: "warn"})
	log.Info("unimportant")
	log.Warn("start", Err(&trouble.Error{Code: trouble.Gap, Op: "start", Cause: errors.New("x")}))
	var line struct {
		Time             time.Time
		Level, Msg, Code string
		Error            string
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if line.Code != "gap" || line.Error != "start: x" || line.Msg != "start" || line.Level != "WARN" {
		t.Errorf("got %s", out.String())
	}
	if !strings.Contains(out.String(), `Z"`) {
		t.Errorf("time is not in UTC: %s", out.String())
	}
	out.Reset()
	LogTo(&out, config.Log{Format: "text", Level: "debug"}).Debug("x", Err(errors.New("y")), Err(nil))
	if !strings.Contains(out.String(), "level=DEBUG msg=x code=internal error=y\n") {
		t.Errorf("got %s", out.String())
	}
}

func TestInstanceIsOnesOwn(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		seen[Instance()] = true
	}
	if len(seen) < 15 { // of 65536; that 6 of 20 are equal by chance does not happen
		t.Errorf("only %d names: %v", len(seen), seen)
	}
	for name := range seen {
		if !strings.Contains(name, fmt.Sprintf("-%d-", os.Getpid())) {
			t.Errorf("no process in %s", name)
		}
	}
}

func TestForm(t *testing.T) {
	is := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	is(FormatDuration(0), "0 s")
	is(FormatDuration(1), "1 ms")
	is(FormatDuration(3400*time.Microsecond), "3 ms")
	is(FormatDuration(9700*time.Microsecond), "0.01 s")
	is(FormatDuration(412*time.Millisecond), "0.41 s")
	is(FormatDuration(994*time.Millisecond), "0.99 s")
	is(FormatDuration(996*time.Millisecond), "1.0 s")
	is(FormatDuration(9940*time.Millisecond), "9.9 s")
	is(FormatDuration(9960*time.Millisecond), "10 s")
	is(FormatDuration(41*time.Second), "41 s")
	is(FormatDuration(59700*time.Millisecond), "1 min 0 s")
	is(FormatDuration(2*time.Minute+41*time.Second), "2 min 41 s")
	is(FormatDuration(time.Hour-time.Millisecond), "1 h 0 min")
	is(FormatDuration(3*time.Hour+12*time.Minute), "3 h 12 min")
	is(FormatDuration(24*time.Hour-time.Second), "1 d 0 h")
	is(FormatDuration(12*24*time.Hour+4*time.Hour), "12 d 4 h")
	is(FormatDuration(-41*time.Second), "-41 s")
	is(FormatDuration(-1<<63), "-106751 d 23 h")

	is(FormatBytes(0), "0 B")
	is(FormatBytes(1023), "1023 B")
	is(FormatBytes(1024), "1.0 KiB")
	is(FormatBytes(10307921510), "9.6 GiB")
	is(FormatBytes(212<<30), "212 GiB")
	is(FormatBytes(1<<20-1), "1.0 MiB")
	is(FormatBytes(1<<63-1), "8.0 EiB")
	is(FormatBytes(-1<<20), "-1.0 MiB")
	is(FormatBytes(-1<<63), "-8.0 EiB")

	is(FormatCount(0), "0")
	is(FormatCount(999), "999")
	is(FormatCount(1000), "1,000")
	is(FormatCount(61300), "61,300")
	is(FormatCount(9_999_999), "9,999,999")
	is(FormatCount(16_000_000), "16.0 M")
	is(FormatCount(999_949_999), "999.9 M")
	is(FormatCount(999_950_000), "1.0 G")
	is(FormatCount(2_500_000_000_000), "2.5 T")
	is(FormatCount(1<<63-1), "9,223,372.0 T")
	is(FormatCount(-61300), "-61,300")
	is(FormatCount(-1<<63), "-9,223,372.0 T")
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLatency(histogramOpts())
		quantiles := func(want50, want99 time.Duration, wantOK bool) {
			t.Helper()
			if p50, p99, ok := l.Quantiles(); p50 != want50 || p99 != want99 || ok != wantOK {
				t.Errorf("got %v, %v, %v; want %v, %v, %v", p50, p99, ok, want50, want99, wantOK)
			}
		}
		quantiles(0, 0, false)
		for i := range 19 {
			l.ObserveDuration(time.Duration(i) * time.Second)
		}
		quantiles(0, 0, false)
		l.ObserveDuration(-time.Second) // the source's clock is ahead
		quantiles(8*time.Second, 18*time.Second, true)
		time.Sleep(latencyWindow) // synctest's clock
		quantiles(0, 0, false)
		for i := range 100 {
			l.ObserveDuration(time.Duration(100-i) * time.Millisecond)
		}
		quantiles(50*time.Millisecond, 99*time.Millisecond, true)
		for range 3 * latencyCapacity {
			l.ObserveDuration(time.Second)
		}
		quantiles(time.Second, time.Second, true)

		// What is usual is not what an outage of some minutes makes of it.
		usual := func(want time.Duration, wantOK bool) {
			t.Helper()
			if p50, ok := l.Usual(); p50.Round(time.Millisecond) != want || ok != wantOK {
				t.Errorf("usual is %v, %v; want %v, %v", p50, ok, want, wantOK)
			}
		}
		minutes := func(n int, took time.Duration) {
			for range 60 * n {
				l.ObserveDuration(took)
				l.Quantiles()
				time.Sleep(time.Second)
			}
		}
		usual(0, false)
		minutes(25, 40*time.Millisecond)
		usual(40*time.Millisecond, true)
		minutes(15, time.Minute)
		usual(40*time.Millisecond, true)
		if p50, _, ok := l.Quantiles(); p50 != time.Minute || !ok {
			t.Errorf("the median is %s", p50)
		}
	})
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0", 10 * time.Microsecond: "0.001", 1173504 * time.Microsecond: "1.174", 3 * time.Hour: "10800", -1500 * time.Millisecond: "-1.5"} {
		if got := fmt.Sprint(Seconds(d)); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
