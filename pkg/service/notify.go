package service

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// manager is what has started this process and wants to hear of it: systemd, by the protocol of sd_notify(3). The zero
// value is for when nobody has asked.
type manager struct {
	socket   string        // "" for none
	watchdog time.Duration // after this long without a sign of life it kills the process; 0: never
}

// theManager reads what systemd gives a unit of Type=notify.
func theManager() manager {
	m := manager{socket: os.Getenv("NOTIFY_SOCKET")}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return m // it is for a parent of ours
	}
	if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		m.watchdog = time.Duration(us) * time.Microsecond
	}
	return m
}

// tell sends one message.
func (m manager) tell(message ...string) error {
	if m.socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", m.socket)
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer conn.Close() //nolint:errcheck // a datagram is out
	_, err = conn.Write([]byte(strings.Join(message, "\n")))
	return err
}

// Watch says whose standing still is a reason to start the service anew, for systemd, where the unit has a WatchdogSec, and for who asks /healthz:
// stages that are busy with one thing for as long. Waiting for somebody is none, since a restart does not mend it; nor is
// a long statement in a database. Call it before Run.
func (s *Server) Watch(stages *Stages, names ...string) {
	s.hung = func(limit time.Duration) string { return stages.hung(limit, names) }
}

// hungAfter is for how long a stage stands still until /healthz fails: the WatchdogSec of our units.
const hungAfter = 2 * time.Minute

// standing names a stage that stands still for longer than limit, and logs what is new; "" if there is none.
func (s *Server) standing(limit time.Duration) (stage string) {
	stage = s.hung(limit)
	s.mu.Lock()
	known := s.still == stage
	s.still = stage
	s.mu.Unlock()
	if stage != "" && !known {
		s.log.Error("a stage stands still", "stage", stage, "for", limit)
	}
	return stage
}

// tellEvery is how often the service manager hears how the service does; more often where its watchdog is short.
const tellEvery = 10 * time.Second

// report tells the service manager that the service runs, how it does, that it is alive for as long as that is so, and that it ends.
func (s *Server) report(ctx context.Context, m manager) {
	if m.socket == "" {
		<-ctx.Done()
		return
	}
	note := func(message ...string) {
		if err := m.tell(message...); err != nil {
			s.log.Warn("systemd is not told", Err(err))
		}
	}
	// What it waits for is no reason to be started anew: it has started.
	note("READY=1", "STATUS="+s.sentence())
	defer note("STOPPING=1", "STATUS=")
	every := tellEvery
	if m.watchdog > 0 {
		every = min(every, m.watchdog/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.turned:
		case <-tick.C:
		}
		message := []string{"STATUS=" + s.sentence()} // it asks all parts; where one never answers there is no further sign of life
		if m.watchdog > 0 && s.standing(m.watchdog) == "" {
			message = append(message, "WATCHDOG=1")
		}
		note(message...)
	}
}

// sentence says in one line how the service does: what it still lacks to be ready, else what its status says in a sentence.
func (s *Server) sentence() string {
	sentence := s.readiness()
	if st, ok := s.status(Asked{}).(interface{ Sentence() string }); ok && sentence == ready {
		sentence = st.Sentence()
	}
	return strings.Map(func(r rune) rune { // a name with a line's end would be a message of its own
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, sentence)
}

// ready is what /readyz says when nothing is missing.
const ready = "ready"

// readiness is what /readyz says.
func (s *Server) readiness() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) == 0 {
		return ready
	}
	return "not ready: " + strings.Join(s.missing, ", ")
}

// hung names a stage, one of names, that has been busy with one thing for longer than limit; "" if there is none.
func (s *Stages) hung(limit time.Duration, names []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		for _, st := range k.workers {
			st.mu.Lock()
			hung := !st.busySince.IsZero() && time.Since(st.turned) > limit
			st.mu.Unlock()
			for _, name := range names {
				if hung && name == k.name {
					return name
				}
			}
		}
	}
	return ""
}
