package kafka

import (
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// kinds maps brokers' errors to troubles; what is in none is judged by Trouble.
var kinds = []struct {
	code   trouble.Code
	hint   string
	errors []error
}{
	{
		code: trouble.Fenced,
		hint: "another instance with this name took over: stop one of the two",
		errors: []error{
			kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.TransactionCoordinatorFenced, kerr.FencedInstanceID,
		},
	},
	{
		code:   trouble.KafkaAuth,
		hint:   "check kafka.sasl and kafka.tls, and that the user exists at the broker; of a token that it refuses the broker's log says why: its issuer, audience, signature or time",
		errors: []error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState},
	},
	{
		code: trouble.KafkaNotAuthorised,
		hint: "grant the right with kafka-acls.sh --add --allow-principal User:… on what is named above",
		errors: []error{
			kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
			kerr.TransactionalIDAuthorizationFailed, kerr.PolicyViolation,
		},
	},
	{
		code:   trouble.KafkaUnreachable,
		hint:   "as many brokers must be up as the topic is to have replicas: start them, or lower topics.replication",
		errors: []error{kerr.InvalidReplicationFactor},
	},
	{
		code:   trouble.KafkaNotEnoughReplicas,
		hint:   "start the brokers that are down, or wait until their replicas have caught up: it goes on by itself",
		errors: []error{kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend},
	},
	{
		code:   trouble.RecordTooLarge,
		hint:   "raise max.message.bytes of the topic",
		errors: []error{kerr.MessageTooLarge, kerr.RecordListTooLarge},
	},
	{
		code:   trouble.KafkaProduce,
		hint:   "set the clocks of this host and of the brokers right, or raise message.timestamp.after.max.ms and message.timestamp.before.max.ms of the topic",
		errors: []error{kerr.InvalidTimestamp},
	},
	{
		code:   trouble.TopicName,
		errors: []error{kerr.InvalidTopicException},
	},
	{
		code:   trouble.TopicRecreated,
		hint:   "a topic was deleted: capture makes it anew within a minute and goes on by itself; then a sink says what is to be done for its table",
		errors: []error{kerr.UnknownTopicID, kerr.InconsistentTopicID},
	},
	{
		code:   trouble.TopicTruncated,
		errors: []error{kerr.OffsetOutOfRange},
	},
}

// Trouble gives err, which must not be nil, the form and the code in which people meet it. What already is a trouble
// keeps its code. No broker in reach, or none ready, is trouble.KafkaUnreachable (what retry.Transient calls transient);
// what else goes wrong is trouble.KafkaProduce.
func Trouble(op, subject string, err error) *trouble.Error {
	if already, ok := errors.AsType[*trouble.Error](err); ok {
		return already
	}
	out := &trouble.Error{Op: op, Subject: subject, Cause: err}
	for _, kind := range kinds {
		if slices.ContainsFunc(kind.errors, func(known error) bool { return errors.Is(err, known) }) {
			out.Code, out.Hint = kind.code, kind.hint
			return out
		}
	}
	_, lost := errors.AsType[*kgo.ErrDataLoss](err)
	_, hungUp := errors.AsType[*kgo.ErrFirstReadEOF](err)
	untrusted := retry.TLSHint(err, retry.TLSKeys{CA: "kafka.tls.ca", Name: "kafka.brokers and kafka.tls.server_name", Client: "kafka.tls.cert and kafka.tls.key"})
	switch {
	case lost:
		out.Code = trouble.TopicTruncated
	case untrusted != "":
		out.Code, out.Hint = trouble.KafkaAuth, untrusted
	case hungUp:
		out.Code = trouble.KafkaUnreachable
		out.Hint = "the broker ended the connection at once: does it want TLS (kafka.tls) or a login (kafka.sasl)? Else check that it runs well"
	case retry.Transient(err):
		out.Code = trouble.KafkaUnreachable
		out.Hint = "check kafka.brokers, the network between, and that the brokers run"
	default:
		out.Code = trouble.KafkaProduce
	}
	return out
}
