package registry

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

const (
	one = `{"type":"record","name":"R","fields":[{"name":"a","type":"int","pg.name":"a"}]}`
	two = `{"type":"record","name":"R","fields":[{"name":"a","type":"int","pg.name":"A"}]}`
)

// counted gives a registry and the number of requests that it got.
func counted(t *testing.T) (*srfake.Registry, string, *atomic.Int64) {
	t.Helper()
	fake := srfake.New()
	t.Cleanup(fake.Close)
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		fake.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return fake, server.URL, &n
}

func client(t *testing.T, c config.Registry) *Client {
	t.Helper()
	cl, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestRegisterAndSchema(t *testing.T) {
	_, url, requests := counted(t)
	ctx := context.Background()
	c := client(t, config.Registry{URL: url})
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	a, err := c.Register(ctx, "shop.public.t-value", one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Register(ctx, "shop.public.t-value", two)
	if err != nil {
		t.Fatal(err)
	}
	if a == b || a == 0 || b == 0 {
		t.Fatalf("schemas that differ in a property have the ids %d and %d", a, b)
	}
	for id, want := range map[int]string{a: one, b: two} {
		if got, err := c.Schema(ctx, id); err != nil || got != want {
			t.Fatalf("schema %d is %s, %v; want %s", id, got, err, want)
		}
	}

	before := requests.Load()
	for range 3 {
		if id, err := c.Register(ctx, "shop.public.t-value", one); id != a || err != nil {
			t.Fatalf("registered again: %d, %v; want %d", id, err, a)
		}
		if _, err := c.Schema(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	if n := requests.Load() - before; n != 0 {
		t.Fatalf("%d requests for what was known", n)
	}
	// A client that remembers nothing gets the same id.
	if id, err := client(t, config.Registry{URL: url}).Register(ctx, "shop.public.t-value", one); id != a || err != nil {
		t.Fatalf("another client: %d, %v; want %d", id, err, a)
	}
}

// What is not there now may be there soon: a sink can be ahead of a registry's replica.
// TestRenewedFilesOfTLS keeps a client while the registry goes over to another authority, for its certificate and for those of its clients.
func TestRenewedFilesOfTLS(t *testing.T) {
	first, second := certtest.New(t), certtest.New(t)
	var now atomic.Pointer[tls.Config]
	trust := func(a *certtest.Authority) {
		cfg := a.Issue(t, "registry", "localhost").Server(t)
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, a.Pool()
		now.Store(cfg)
	}
	trust(first)
	url := kafkatest.SecureRegistry(t, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil }},
		func(string, string) bool { return true })
	pair := first.Issue(t, "pipeline")
	c := client(t, config.Registry{URL: url, Username: "a", Password: "b", TLS: config.TLS{Enabled: true, CA: first.File, Cert: pair.Cert, Key: pair.Key}})
	pings := func(what string) {
		t.Helper()
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what, hint string) {
		t.Helper()
		c.Close() // what is idle
		if e := Trouble("ask", "the registry", c.Ping(t.Context())); e.Code != trouble.RegistryAuth || !strings.Contains(e.Hint, hint) {
			t.Errorf("%s: %v (%s), hint %s", what, e, e.Code, e.Hint)
		}
	}
	pings("first")
	trust(second)
	refused("another authority at the registry alone", "registry.tls.ca")
	certtest.Copy(t, second.File, first.File)
	refused("a certificate of the first one", "registry.tls.cert")
	second.Issue(t, "pipeline").Replace(t, pair)
	pings("with all of the second authority")
	if err := os.Remove(pair.Key); err != nil {
		t.Fatal(err)
	}
	refused("no key", "registry.tls.key: they are read again")
}

func TestUnknownSchemaIsAskedAgain(t *testing.T) {
	fake, url, _ := counted(t)
	ctx := context.Background()
	c := client(t, config.Registry{URL: url})
	if _, err := c.Schema(ctx, 41); !errors.Is(err, ErrUnknownSchema) || !strings.Contains(err.Error(), "41") {
		t.Fatalf("schema that is not there: %v", err)
	}
	fake.SeedSchema("s-value", 1, 41, sr.Schema{Schema: one})
	if got, err := c.Schema(ctx, 41); err != nil || got != one {
		t.Fatalf("once it is there: %s, %v", got, err)
	}
	fake.SeedSchema("p-value", 1, 42, sr.Schema{Schema: `syntax = "proto3";`, Type: sr.TypeProtobuf})
	if _, err := c.Schema(ctx, 42); !errors.Is(err, ErrInvalidSchema) {
		t.Fatalf("schema that is not Avro: %v", err)
	}
}

func TestErrors(t *testing.T) {
	ctx := context.Background()
	f := func(status int, body string, want error) {
		t.Helper()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		defer server.Close()
		c := client(t, config.Registry{URL: server.URL})
		_, errRegister := c.Register(ctx, "s-value", one)
		_, errSchema := c.Schema(ctx, 1)
		errPing := c.Ping(ctx)
		for _, err := range []error{errRegister, errSchema, errPing} {
			if err == nil {
				t.Fatalf("status %d gives no error", status)
			}
			for _, e := range []error{ErrIncompatible, ErrInvalidSchema, ErrTooLarge, ErrUnknownSchema} {
				if errors.Is(err, e) != errors.Is(e, want) {
					t.Fatalf("status %d, %s: %v", status, body, err)
				}
			}
		}
		if !strings.Contains(errRegister.Error(), `"s-value"`) {
			t.Fatalf("the error does not name the subject: %v", errRegister)
		}
	}
	f(409, `{"error_code":409,"message":"incompatible with an earlier schema"}`, ErrIncompatible)
	f(422, `{"error_code":42201,"message":"invalid"}`, ErrInvalidSchema)
	f(413, `<html>nginx</html>`, ErrTooLarge)
	f(404, `{"error_code":40403,"message":"Schema not found"}`, ErrUnknownSchema)
	f(404, `<html>nginx</html>`, nil) // not the registry: says nothing of the schema
	f(401, `{"error_code":40101,"message":"Unauthorized"}`, nil)
	f(500, `{"error_code":50001,"message":"store"}`, nil)
}

func TestBasicAuth(t *testing.T) {
	var want atomic.Value
	want.Store("first")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "capture" || password != want.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `[]`)
	}))
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca := write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	password := write("password", []byte("first"))
	c := client(t, config.Registry{
		URL: server.URL, TLS: config.TLS{Enabled: true, CA: ca}, Username: "capture", Password: config.Secret("file:" + password),
	})
	ctx := context.Background()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	want.Store("second")
	if err := c.Ping(ctx); err == nil || strings.Contains(err.Error(), "first") {
		t.Fatalf("with the old password: %v", err)
	}
	write("password", []byte("second")) // changed while running
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(password); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("password that cannot be read: %v", err)
	}
}

func TestTrouble(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer closed.Close()
	strange := httptest.NewTLSServer(http.NotFoundHandler())
	defer strange.Close()
	is := func(url string, code trouble.Code, hint string) {
		t.Helper()
		err := client(t, config.Registry{URL: url}).Ping(t.Context())
		if err == nil {
			t.Fatal("it answers")
		}
		if got := Trouble("reach", url, err); got.Code != code || !strings.Contains(got.Hint, hint) {
			t.Errorf("%s, hint %q, want %s, %q", got.Code, got.Hint, code, hint)
		} else if n := strings.Count(got.Error(), url); n != 1 && !errors.Is(err, errRefused) {
			t.Errorf("the address stands %d times in %v", n, got)
		}
	}
	if _, err := client(t, config.Registry{URL: down.URL}).Schema(t.Context(), 7); strings.Count(err.Error(), down.URL) != 1 {
		t.Errorf("where the address stands in %v", err)
	}
	is(down.URL, trouble.RegistryUnreachable, "registry.url")
	is(closed.URL, trouble.RegistryAuth, "registry.password")
	is(strange.URL, trouble.RegistryAuth, "registry.tls.ca")
}

func TestConcurrentUse(t *testing.T) {
	_, url, _ := counted(t)
	c := client(t, config.Registry{URL: url})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 20 {
				subject := fmt.Sprintf("s%d-value", i%3)
				id, err := c.Register(context.Background(), subject, one)
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := c.Schema(context.Background(), id); err != nil || text != one {
					t.Errorf("%s, %v", text, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestLatest(t *testing.T) {
	_, url, _ := counted(t)
	ctx := context.Background()
	c := client(t, config.Registry{URL: url})
	if _, err := c.Latest(ctx, "shop.public.t-key"); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("a subject without schemas: %v, want ErrUnknownSchema", err)
	}
	for _, schema := range []string{one, two} {
		id, err := c.Register(ctx, "shop.public.t-key", schema)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Latest(ctx, "shop.public.t-key"); err != nil || got != id {
			t.Errorf("newest is %d, %v, want %d", got, err, id)
		}
	}
}

// A registry's own default must not refuse what happens to tables; what somebody has said of a subject counts.
func TestLevelOfSubjects(t *testing.T) {
	const changed = `{"type":"record","name":"R","fields":[{"name":"b","type":"string"}]}`
	for _, c := range []struct {
		name, own  string // level of the subject
		unset      string // what the registry says where the subject has no level; "" for 404
		stubborn   bool   // the registry's level counts whatever the subject's is
		forbidden  bool   // the registry lets nobody set levels
		says       string // "" where it is registered
		configured int    // requests that set a level
	}{
		{name: "none of its own", configured: 1},
		{name: "said to be NONE", unset: "NONE", configured: 1}, // as Apicurio does
		{name: "NONE is not enough", unset: "NONE", stubborn: true, says: "the registry's own must be NONE as well", configured: 1},
		{name: "its own", own: "FULL", says: "the level FULL of its own"},
		{name: "forbidden", forbidden: true, says: "set the subject's level to NONE", configured: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			level, configured := c.own, 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := func(status int, body string) {
					w.WriteHeader(status)
					fmt.Fprint(w, body)
				}
				switch {
				case r.Method == http.MethodPost && level == "NONE" && !c.stubborn:
					answer(http.StatusOK, `{"id": 7}`)
				case r.Method == http.MethodPost:
					answer(http.StatusConflict, `{"error_code": 409, "message": "incompatible"}`)
				case r.Method == http.MethodPut && c.forbidden:
					configured++
					answer(http.StatusForbidden, `{"error_code": 403, "message": "read only"}`)
				case r.Method == http.MethodPut:
					configured++
					level = "NONE"
					answer(http.StatusOK, `{"compatibility": "NONE"}`)
				case level == "" && c.unset != "":
					answer(http.StatusOK, `{"compatibilityLevel": "`+c.unset+`"}`)
				case level == "":
					answer(http.StatusNotFound, `{"error_code": 40408, "message": "none configured"}`)
				case strings.HasPrefix(r.URL.Path, "/config/s"):
					answer(http.StatusOK, `{"compatibilityLevel": "`+level+`"}`)
				}
			}))
			defer server.Close()
			id, err := client(t, config.Registry{URL: server.URL}).Register(t.Context(), "s", changed)
			switch {
			case c.says == "" && (err != nil || id != 7):
				t.Errorf("id %d, %v", id, err)
			case c.says != "" && (!errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, want ErrIncompatible that says %q", err, c.says)
			}
			if configured != c.configured {
				t.Errorf("the level was set %d times, want %d", configured, c.configured)
			}
		})
	}
}

// What a registry has lost is found out at once where something is registered, and whenever it is asked: it has the newest not any more,
// or under another id. Where it does not answer, nothing is said of it.
func TestLost(t *testing.T) {
	ctx := t.Context()
	fake, url, requests := counted(t)
	c := client(t, config.Registry{URL: url})
	if err := c.Check(ctx); err != nil || requests.Load() != 0 {
		t.Fatalf("with nothing registered: %v, %d requests", err, requests.Load())
	}
	first, err := c.Register(ctx, "a-value", one)
	if err != nil {
		t.Fatal(err)
	}
	newest, err := c.Register(ctx, "b-value", two)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests for two schemas and a look", n)
	}
	lost := func(said string) {
		t.Helper()
		if err := c.Check(ctx); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), said) {
			t.Errorf("%v, want %q", err, said)
		}
		if _, err := c.Register(ctx, "c-value", one); !errors.Is(err, ErrLost) {
			t.Errorf("registered with it: %v", err)
		}
		if id, err := c.Register(ctx, "a-value", one); id != first || err != nil {
			t.Errorf("what is known is %d, %v", id, err)
		}
	}
	fake.Reset()
	fake.SeedSchema("a-value", 1, first, sr.Schema{Schema: one}) // restored from a copy
	lost("not there any more")
	fake.SeedSchema("b-value", 1, newest+5, sr.Schema{Schema: two})
	lost(fmt.Sprintf("has the id %d now", newest+5))
	fake.Reset()
	fake.SeedSchema("b-value", 1, newest, sr.Schema{Schema: two})
	if err := c.Check(ctx); err != nil {
		t.Errorf("when it has it again: %v", err)
	}
	c.Forget()
	fake.Reset()
	if _, err := c.Register(ctx, "c-value", one); err != nil {
		t.Errorf("registered anew: %v", err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c = client(t, config.Registry{URL: gone.URL})
	c.ids[registration{"a-value", one}], c.newest = 1, registration{"a-value", one}
	if err := c.Check(ctx); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("one that does not answer: %v", err)
	}
}
