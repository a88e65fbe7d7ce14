// Package retry decides which errors are worth another try, and tries again. There is one classifier for the whole
// product: what it does not call transient stops a table, parks a row or ends the service, and says so.
package retry

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Transient says whether the same attempt may succeed later without anybody changing data, rules or configuration.
// A cancelled context is not transient: somebody wants an end. A passed deadline is: it was one attempt's.
//
// An error of a COMMIT may be transient and the transaction committed all the same: whoever commits finds out (by the
// checkpoint) before trying again.
func Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if tlsFault(err) != trusted {
		return false // comes wrapped in network errors, but no waiting makes it trusted
	}
	if state := postgres.SQLState(err); state != "" {
		return transientState(state)
	}
	if _, ok := errors.AsType[*kerr.Error](err); ok {
		return transientBroker(err)
	}
	return transientNetwork(err) || transientTrouble(err)
}

// transientState judges a server's SQLSTATE
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func transientState(state string) bool {
	switch state {
	case "08P01": // protocol violation: the same bytes would be refused again
		return false
	case "40002": // a deferred constraint refused the data
		return false
	case "57P04": // the database was dropped
		return false
	case "25006": // read-only transaction: a failover in progress, the next connection finds the primary
		return true
	case "55006": // object in use: a slot whose reader died is free again after wal_sender_timeout
		return true
	case "55P03": // lock not available within lock_timeout
		return true
	case "57014": // somebody cancelled the statement; it says nothing about the data
		return true
	case "25P04": // transaction_timeout, which is lifted for each connection: where a pooler mixes those of several, it may be there again
		return true
	case "58030": // the server's disk failed to read or write
		return true
	}
	switch state[:2] {
	case "08", // connection lost or refused
		"40", // serialisation failure, deadlock, rolled back by the server
		"53": // out of memory, disk or connections: space is made, others leave
		return true
	}
	return strings.HasPrefix(state, "57P0") // the server stops, crashed, starts, or closed an idle session
}

// transientBroker judges an error code of a broker.
func transientBroker(err error) bool {
	// For the client these end a transaction, or are its own to repeat; for us they do not end the producer: a new session
	// begins after what was committed.
	newSession := []error{
		kerr.TransactionAbortable, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.ConcurrentTransactions,
		// A coordinator that has just taken over, or an id whose epochs are used up: the new session gets another.
		kerr.InvalidProducerIDMapping,
		// A fault within the broker, which says nothing of the request, nor whether a commit was carried out.
		kerr.UnknownServerError,
	}
	if errors.Is(err, kerr.InvalidReplicationFactor) {
		return true // fewer brokers are up than a topic is to have replicas
	}
	return kerr.IsRetriable(err) || slices.ContainsFunc(newSession, func(e error) bool { return errors.Is(err, e) })
}

// transientNetwork judges connections: refused, cut, timed out, name not (yet) known.
func transientNetwork(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true // an attempt's own; Do looks at its caller's first
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true // the peer, or our own reaction to it, closed in the middle
	}
	if errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kgo.ErrRecordRetries) {
		return true // no broker took the record in time
	}
	if kgo.IsRetryableBrokerErr(err) {
		return true // a broker that the client has just forgotten, as metadata came without it
	}
	if pgconn.SafeToRetry(err) {
		return true // nothing was sent: the connection was closed before
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true // names appear when containers start
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	for _, number := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN,
	} {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}

// transientTrouble judges what is already known by a code and has no cause that tells more.
func transientTrouble(err error) bool {
	switch trouble.CodeOf(err) {
	case trouble.SourceUnreachable, trouble.WarehouseUnreachable, trouble.KafkaUnreachable, trouble.RegistryUnreachable, trouble.IdentityUnreachable,
		trouble.TransactionTimeout, // another transaction has another timeout
		trouble.WarehouseReadOnly,  // until the failover is done
		trouble.WarehouseFull:      // until somebody frees space
		return true
	}
	return false
}
