package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

func newClient(t *testing.T, cfg Config, more ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts, err := cfg.Options(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(append(opts, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestConfigStruct(t *testing.T) {
	config.CheckStruct(t, Config{})
	faulty := func(yaml, want string) {
		t.Helper()
		var c Config
		err := config.Decode("x.yaml", []byte(yaml), &c)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
	faulty("brokers: [localhost:9092]\nsasl: {mechanism: plain, username: u, password: p}", "")
	faulty("{}", "brokers")
	faulty("brokers: [localhost]", `brokers[0]: "localhost"`)
	faulty("brokers: [a:1]\nsasl: {mechanism: plain}", "needs username and password")
	faulty("brokers: [a:1]\nsasl: {username: u, password: p}", "have no effect")
	faulty("brokers: [a:1]\nsasl: {mechanism: OAUTHBEARER}", `did you mean "oauthbearer"?`)
	const grant = "oauth: {token_url: 'https://id/token', client_id: a, client_secret: b}"
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, token: 'file:/t', extensions: [logicalCluster=lkc-1, identityPoolId=pool=1]}", "")
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, "+grant+"}", "")
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer}", "sasl.mechanism  needs token: file:/path, or oauth with token_url")
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, username: u, password: p}", "username and password have no effect")
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, token: t, username: u}", "username and password have no effect")
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, token: t, "+grant+"}", "sasl.token  stands beside oauth.token_url")
	faulty("brokers: [a:1]\nsasl: {mechanism: plain, username: u, password: p, token: t}", "token, oauth and extensions have no effect; write oauthbearer")
	faulty("brokers: [a:1]\nsasl: {"+grant+"}", "sasl.mechanism  uses no token")
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, oauth: {client_id: a}}", "sasl.oauth.token_url  missing")
	for _, extension := range []string{"logicalCluster", "=a", "a=", "auth=b", "a b=c", "a=é"} {
		faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, token: t, extensions: [x=y, \""+extension+"\"]}", "sasl.extensions[1]")
	}
	faulty("brokers: [a:1]\nsasl: {mechanism: oauthbearer, token: t, extensions: [a=b, a=c]}", "sasl.extensions[1]: \"a=c\"  not name=value")
	faulty("brokers: [a:1]\nsasl: {mechanism: scram-sha512}", `not one of plain, scram-sha-256, scram-sha-512, oauthbearer; did you mean "scram-sha-512"?`)
}

// TestSASL logs in by every mechanism, is refused with a wrong password, and takes up a rotated one.
func TestSASL(t *testing.T) {
	cluster := kafkatest.Fake(t, kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "u", "right"), kfake.Superuser("SCRAM-SHA-256", "u", "right"), kfake.Superuser("SCRAM-SHA-512", "u", "right"))
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		file := filepath.Join(t.TempDir(), "password")
		cfg := Config{
			Brokers: cluster.Addrs(), ClientID: "test",
			SASL: SASL{Mechanism: mechanism, Username: "u", Password: config.Secret("file:" + file)},
		}
		if _, err := cfg.Options(slog.Default()); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: password file absent: got %v", mechanism, err)
		}
		write := func(password string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("")
		if _, err := cfg.Options(slog.Default()); trouble.CodeOf(err) != trouble.KafkaAuth || !strings.Contains(err.Error(), "it is empty") {
			t.Errorf("%s: password file empty: got %v", mechanism, err)
		}
		write("wrong")
		client := newClient(t, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := Ping(ctx, client); err == nil { // kfake hangs up where Kafka says why
			t.Errorf("%s: a wrong password was taken", mechanism)
		}
		write("right")
		if err := Ping(ctx, client); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
	}
}

// TestOAuthBearer logs in at Apache Kafka with a token from a file, is refused with one that the broker does not take, and with
// one that has expired; and takes up the next one where it is asked to log in again.
func TestOAuthBearer(t *testing.T) {
	authority := certtest.New(t)
	cluster := kafkatest.Secure(t, authority)
	file := filepath.Join(t.TempDir(), "token")
	cfg := Config{
		Brokers: cluster.OAuth(), ClientID: "test", TLS: config.TLS{Enabled: true, CA: authority.File},
		SASL: SASL{Mechanism: "oauthbearer", Token: config.Secret("file:" + file), Extensions: []string{"logicalCluster=lkc-1"}},
	}
	if _, err := cfg.Options(slog.Default()); trouble.CodeOf(err) != trouble.KafkaAuth || !strings.Contains(err.Error(), file) {
		t.Errorf("token file absent: got %v", err)
	}
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	refused := func(what, token, cause, hint string) {
		t.Helper()
		write(token)
		client := newClient(t, cfg)
		defer client.Close()
		err := Ping(ctx, client)
		e, ok := errors.AsType[*trouble.Error](err)
		if !ok || e.Code != trouble.KafkaAuth || !strings.Contains(e.Error(), cause) || !strings.Contains(e.Hint, hint) {
			t.Errorf("%s: %v", what, err)
		}
	}
	good := func(life time.Duration) string { return cluster.Token(t, "somebody", life, nil) }
	forged := good(time.Hour)
	refused("for another broker", cluster.Token(t, "somebody", time.Hour, map[string]any{"aud": "elsewhere"}), "invalid_token", "audience")
	refused("signed by nobody", forged[:strings.LastIndexByte(forged, '.')]+"."+strings.Repeat("A", 342), "invalid_token", "signature")
	refused("up just now", good(-time.Second), "invalid_token", "time")
	write(good(time.Hour))
	if _, err := cfg.Options(slog.Default()); err != nil {
		t.Fatal(err)
	}
	write(good(15 * time.Second)) // a busy broker takes some of them to answer
	client := newClient(t, cfg)
	if err := Ping(ctx, client); err != nil {
		t.Fatal(err)
	}
	// The broker wants another login before the token's end, on the connection that is there.
	write(good(-time.Hour))
	var err error
	for ; err == nil; time.Sleep(20 * time.Millisecond) {
		err = Ping(ctx, client)
	}
	if trouble.CodeOf(err) != trouble.KafkaAuth || !strings.Contains(err.Error(), "read kafka.sasl.token: the token has expired") {
		t.Errorf("another login: %v", err)
	}
	write(good(time.Hour))
	if err := Ping(ctx, client); err != nil {
		t.Errorf("with another token: %v", err)
	}
	if user := cfg.user(); user != "somebody" {
		t.Errorf("hints give rights to %q", user)
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	var log bytes.Buffer
	opts, err := Config{Brokers: []string{address}, ClientID: "test"}.Options(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(append(opts, kgo.RequestRetries(0))...)
	if err != nil {
		t.Fatal(err)
	}
	err = Ping(t.Context(), client)
	client.Close() // the log is ours again
	if trouble.CodeOf(err) != trouble.KafkaUnreachable || !strings.Contains(err.Error(), address) {
		t.Errorf("got code %q: %v", trouble.CodeOf(err), err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "kafka client: ") || strings.Contains(log.String(), "level=INFO") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestTLSIsSpoken(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	first := make(chan byte, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		var b [1]byte
		if _, err := conn.Read(b[:]); err == nil {
			first <- b[0]
		}
	}()
	cfg := Config{Brokers: []string{listener.Addr().String()}, TLS: config.TLS{Enabled: true}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := newClient(t, cfg, kgo.RequestRetries(0))
	go func() { _ = client.Ping(ctx) }()
	select {
	case b := <-first:
		const handshake = 22 // RFC 8446, 5.1
		if b != handshake {
			t.Errorf("the first byte is %d, want that of a TLS handshake", b)
		}
	case <-ctx.Done():
		t.Error("no connection")
	}
	cfg.TLS.CA = "/absent/ca.pem"
	if _, err := cfg.Options(slog.Default()); err == nil || !strings.Contains(err.Error(), "/absent/ca.pem") {
		t.Errorf("absent CA file: got %v", err)
	}
}

func TestEnsureTopic(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, cluster kafkatest.Cluster) {
		client := newClient(t, Config{Brokers: cluster.Addrs(), ClientID: "test"})
		admin := kadm.NewClient(client)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ensure := func(topic Topic, wantPartitions int32) TopicID {
			t.Helper()
			partitions, id, err := EnsureTopic(ctx, client, topic)
			if err != nil || partitions != wantPartitions {
				t.Fatalf("got %d, %v; want %d", partitions, err, wantPartitions)
			}
			if id == (TopicID{}) {
				t.Error("no topic ID")
			}
			return id
		}
		// The real broker may be the whole process's: a second run must not find the first one's topic.
		topic := Topic{Name: fmt.Sprintf("shop.public.orders%d", time.Now().UnixNano()), Partitions: 3, Replication: -1, Configs: map[string]string{
			"cleanup.policy": "compact", "max.message.bytes": "12345",
		}}
		id := ensure(topic, 3)
		configs, err := admin.DescribeTopicConfigs(ctx, topic.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range configs[0].Configs {
			if want, ours := topic.Configs[c.Key]; ours && *c.Value != want {
				t.Errorf("%s is %s, want %s", c.Key, *c.Value, want)
			}
		}
		// Another partition count is told, not made true.
		topic.Partitions = 5
		if again := ensure(topic, 3); again != id {
			t.Errorf("topic ID changed from %v to %v", id, again)
		}
		// A topic of the same name made again is another one.
		if _, err := admin.DeleteTopics(ctx, topic.Name); err != nil {
			t.Fatal(err)
		}
		for {
			partitions, again, err := EnsureTopic(ctx, client, topic)
			if err == nil && partitions == 5 {
				if again == id {
					t.Error("the same topic ID after the topic was made again")
				}
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("got %d partitions, %v", partitions, err)
			}
		}
		_, _, err = EnsureTopic(ctx, client, Topic{Name: "none", Partitions: 0, Replication: -1})
		if !errors.Is(err, kerr.InvalidPartitions) || !strings.HasPrefix(err.Error(), `create topic "none": `) {
			t.Errorf("got %v", err)
		}
	})
}

// TestEnsureTopicRace: instances that start together agree.
func TestEnsureTopicRace(t *testing.T) {
	cluster := kafkatest.Fake(t)
	type result struct {
		partitions int32
		id         TopicID
		err        error
	}
	results := make(chan result)
	const instances = 8
	for range instances {
		client := newClient(t, Config{Brokers: cluster.Addrs()})
		go func() {
			partitions, id, err := EnsureTopic(t.Context(), client, Topic{Name: "t", Partitions: 2, Replication: 1})
			results <- result{partitions, id, err}
		}()
	}
	first := <-results
	if first.err != nil || first.partitions != 2 {
		t.Errorf("got %+v", first)
	}
	for range instances - 1 {
		if r := <-results; r != first {
			t.Errorf("got %+v and %+v", first, r)
		}
	}
}

func TestTroubleCodes(t *testing.T) {
	coded := func(err error, want trouble.Code) {
		t.Helper()
		got := Trouble("produce to", `topic "t"`, fmt.Errorf("wrapped: %w", err))
		if got.Code != want || !errors.Is(got, err) {
			t.Errorf("%v: got code %q, want %q", err, got.Code, want)
		}
		if !strings.HasPrefix(got.Error(), `produce to topic "t": wrapped: `) {
			t.Errorf("%v", got)
		}
	}
	coded(kerr.ProducerFenced, trouble.Fenced)
	coded(kerr.InvalidProducerEpoch, trouble.Fenced)
	coded(kerr.SaslAuthenticationFailed, trouble.KafkaAuth)
	coded(kerr.TransactionalIDAuthorizationFailed, trouble.KafkaNotAuthorised)
	coded(kerr.GroupAuthorizationFailed, trouble.KafkaNotAuthorised)
	coded(kerr.MessageTooLarge, trouble.RecordTooLarge)
	coded(kerr.InvalidTopicException, trouble.TopicName)
	coded(kerr.InconsistentTopicID, trouble.TopicRecreated)
	coded(kerr.OffsetOutOfRange, trouble.TopicTruncated)
	coded(&kgo.ErrDataLoss{}, trouble.TopicTruncated)
	coded(kerr.LeaderNotAvailable, trouble.KafkaUnreachable)
	coded(kerr.InvalidReplicationFactor, trouble.KafkaUnreachable)
	coded(kerr.NotEnoughReplicas, trouble.KafkaNotEnoughReplicas)
	coded(kerr.NotEnoughReplicasAfterAppend, trouble.KafkaNotEnoughReplicas)
	coded(&net.OpError{Op: "dial", Err: errors.New("refused")}, trouble.KafkaUnreachable)
	coded(kerr.InvalidRecord, trouble.KafkaProduce)
	coded(kgo.ErrMaxBuffered, trouble.KafkaProduce)
	already := &trouble.Error{Code: trouble.Gap, Op: "x"}
	if got := Trouble("y", "z", fmt.Errorf("w: %w", already)); got != already {
		t.Errorf("got %v", got)
	}
}
