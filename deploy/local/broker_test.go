package local

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What a broker was told is there when it is started again at the same place, under the same addresses.
func TestBrokerKeepsItsData(t *testing.T) {
	cfg := BrokerConfig{Dir: t.TempDir()}
	start := func() *Broker {
		t.Helper()
		b, err := StartBroker(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		return b
	}
	b := start()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, "topic"); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "topic", Value: []byte("kept")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if got := post(t, b.RegistryURL()+"/subjects/topic-value/versions", `{"schema": "\"string\""}`); !strings.Contains(got, `"id":1`) {
		t.Fatalf("register a schema: %s", got)
	}

	if second, err := StartBroker(cfg); err == nil {
		_ = second.Close()
		t.Fatal("two brokers share a directory")
	}

	cfg.Kafka, cfg.Registry = b.Addrs()[0], strings.TrimPrefix(b.RegistryURL(), "http://")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := start()
	if got, want := again.Addrs()[0]+again.RegistryURL(), b.Addrs()[0]+b.RegistryURL(); got != want {
		t.Errorf("it listens at %s, not at %s", got, want)
	}
	client, err = kgo.NewClient(kgo.SeedBrokers(cfg.Kafka), kgo.ConsumeTopics("topic"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fetches := client.PollFetches(t.Context())
	if records := fetches.Records(); fetches.Err() != nil || len(records) != 1 || string(records[0].Value) != "kept" {
		t.Errorf("it has %d records (%v), want the one it was given", len(records), fetches.Err())
	}
	if got := get(t, again.RegistryURL()+"/schemas/ids/1"); !strings.Contains(got, "string") {
		t.Errorf("schema 1 is %s", got)
	}
}

// A registry by itself has what it was told, or what a broker's was, and shares its directory with neither.
func TestRegistryKeepsItsData(t *testing.T) {
	dir := t.TempDir()
	for _, schema := range []string{`"string"`, `"long"`} {
		r, err := StartRegistry(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		post(t, r.URL()+"/subjects/topic-key/versions", `{"schema": "\"string\""}`)
		post(t, r.URL()+"/subjects/topic-value/versions", `{"schema": `+strconv.Quote(schema)+`}`)
		if second, err := StartBroker(BrokerConfig{Dir: dir}); err == nil {
			_ = second.Close()
			t.Fatal("a broker shares the directory of a registry")
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := StartBroker(BrokerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, b.RegistryURL()+"/subjects/topic-value/versions"); !strings.Contains(got, "[1,2]") {
		t.Errorf("it has the versions %s", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func post(t *testing.T, url, body string) string {
	t.Helper()
	return request(t, http.MethodPost, url, bytes.NewBufferString(body))
}

func get(t *testing.T, url string) string {
	t.Helper()
	return request(t, http.MethodGet, url, http.NoBody)
}

func request(t *testing.T, method, url string, body io.Reader) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
