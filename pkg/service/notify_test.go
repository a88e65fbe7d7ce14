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
	socket := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // the test is over
	// hear waits for a message that begins so; false if none has come by the end of limit.
	hear := func(begin string, limit time.Duration) bool {
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
			if strings.HasPrefix(string(message[:n]), begin) {
				return true
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", socket)
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
		return nil
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
	if !hear("WATCHDOG=1\nSTATUS=ready", soon) {
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
