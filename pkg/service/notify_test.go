package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// systemd hears that the service has started, although it is not ready, and that it lives: as long as no stage stands
// still, and no part keeps its status to itself.
func TestServiceManager(t *testing.T) {
	const watchdog = 60 * time.Millisecond
	hear := manage(t)
	t.Setenv("WATCHDOG_USEC", "60000")

	var stages Stages
	stage := stages.Stage("publish", "kafka")
	ask := make(chan chan struct{}, 1)
	server := NewServer("test", config.HTTP{Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(Asked) any {
		select {
		case wait := <-ask:
			<-wait
		default:
		}
		return sentence("shop is\nhealthy")
	})
	server.Watch(&stages, "publish")
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	const soon, long = 30 * time.Second, 10 * watchdog
	if !hear("READY=1\nSTATUS=not ready: start", soon) {
		t.Fatal("it does not say that it has started")
	}
	if !hear("WATCHDOG=1", soon) {
		t.Error("an idle service does not say that it lives")
	}
	stage.Busy()
	silent := func() bool { // it may say so a last time
		for range 50 {
			if !hear("WATCHDOG=1", long) {
				return true
			}
		}
		return false
	}
	if !silent() {
		t.Error("a stage stands still, and the service says that it lives")
	}
	done := stage.Wait("kafka")
	if !hear("WATCHDOG=1", soon) {
		t.Error("a service that waits for Kafka is to be killed")
	}
	done()
	stage.Idle()
	server.Ready()
	if !hear("STATUS=shop is\ufffdhealthy\nWATCHDOG=1", soon) {
		t.Error("its state is not told")
	}
	wait := make(chan struct{})
	ask <- wait
	if !silent() {
		t.Error("its status cannot be had, and the service says that it lives")
	}
	close(wait)
	cancel()
	if !hear("STOPPING=1", soon) {
		t.Error("it does not say that it ends")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Without a watchdog it is told all the same when the service becomes ready, at once.
func TestServiceManagerHearsOfReadiness(t *testing.T) {
	hear := manage(t)
	server := NewServer("test", config.HTTP{Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(Asked) any { return sentence("shop is healthy") })
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	if !hear("READY=1\nSTATUS=not ready: start", 30*time.Second) {
		t.Fatal("it does not say that it has started")
	}
	server.Ready()
	if !hear("STATUS=shop is healthy", tellEvery/2) {
		t.Error("it became ready, and its state is an old one")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// manage is systemd. It gives what waits for a message with these lines; false if none has come by the end of limit.
func manage(t *testing.T) (hear func(lines string, limit time.Duration) bool) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	return func(lines string, limit time.Duration) bool {
		t.Helper()
		message := make([]byte, 4096)
		for deadline := time.Now().Add(limit); ; {
			if err := listener.SetReadDeadline(deadline); err != nil {
				t.Fatal(err)
			}
			n, err := listener.Read(message)
			if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
				return false
			} else if err != nil {
				t.Fatal(err)
			}
			if strings.Contains("\n"+string(message[:n])+"\n", "\n"+lines+"\n") {
				return true
			}
		}
	}
}

// sentence is a status that is said in one.
type sentence string

func (s sentence) Sentence() string { return string(s) }
