package retry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Refused says whether the other side does not let us in, or we do not trust it, or have not what we would be let in with: login,
// certificate, or no TLS where it is wanted. No waiting mends that, and at a start it ends a service. But a password or certificate that is being replaced
// looks like this for a moment: who has been let in before waits.
func Refused(err error) bool {
	if state := postgres.SQLState(err); strings.HasPrefix(state, "28") {
		return true
	}
	for _, login := range []error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState} {
		if errors.Is(err, login) {
			return true
		}
	}
	switch trouble.CodeOf(err) {
	case trouble.KafkaAuth, trouble.RegistryAuth:
		return true
	}
	if errors.Is(err, postgres.ErrConnString) || errors.Is(err, config.ErrSecret) {
		return true // a certificate is there, its key is not yet; or what holds the password is away
	}
	return tlsFault(err) != trusted
}

// Waits says whether a service that has been let in before waits: for what is transient, and where it is refused.
func Waits(err error) bool { return Transient(err) || err != nil && Refused(err) }

// TLSKeys names what somebody has to look at, as the configuration calls it.
type TLSKeys struct{ CA, Name, Client string }

// TLSHint says what to do about an error by which TLS has ended because one side does not trust the other or does not speak
// it; "" for any other error.
func TLSHint(err error, keys TLSKeys) string {
	switch tlsFault(err) {
	case unknownAuthority:
		return fmt.Sprintf("the certificate is of an authority that is not trusted here: name the right one with %s", keys.CA)
	case wrongName:
		return fmt.Sprintf("the certificate is for another name: ask for the server by a name that it bears, see %s", keys.Name)
	case expired:
		return "the certificate's time is up, or has not come: have it renewed; or look at the clocks of both sides"
	case unfitCertificate:
		return "the server needs another certificate"
	case refusedOurs:
		return fmt.Sprintf("the other side refused TLS, mostly for the certificate that it wants to see: check %s", keys.Client)
	case noTLS:
		return "the server does not speak TLS at this address: check host and port, or switch TLS on at the server"
	case ownFiles:
		return fmt.Sprintf("see to the files of %s, and to those of %s: they are read again for each connection, without a restart", keys.CA, keys.Client)
	}
	return ""
}

// fault is what is wrong with a TLS connection.
type fault int

const (
	trusted fault = iota // nothing
	unknownAuthority
	wrongName
	expired
	unfitCertificate
	refusedOurs
	noTLS
	ownFiles
)

func tlsFault(err error) fault {
	if errors.Is(err, config.ErrTLSFiles) {
		return ownFiles
	}
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return unknownAuthority
	}
	if _, is := errors.AsType[x509.HostnameError](err); is {
		return wrongName
	}
	if invalid, is := errors.AsType[x509.CertificateInvalidError](err); is && invalid.Reason == x509.Expired {
		return expired
	}
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); is {
		return unfitCertificate
	}
	if _, is := errors.AsType[tls.AlertError](err); is {
		return refusedOurs
	}
	// An alert over TCP has a type that is not exported. A server that is in trouble itself says "internal error".
	if op, is := errors.AsType[*net.OpError](err); is && op.Op == "remote error" && !strings.Contains(op.Err.Error(), "internal error") {
		return refusedOurs
	}
	if _, is := errors.AsType[tls.RecordHeaderError](err); is || errors.Is(err, postgres.ErrNoTLS) || errors.Is(err, http.ErrSchemeMismatch) {
		return noTLS
	}
	return trusted
}
