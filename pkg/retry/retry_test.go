package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"reflect"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

func state(code string) error { return &pgconn.PgError{Code: code} }

func TestTransient(t *testing.T) {
	is := func(want bool, err error) {
		t.Helper()
		for _, e := range []error{err, fmt.Errorf("doing it: %w", err), errors.Join(errors.New("beside"), err)} {
			if got := Transient(e); err != nil && got != want {
				t.Errorf("%v: got %v", e, got)
			}
		}
	}
	is(false, nil)
	is(false, errors.New("who knows"))
	is(false, context.Canceled)
	is(true, context.DeadlineExceeded)

	for _, code := range []string{
		"08000", "08006", "40001", "40P01", "40003", "53100", "53200", "53300", "57P01", "57P02", "57P03", "57P05", "57014",
		"55P03", "55006", "25006", "25P04", "58030",
	} {
		is(true, state(code))
		is(true, postgres.Describe(state(code)))
	}
	for _, code := range []string{
		"08P01", "40002", "57P04", "55000", "25P02", "22P02", "23505", "42P01", "42501", "42704", "28P01", "3D000", "XX000", "0A000",
	} {
		is(false, state(code))
		is(false, postgres.Describe(state(code)))
	}
	is(true, io.EOF)
	is(true, io.ErrUnexpectedEOF)
	is(true, net.ErrClosed)
	is(true, os.ErrDeadlineExceeded)
	is(true, &net.DNSError{Err: "no such host", IsNotFound: true})
	is(true, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})
	is(true, syscall.EPIPE)
	is(false, &fs.PathError{Op: "open", Path: "/ca.pem", Err: syscall.ENOENT})
	is(false, &fs.PathError{Op: "write", Path: "/data", Err: syscall.ENOSPC})

	is(false, &net.OpError{Op: "dial", Err: config.ErrTLSFiles})
	is(false, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})
	is(false, &net.OpError{Op: "remote error", Err: tls.AlertError(42)})
	is(false, tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"})

	for _, err := range []error{
		kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.CoordinatorLoadInProgress, kerr.ConcurrentTransactions,
		kerr.TransactionAbortable, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping, kerr.UnknownServerError, kgo.ErrRecordTimeout,
		kerr.InvalidReplicationFactor,
		kgo.ErrRecordRetries,
	} {
		is(true, err)
	}
	for _, err := range []error{
		kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.TopicAuthorizationFailed, kerr.SaslAuthenticationFailed,
		kerr.MessageTooLarge, kerr.OffsetOutOfRange, kerr.InvalidTopicException, kgo.ErrClientClosed,
	} {
		is(false, err)
	}

	is(true, &trouble.Error{Code: trouble.RegistryUnreachable, Op: "look up", Cause: errors.New("503 from the registry")})
	is(true, &trouble.Error{Code: trouble.WarehouseFull, Op: "write", Cause: errors.New("disk")})
	is(false, &trouble.Error{Code: trouble.Gap, Op: "start", Cause: errors.New("slot was advanced")})
	// The cause knows better than the code.
	is(false, &trouble.Error{Code: trouble.SourceUnreachable, Op: "connect", Cause: state("28P01")})
	is(true, &trouble.Error{Code: trouble.SlotInUse, Op: "start", Cause: state("55006")})
	is(false, &trouble.Error{Code: trouble.KafkaUnreachable, Op: "x", Cause: context.Canceled})
}

// TestWaits: who was let in waits where it is refused, or cannot have what it would be let in with; who was not does not.
func TestWaits(t *testing.T) {
	_, noFile := config.Secret("file:/absent").Reveal()
	_, noVariable := config.Secret("env:ABSENT_VARIABLE_OF_TEST").Reveal()
	_, noKey := postgres.ParseConfig("postgres://h/d?sslmode=require&sslcert=/absent.pem&sslkey=/absent.pem", "test")
	for _, err := range []error{noFile, noVariable, noKey, state("28P01"), &net.OpError{Op: "dial", Err: config.ErrTLSFiles}} {
		err = &trouble.Error{Code: trouble.Config, Op: "connect", Cause: err}
		if Transient(err) || !Refused(err) || !Waits(err) {
			t.Errorf("%v: transient %v, refused %v", err, Transient(err), Refused(err))
		}
	}
	if err := (&trouble.Error{Code: trouble.Config, Op: "apply", Cause: errors.New("columns")}); Waits(err) {
		t.Errorf("%v is waited for", err)
	}
}

// TestTransientConnections: the errors of real attempts, as the libraries wrap them.
func TestTransientConnections(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := listener.Addr().String()
	_ = listener.Close()
	if _, err := postgres.Connect(t.Context(), "postgres://u@"+refused+"/d", "test"); !Transient(err) {
		t.Errorf("refused: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := postgres.Connect(ended, "postgres://u@"+refused+"/d", "test"); err == nil || Transient(err) {
		t.Errorf("cancelled: %v", err)
	}
	listener, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	defer func() { _ = listener.Close() }()
	if _, err := postgres.Connect(t.Context(), "postgres://u@"+listener.Addr().String()+"/d?sslmode=disable", "test"); !Transient(err) {
		t.Errorf("closed at once: %v", err)
	}
	for what, address := range map[string]string{"no broker": refused, "a broker that closes at once": listener.Addr().String()} {
		client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RequestRetries(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Ping(t.Context()); !Transient(err) {
			t.Errorf("%s: %v", what, err)
		}
		// Under load a broker is not in the metadata for a moment: requests for it are refused by the client itself.
		_, err = client.Broker(99).Request(t.Context(), kmsg.NewPtrListOffsetsRequest())
		if err = (&kadm.ShardErrors{Name: "ListOffsets", Errs: []kadm.ShardError{{Err: err}}}); !Transient(err) {
			t.Errorf("a broker that is not known: %v", err)
		}
		client.Close()
	}
}

func TestBackoff(t *testing.T) {
	within := func(b Backoff, try int, least, most time.Duration) {
		t.Helper()
		differ := false
		first := b.Wait(try)
		for range 200 {
			got := b.Wait(try)
			differ = differ || got != first
			if got < least || got > most {
				t.Fatalf("try %d: %v is not in %v to %v", try, got, least, most)
			}
		}
		if !differ {
			t.Errorf("try %d: always %v", try, first)
		}
	}
	b := Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	within(b, 1, 50*time.Millisecond, 100*time.Millisecond)
	within(b, 2, 100*time.Millisecond, 200*time.Millisecond)
	within(b, 4, 400*time.Millisecond, 800*time.Millisecond)
	within(b, 5, 500*time.Millisecond, time.Second)
	within(b, 1_000_000, 500*time.Millisecond, time.Second)
	within(Backoff{}, 1, 50*time.Millisecond, 100*time.Millisecond)
	within(Backoff{}, 100, 15*time.Second, 30*time.Second)
}

func TestDoRetriesUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		var waited time.Duration
		var tries []int
		err := Do(t.Context(), Backoff{Min: time.Second, Max: 4 * time.Second}, func(context.Context) error {
			if calls++; calls <= 4 {
				return io.EOF
			}
			return nil
		}, func(err error, try int, wait time.Duration) {
			if !errors.Is(err, io.EOF) {
				t.Errorf("told of %v", err)
			}
			tries = append(tries, try)
			waited += wait
		})
		if err != nil || calls != 5 || !reflect.DeepEqual(tries, []int{1, 2, 3, 4}) {
			t.Errorf("got %v after %d calls, told of tries %v", err, calls, tries)
		}
		if took := time.Since(start); took != waited || took < (1+2+4+4)*time.Second/2 {
			t.Errorf("took %v, announced %v", took, waited)
		}
	})
}

func TestDoGivesUpAtOnce(t *testing.T) {
	calls := 0
	permanent := errors.New("bad row")
	err := Do(t.Context(), Backoff{}, func(context.Context) error { calls++; return permanent },
		func(error, int, time.Duration) { t.Error("told of a retry") })
	if calls != 1 || !errors.Is(err, permanent) {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func TestDoEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// In the middle of a wait.
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		start, calls := time.Now(), 0
		err := Do(ctx, Backoff{Min: time.Minute, Max: time.Hour}, func(context.Context) error { calls++; return io.EOF }, nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 90*time.Second || calls < 2 {
			t.Errorf("got %v after %v and %d calls", err, time.Since(start), calls)
		}
		// An attempt's own deadline is another matter.
		calls = 0
		err = Do(t.Context(), Backoff{}, func(ctx context.Context) error {
			if calls++; calls == 3 {
				return nil
			}
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			<-attempt.Done()
			return attempt.Err()
		}, nil)
		if err != nil || calls != 3 {
			t.Errorf("got %v after %d calls", err, calls)
		}
		// Ended before: nothing is tried; ended within: no notice of what the end itself caused.
		ended, cancel := context.WithCancel(t.Context())
		err = Do(ended, Backoff{}, func(context.Context) error { cancel(); return net.ErrClosed },
			func(error, int, time.Duration) { t.Error("told of a retry") })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		err = Do(ended, Backoff{}, func(context.Context) error { t.Error("tried"); return nil }, nil)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
