package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
)

// acls gives the commands for kafka-acls.sh in a text, each in one line without the broker's address.
func acls(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if _, command, ok := strings.Cut(line, "kafka-acls.sh "); ok {
			words := strings.Fields(command)
			if i := slices.Index(words, "--bootstrap-server"); i >= 0 {
				words = slices.Delete(words, i, i+2)
			}
			found[strings.Join(words, " ")] = true
		}
	}
	return found
}

// grant does what kafka-acls.sh would, and waits until it is so: who takes it is the controller, which tells the broker later.
func grant(t *testing.T, broker *kafkatest.SecureCluster, command string) {
	t.Helper()
	acl := kadm.NewACLs().ResourcePatternType(kadm.ACLPatternLiteral).AllowHosts()
	var operations []kadm.ACLOperation
	words := strings.Fields(strings.ReplaceAll(command, "'", ""))
	for i := 0; i < len(words); i++ {
		if words[i] == "--add" {
			continue
		}
		value := words[i+1]
		switch words[i] {
		case "--allow-principal":
			acl.Allow(value)
		case "--operation":
			op, err := kmsg.ParseACLOperation(strings.ToUpper(value))
			must(t, err)
			operations = append(operations, op)
		case "--topic":
			acl.Topics(value)
		case "--group":
			acl.Groups(value)
		case "--transactional-id":
			acl.TransactionalIDs(value)
		case "--resource-pattern-type":
			acl.ResourcePatternType(kadm.ACLPatternPrefixed)
		default:
			t.Fatalf("%q is not understood in %s", words[i], command)
		}
		i++
	}
	results, err := broker.Admin().CreateACLs(t.Context(), acl.Operations(operations...))
	must(t, err)
	for _, r := range results {
		must(t, r.Err)
	}
	for deadline := time.Now().Add(pgtest.Patience); ; time.Sleep(20 * time.Millisecond) {
		described, err := broker.Admin().DescribeACLs(t.Context(), acl)
		must(t, err)
		if !slices.ContainsFunc(described, func(r kadm.DescribeACLsResult) bool { return len(r.Described) == 0 }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the broker does not know of %s: %+v", command, described)
		}
	}
}

// TestACLsOfSecurityPage runs capture and sink on Apache Kafka with TLS, logins and ACLs: from no rights on, what an error
// says is pasted, until both work; and that is what the page lists. Wrong passwords are refused, and changed ones are taken up.
func TestACLsOfSecurityPage(t *testing.T) {
	documented := acls(block(t, readPage(t, "docs/security.md"), "sh"))
	authority, said := certtest.New(t), &said{}
	broker := kafkatest.Secure(t, authority)
	dir := t.TempDir()
	w := &secured{t: t, dir: dir, said: said, secrets: map[string]string{}}
	for _, user := range []string{"capture", "sink"} {
		must(t, broker.SetUser(t.Context(), user, w.secret(user)))
	}
	postgres := pgtest.New(t, pgtest.Options{})
	must(t, postgres.CreateDatabase(t.Context(), "shop"))
	must(t, postgres.CreateDatabase(t.Context(), "dwh"))
	execute(t, postgres.DSN("shop"), `create table orders (id int primary key); insert into orders values (1)`)
	shared := func(user string) string {
		return fmt.Sprintf(`
kafka:
  brokers: [%q]
  tls: {enabled: true, ca: %q}
  sasl: {mechanism: scram-sha-512, username: %s, password: "file:%s/%s"}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, broker.SASL()[0], authority.File, user, dir, user, kafkatest.Registry(t))
	}
	decode(t, &w.capture, shared("capture")+fmt.Sprintf("source: {name: shop, dsn: %q, tables: [\"public.*\"], heartbeat: 500ms}\n", postgres.DSN("shop")))
	decode(t, &w.sink, shared("sink")+fmt.Sprintf("warehouse: {dsn: %q}\nsources: [{name: shop}]\ntables: [{from: \"public.*\", to: \"{source}.{table}\"}]\nrefresh: 200ms\n", postgres.DSN("dwh")))
	w.sink.Registry = w.capture.Registry

	w.refused("capture: wrong password", w.runCapture(func(c *capture.Config) { c.Kafka.SASL.Password = "hush-wrong" }), trouble.KafkaAuth, "SASL_AUTHENTICATION_FAILED", "kafka.sasl")
	w.refused("sink: wrong password", w.runSink(func(c *sink.Config) { c.Kafka.SASL.Password = "hush-wrong" }), trouble.KafkaAuth, "SASL_AUTHENTICATION_FAILED", "kafka.sasl")
	w.refused("capture: no such user", w.runCapture(func(c *capture.Config) { c.Kafka.SASL.Username = "nobody" }), trouble.KafkaAuth, "SASL_AUTHENTICATION_FAILED", "kafka.sasl")
	for what, pair := range map[string]certtest.Pair{"of another authority": certtest.New(t).Issue(t, "sink"), "that has expired": authority.Expired(t, "sink")} {
		w.refused("sink: a client's certificate "+what, w.runSink(func(c *sink.Config) {
			c.Kafka.Brokers = broker.Mutual()
			c.Kafka.SASL.Mechanism, c.Kafka.TLS.Cert, c.Kafka.TLS.Key = "", pair.Cert, pair.Key
		}), trouble.KafkaAuth, "tls", "kafka.tls.cert")
	}

	untrusted := func(what string, change func(*kafka.Config), cause, hint string) {
		t.Helper()
		w.refused("capture: "+what, w.runCapture(func(c *capture.Config) { change(&c.Kafka) }), trouble.KafkaAuth, cause, hint)
		w.refused("sink: "+what, w.runSink(func(c *sink.Config) { change(&c.Kafka) }), trouble.KafkaAuth, cause, hint)
	}
	untrusted("another authority", func(c *kafka.Config) { c.TLS.CA = certtest.New(t).File }, "unknown authority", "kafka.tls.ca")
	untrusted("another host name", func(c *kafka.Config) { c.TLS.ServerName = "elsewhere" }, "elsewhere", "kafka.tls.server_name")
	untrusted("expired certificate", func(c *kafka.Config) { c.Brokers = broker.Expired() }, "expired", "renewed")

	// What the errors say is pasted, until nothing is wrong.
	pasted := map[string]bool{}
	paste := func(text string) (n int) {
		for command := range acls(text) {
			if !pasted[command] {
				grant(t, broker, command)
				pasted[command], n = true, n+1
			}
		}
		return n
	}
	ended := make(chan error, 1)
	var stop context.CancelFunc
	for tries := 0; ; tries++ {
		ctx, cancel := context.WithCancel(context.Background())
		stop = cancel
		c, err := capture.New(w.capture, capture.Options{}, said.log())
		must(t, err)
		go func() { ended <- c.Run(ctx) }()
		if err := w.streams(c, ended); err == nil {
			break
		} else if e, ok := errors.AsType[*trouble.Error](err); !ok || e.Code != trouble.KafkaNotAuthorised || tries > 4 || paste(e.Hint) == 0 {
			cancel()
			t.Fatalf("%v: nothing to paste in the hint", err)
		}
		cancel()
	}
	end := func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("capture ended: %v", err)
		}
	}
	defer func() { end() }()
	for tries := 0; ; tries++ {
		out := &strings.Builder{}
		if err := sink.Check(t.Context(), w.sink, terminal.NewCheck("sink", out)); err != nil {
			t.Logf("sink check: %v", err)
		}
		if paste(out.String()) == 0 {
			break
		}
		if tries > 4 {
			t.Fatalf("sink check goes on asking:\n%s", out)
		}
	}
	if !maps.Equal(pasted, documented) {
		t.Errorf("errors ask for %q,\nthe page lists %q", slices.Sorted(maps.Keys(pasted)), slices.Sorted(maps.Keys(documented)))
	}
	run(t, "sink", func(ctx context.Context) error { return w.runSink(func(*sink.Config) {})(ctx) })
	count := `select count(*)::text from shop.orders`
	arrives(t, postgres.DSN("dwh"), count, "1")

	// Passwords are changed at the broker first, and then in the files.
	for _, user := range []string{"capture", "sink"} {
		next := "hush-next-" + user
		w.secrets[next] = next
		must(t, broker.SetUser(t.Context(), user, next))
		from := len(said.String())
		for deadline := time.Now().Add(pgtest.Patience); !strings.Contains(said.String()[from:], "SASL_AUTHENTICATION_FAILED"); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not notice", user)
			}
		}
		w.keep(user, next)
	}
	execute(t, postgres.DSN("shop"), `insert into orders values (2)`)
	arrives(t, postgres.DSN("dwh"), count, "2")
	arrives(t, postgres.DSN("dwh"), `select count(*)::text from tributary.quarantine`, "0")

	// With a client's certificate, as another user and another group.
	pair := authority.Issue(t, "other-sink")
	mutual := w.sink
	mutual.Group, mutual.Kafka.Brokers = "other", broker.Mutual()
	mutual.Kafka.SASL.Mechanism, mutual.Kafka.SASL.Username, mutual.Kafka.SASL.Password = "", "", ""
	mutual.Kafka.TLS.Cert, mutual.Kafka.TLS.Key = pair.Cert, pair.Key
	must(t, postgres.CreateDatabase(t.Context(), "copy"))
	mutual.Warehouse.DSN = config.Secret(postgres.DSN("copy"))
	for _, command := range []string{
		`--add --allow-principal User:CN=other-sink --operation Describe --operation Read --group other`,
		`--add --allow-principal User:CN=other-sink --operation Describe --operation Read --topic shop. --resource-pattern-type prefixed`,
	} {
		grant(t, broker, command)
	}
	w.sink = mutual
	run(t, "other sink", func(ctx context.Context) error { return w.runSink(func(*sink.Config) {})(ctx) })
	arrives(t, postgres.DSN("copy"), count, "2")

	// So does the capture, as another user.
	end()
	end = func() {}
	pair = authority.Issue(t, "other-capture")
	w.capture.Kafka.Brokers, w.capture.Kafka.SASL = broker.Mutual(), kafka.SASL{}
	w.capture.Kafka.TLS.Cert, w.capture.Kafka.TLS.Key = pair.Cert, pair.Key
	for command := range documented {
		if strings.Contains(command, "User:capture ") {
			grant(t, broker, strings.Replace(command, "User:capture ", "User:CN=other-capture ", 1))
		}
	}
	run(t, "other capture", w.runCapture(func(*capture.Config) {}))
	execute(t, postgres.DSN("shop"), `insert into orders values (3)`)
	arrives(t, postgres.DSN("copy"), count, "3")
	w.noSecrets(false)
}

// streams waits until the capture streams and has published all rows, or has ended.
func (w *secured) streams(c *capture.Capture, ended chan error) error {
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			w.tell(err)
			return err
		default:
		}
		if st := c.Status(); st.Snapshot.Tables > 0 && st.Snapshot.TablesDone == st.Snapshot.Tables {
			return nil
		} else if time.Now().After(deadline) {
			return fmt.Errorf("it does not stream: %+v", st)
		}
	}
}
