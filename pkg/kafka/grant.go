package kafka

import (
	"crypto/tls"
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Right is what a service needs at the brokers.
type Right struct {
	Resource   Resource
	Name       string
	Prefixed   bool // Name is the beginning of names
	Operations []string
}

// Resource is a kind of what rights are given on, as kafka-acls.sh calls it.
type Resource string

// The resources.
const (
	OnTopics          Resource = "--topic"
	OnGroup           Resource = "--group"
	OnTransactionalID Resource = "--transactional-id"
)

// Grant gives err with a hint of the commands that give the rights whose lack it tells of. Any other error is returned as it is.
func (c Config) Grant(err error, rights []Right) error {
	t, ok := errors.AsType[*trouble.Error](err)
	if !ok || t.Code != trouble.KafkaNotAuthorised {
		return err
	}
	var resource Resource
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed): // of making a topic
		resource = OnTopics
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		resource = OnGroup
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		resource = OnTransactionalID
	}
	commands := c.Commands(resource, rights)
	if len(commands) == 0 {
		return err
	}
	granted := *t
	granted.Hint = strings.Join(commands, "\n")
	return &granted
}

// Commands gives those that give the rights on one kind of resource.
func (c Config) Commands(resource Resource, rights []Right) (commands []string) {
	for _, r := range rights {
		if r.Resource == resource {
			commands = append(commands, c.command(r))
		}
	}
	return commands
}

func (c Config) command(r Right) string {
	words := []string{"kafka-acls.sh", "--bootstrap-server", c.Brokers[0], "--add", "--allow-principal", "User:" + c.user()}
	for _, o := range r.Operations {
		words = append(words, "--operation", o)
	}
	words = append(words, string(r.Resource), r.Name)
	if r.Prefixed {
		words = append(words, "--resource-pattern-type", "prefixed")
	}
	for i, word := range words {
		words[i] = service.Quote(word)
	}
	return strings.Join(words, " ")
}

// user is whom the brokers take us for, where they do not map names.
func (c Config) user() string {
	if c.SASL.Username != "" {
		return c.SASL.Username
	}
	if c.SASL.Mechanism == oauthbearer {
		return c.SASL.subject()
	}
	if c.TLS.Cert != "" {
		if pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err == nil && pair.Leaf != nil {
			return pair.Leaf.Subject.String()
		}
	}
	return "ANONYMOUS"
}
